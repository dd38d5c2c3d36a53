"""Prepared statements that follow their client over server connections.

The measure is PostgreSQL itself: `direct` is a connection without the pooler.
"""

from __future__ import annotations

import pytest

from wire import (PROTOCOL_3_0, Raw, bind, close_statement, describe_portal, describe_statement, error, execute,
                  kinds, parse, query, rows, sync)


@pytest.fixture
def direct(pg):
    """A connection to PostgreSQL itself, to compare with."""
    raw = Raw((pg.host, pg.port))
    raw.login()
    yield raw
    raw.close()


def run(sql, *values, name=""):
    return [parse(sql, name), bind(values, name), execute(), sync()]


# Bounds

def test_a_client_may_have_so_many_statements_and_is_told_when_it_has_them(doorman):
    one = doorman(general={"client_prepared_statements_max": 3})
    raw, other = one.raw(), one.raw()
    for n in range(3):
        assert kinds(raw.ask(parse(f"select {n}", f"s{n}"), sync())) == "1Z"
    refused = error(raw.ask(parse("select 3", "s3"), sync()))
    assert refused.code == "53400" and "client_prepared_statements_max" in refused.text
    assert "DOORMAN" not in str(refused.fields)
    # What it has goes on working, and so does what has no name.
    assert rows(raw.ask(bind((), "s1"), execute(), sync())) == [[b"1"]]
    assert rows(raw.ask(*run("select 4"))) == [[b"4"]]
    assert error(raw.ask(bind((), "s3"), sync())).code == "26000"
    raw.ask(close_statement("s0"), sync())
    assert kinds(raw.ask(parse("select 3", "s3"), sync())) == "1Z"
    for n in range(3):
        assert kinds(other.ask(parse(f"select {n}", f"s{n}"), sync())) == "1Z"


def test_a_refused_statement_fails_its_transaction_as_any_error_does(doorman):
    raw = doorman(general={"client_prepared_statements_max": 1}).raw()
    raw.ask(parse("select 1", "s1"), sync())
    raw.ask(query("begin"))
    seen = raw.ask(bind((), "s1"), execute(), parse("select 2", "s2"), bind((), "s2"), execute(), sync())
    assert kinds(seen) == "2DCEZ" and error(seen).code == "53400"
    assert raw.status == "E"
    assert error(raw.ask(query("select 1"))).code == "25P02"
    raw.ask(query("rollback"))
    assert raw.status == "I"


@pytest.mark.parametrize("size", [0, 1, 20])
def test_a_server_connection_keeps_no_more_statements_than_it_may(doorman, size):
    raw = doorman(size=1, general={"server_prepared_statements_cache_size": size}).raw()
    for n in range(300):
        assert rows(raw.ask(*run(f"select {n}", name=f"s{n}"))) == [[b"%d" % n]]
    for n in range(300):
        assert rows(raw.ask(bind((), f"s{n}"), execute(), sync())) == [[b"%d" % n]]
    # The last one is closed only in front of the next batch.
    raw.ask(parse(";"), sync())
    standing = int(raw.value("select count(*) from pg_prepared_statements where name like 'DOORMAN%'"))
    assert standing <= max(size, 1) + 1


def test_statements_without_end_take_no_memory(doorman):
    """Named and closed again, and unnamed, pipelined as a hasty driver does."""
    one = doorman(size=2, general={"prepared_statements_cache_size": 500,
                                   "server_prepared_statements_cache_size": 100})
    raw = one.raw()

    def statements(first, count):
        batch = 100
        for start in range(first, first + count, batch):
            parts = []
            for n in range(start, start + batch):
                parts += [parse(f"select {n}, 'a text of some length to be remembered'", "s"), bind((), "s"),
                          execute(), close_statement("s"), *run(f"select -{n}")]
            raw.send(*parts)
            for _ in range(batch):
                assert kinds(raw.read_until("Z")) == "12DC312DCZ"

    statements(0, 3000)
    before = one.resident_kib()
    statements(3000, 12000)
    assert one.resident_kib() - before < 2 * 1024
    assert int(raw.value("select count(*) from pg_prepared_statements")) < 400


# A table is altered under a prepared statement

@pytest.fixture
def altered(pg):
    """A table of one column; call it to give it another."""
    pg.admin("create table altered (n int); insert into altered values (1); alter table altered owner to app",
             database="shop")
    columns = iter("abcdefgh")
    yield lambda: pg.admin(f"alter table altered add {next(columns)} text default 'x'", database="shop")
    pg.admin("drop table altered", database="shop")


ALL = "select * from altered"


@pytest.mark.parametrize("name", ["", "s"])
def test_a_statement_prepared_after_the_change_is_fresh(doorman, altered, name):
    """On the server it is not; the client must not notice."""
    raw = doorman(size=1).raw()
    for columns in range(1, 4):
        seen = raw.ask(parse(ALL, name), describe_statement(name), sync())
        assert kinds(seen) == "1tTZ"
        seen = raw.ask(bind((), name), describe_portal(), execute(), close_statement(name), sync())
        assert kinds(seen) == "2TDC3Z" and len(rows(seen)[0]) == columns
        altered()
        seen = raw.ask(parse(ALL), bind(), describe_portal(), execute(), sync())
        assert kinds(seen) == "12TDCZ" and len(rows(seen)[0]) == columns + 1
        assert raw.status == "I"


def test_every_client_and_every_server_connection_gets_over_it(doorman, altered):
    one = doorman(size=3)
    clients = [one.raw() for _ in range(5)]
    for raw in clients:
        raw.ask(parse(ALL, "s"), sync())
    # All three server connections have it.
    for raw in clients[:3]:
        raw.ask(query("begin"))
        raw.ask(bind((), "s"), execute(), sync())
    for raw in clients[:3]:
        raw.ask(query("end"))
    altered()
    for _ in range(3):
        for raw in clients[:3]:
            raw.ask(query("begin"))
        for raw in clients[:3]:
            raw.ask(query("end"))
        for raw in clients:
            seen = raw.ask(bind((), "s"), describe_portal(), execute(), sync())
            assert kinds(seen) == "2TDCZ" and len(rows(seen)[0]) == 2


def test_a_client_that_does_not_ask_what_it_gets_hears_of_it_as_from_postgresql(doorman, direct, altered):
    """It knows what the rows were when it asked, and would misread them."""
    raw = doorman(size=1).raw()
    for it in (direct, raw):
        it.ask(parse(ALL, "s"), describe_statement("s"), sync())
        it.ask(bind((), "s"), execute(), sync())
    altered()
    for it in (direct, raw, direct, raw):
        refused = error(it.ask(bind((), "s"), execute(), sync()))
        assert (refused.code, refused.text) == ("0A000", "cached plan must not change result type")
    for it in (direct, raw):
        # What drivers do then.
        seen = it.ask(close_statement("s"), parse(ALL, "s"), describe_statement("s"), sync())
        assert kinds(seen) == "31tTZ"
        seen = it.ask(bind((), "s"), execute(), sync())
        assert kinds(seen) == "2DCZ" and len(rows(seen)[0]) == 2


def test_in_a_transaction_it_fails_once(doorman, altered):
    raw = doorman(size=1).raw()
    raw.ask(*run(ALL, name="s"))
    altered()
    raw.ask(query("begin"))
    assert error(raw.ask(bind((), "s"), describe_portal(), execute(), sync())).code == "0A000"
    assert raw.status == "E"
    raw.ask(query("rollback"))
    raw.ask(query("begin"))
    seen = raw.ask(bind((), "s"), describe_portal(), execute(), sync())
    assert kinds(seen) == "2TDCZ" and len(rows(seen)[0]) == 2
    raw.ask(query("commit"))


def test_nothing_is_done_twice(doorman, altered):
    raw = doorman(size=1).raw()
    raw.ask(parse(ALL, "s"), parse("insert into altered values (2)", "i"), sync())
    raw.ask(bind((), "s"), execute(), sync())
    altered()
    seen = raw.ask(bind((), "i"), execute(), bind((), "s"), describe_portal(), execute(), sync())
    assert kinds(seen) == "2CEZ"
    assert raw.value("select count(*) from altered") == "1", "PostgreSQL has undone the insertion"


def test_drivers_do_not_notice(doorman, altered):
    one = doorman(size=2)
    connection = one.connect(prepare_threshold=0)
    for columns in range(1, 4):
        for _ in range(3):
            assert len(connection.execute(ALL).fetchone()) == columns
        altered()
