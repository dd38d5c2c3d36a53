"""`pooler_check_query`: what PostgreSQL has answered is answered again without it, as long as it is true.

What a test sees of whether PostgreSQL was asked: `select clock_timestamp()` has another answer each time.
"""

from __future__ import annotations

import pytest

from wait import wait_until
from wire import bind, error, execute, kinds, parse, query, rows, sync

NOW = "select clock_timestamp()"


@pytest.fixture
def asked_once(doorman):
    """A pooler whose check query tells the time."""
    return doorman(general={"pooler_check_query": NOW})


def time(raw):
    return raw.value(NOW)


def test_the_answer_is_the_same_for_all_until_a_reload_says_otherwise(asked_once):
    one, other = asked_once.raw(), asked_once.raw()
    first = time(one)
    assert time(one) == time(other) == first
    assert one.value(NOW + ";") != first, "byte for byte"
    asked_once.config["general"]["pooler_check_query"] = "select 1"
    asked_once.reload()
    wait_until(lambda: time(one) != first)
    assert time(one) != time(one) and other.value("select 1") == "1"


def test_it_needs_no_server_connection(doorman):
    one = doorman(size=1)
    raw, busy = one.raw(), one.raw()
    assert kinds(raw.ask(query(";"))) == "IZ"
    busy.ask(query("begin"))
    assert kinds(raw.ask(query(";"))) == "IZ" and raw.status == "I"
    # In a transaction it goes where the transaction is.
    assert kinds(busy.ask(query(";"))) == "IZ" and busy.status == "T"
    assert error(busy.ask(query("select 1/0"))).code == "22012"
    assert kinds(busy.ask(query(";"))) == "IZ" and busy.status == "E"


def test_in_a_transaction_postgresql_is_asked(asked_once):
    raw = asked_once.raw()
    before = time(raw)
    raw.ask(query("begin"))
    assert time(raw) != before
    raw.ask(query("commit"))
    assert time(raw) == before


def test_among_other_requests_replies_keep_their_order(asked_once):
    raw = asked_once.raw()
    first = time(raw).encode()
    raw.send(query(NOW), query("select 1"), query(NOW), parse("select 2"), bind(), execute(), sync(), query(NOW))
    replies = [raw.read_until() for _ in range(5)]
    assert [kinds(each) for each in replies] == ["TDCZ", "TDCZ", "TDCZ", "12DCZ", "TDCZ"]
    values = [rows(each)[0][0] for each in replies]
    assert values[0] == first and values[1] == b"1" and values[3] == b"2"


def test_an_error_is_not_kept(doorman, pg):
    raw = doorman(general={"pooler_check_query": "select count(*) from later"}).raw()
    assert error(raw.ask(query("select count(*) from later"))).code == "42P01"
    pg.admin("create table later (); grant select on later to app", database="shop")
    try:
        assert raw.value("select count(*) from later") == "0"
    finally:
        pg.admin("drop table later", database="shop")


def test_a_postgresql_that_is_gone_is_noticed(asked_once, pg):
    raw = asked_once.raw()
    first = time(raw)
    pg.stop()
    try:
        wait_until(lambda: asked_once.pool()["sv_idle"] == 0)
        assert error(raw.ask(query(NOW))).code == "08006"
    finally:
        pg.start_again()
    assert asked_once.raw().value(NOW) != first


@pytest.mark.parametrize("command", ["reconnect", "terminate"])
def test_after_new_connections_it_is_asked_again(asked_once, pg, command):
    raw = asked_once.raw()
    first = time(raw)
    if command == "reconnect":
        asked_once.console("reconnect")
    else:
        pg.terminate(*pg.pids())
    wait_until(lambda: time(raw) != first)
