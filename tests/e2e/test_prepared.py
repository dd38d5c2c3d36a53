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
