"""Prepared statements that follow their client over server connections.

The measure is PostgreSQL itself: `direct` is a connection without the pooler.
"""

from __future__ import annotations

import pytest

from wait import wait_until
from wire import (Raw, bind, close_statement, describe_portal, describe_statement, error, execute,
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
    refused = 0
    for _ in range(3):
        for raw in clients[:3]:
            raw.ask(query("begin"))
        for raw in clients[:3]:
            raw.ask(query("end"))
        for raw in clients:
            seen = raw.ask(bind((), "s"), execute(), sync())
            if kinds(seen) == "EZ":
                assert error(seen).code == "0A000"
                refused += 1
                raw.ask(close_statement("s"), parse(ALL, "s"), sync())
                seen = raw.ask(bind((), "s"), execute(), sync())
            assert kinds(seen) == "2DCZ" and len(rows(seen)[0]) == 2
    assert refused == len(clients), "each once, whatever connection it gets"


def test_a_client_that_runs_what_it_prepared_before_hears_of_it_as_from_postgresql(doorman, direct, altered):
    """It knows what the rows were when it asked. DBD::Pg and PDO crash on others, pgx asks for their formats."""
    raw = doorman(size=1).raw()
    for it in (direct, raw):
        it.ask(parse(ALL, "s"), describe_statement("s"), sync())
        it.ask(bind((), "s"), execute(), sync())
    altered()
    for ask in ([], [describe_portal()], []):
        for it in (direct, raw):
            refused = error(it.ask(bind((), "s"), *ask, execute(), sync()))
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
    seen = raw.ask(close_statement("s"), *run(ALL, name="s"))
    assert kinds(seen) == "312DCZ" and len(rows(seen)[0]) == 2
    raw.ask(query("commit"))


def test_nothing_is_done_twice(doorman, altered):
    raw = doorman(size=1).raw()
    raw.ask(parse(ALL, "s"), parse("insert into altered values (2)", "i"), sync())
    raw.ask(bind((), "s"), execute(), sync())
    altered()
    seen = raw.ask(bind((), "i"), execute(), bind((), "s"), describe_portal(), execute(), sync())
    assert kinds(seen) == "2CEZ"
    assert raw.value("select count(*) from altered") == "1", "PostgreSQL has undone the insertion"


def send_elsewhere(one, raw):
    """Keeps busy the server connection that the client used last, of two; returns who does."""
    used = raw.value("select pg_backend_pid()")
    holders = [one.raw(), one.raw()]
    for holder in holders:
        holder.ask(query("begin"))
    keeper, other = sorted(holders, key=lambda holder: holder.value("select pg_backend_pid()") != used)
    other.ask(query("end"))
    return keeper


@pytest.mark.parametrize("ask", [[describe_statement("s")], [bind((), "s"), describe_portal(), execute()]],
                         ids=["statement", "portal"])
@pytest.mark.parametrize("block", [False, True], ids=["alone", "in a block"])
def test_rows_of_another_shape_are_refused_also_where_the_statement_does_not_stand(doorman, direct, altered, ask, block):
    """The client was told what the rows are, the table has got another column since, and the server connection
    that it gets next has never seen the statement, so PostgreSQL sees nothing wrong."""
    one = doorman(size=2)
    raw = one.raw()
    for it in (direct, raw):
        it.ask(parse(ALL, "s"), sync())
        it.ask(*ask, sync())
    one.raw().ask(query("alter table altered add more int"))
    keeper = send_elsewhere(one, raw)
    if block:
        for it in (direct, raw):
            it.ask(query("begin"))
    for it in (direct, raw):
        seen = it.ask(bind((), "s"), execute(), sync())
        assert kinds(seen) == "EZ"
        assert (error(seen).code, error(seen).text) == ("0A000", "cached plan must not change result type")
        assert error(seen).fields["R"] == "RevalidateCachedQuery", "asyncpg and JDBC look at that"
        assert it.status == ("E" if block else "I")
        if block:
            assert error(it.ask(query("select 1"))).code == "25P02"
            it.ask(query("rollback"))
        # What drivers do then.
        seen = it.ask(close_statement("s"), parse(ALL, "s"), describe_statement("s"), sync())
        assert kinds(seen) == "31tTZ"
        seen = it.ask(bind((), "s"), execute(), sync())
        assert kinds(seen) == "2DCZ" and len(rows(seen)[0]) == 2
    keeper.ask(query("end"))


def test_rows_of_the_same_shape_are_given_whatever_else_was_defined(doorman, altered):
    one = doorman(size=2)
    raw = one.raw()
    raw.ask(parse(ALL, "s"), describe_statement("s"), sync())
    for _ in range(3):
        one.raw().ask(query("create table unrelated (n int); drop table unrelated"))
        keeper = send_elsewhere(one, raw)
        # All in one write, with a statement of another name in front.
        seen = raw.ask(parse("select 2"), bind(), execute(), bind((), "s"), execute(), sync())
        assert kinds(seen) == "12DC2DCZ" and rows(seen) == [[b"2"], [b"1"]]
        keeper.ask(query("end"))


def test_libpq_with_statements_of_no_name_does_not_notice(doorman, altered):
    one = doorman(size=2)
    connection = one.connect()
    for columns in range(1, 4):
        for _ in range(3):
            # Parameters make it Parse, Bind, Describe, Execute.
            assert len(connection.execute(ALL + " where n = %s", (1,)).fetchone()) == columns
        altered()


# A Parse is a new analysis

def test_an_unnamed_statement_is_analysed_anew_each_time(doorman, mode):
    """The constant is the time of its analysis, in PostgreSQL too."""
    one = doorman(mode=mode, size=1)
    raw, seen = one.raw(), set()
    for _ in range(6):
        seen.add(rows(raw.ask(*run("select 'now'::timestamptz::text where $1 = '1'", "1")))[0][0])
    assert len(seen) == 6


def test_unnamed_statements_leave_nothing_on_the_server(doorman):
    one = doorman(size=1)
    raw = one.raw()
    for n in range(200):
        assert rows(raw.ask(*run(f"select {n}"))) == [[b"%d" % n]]
    # And no generic plan is made of what nobody has prepared.
    assert raw.value("select count(*) from pg_prepared_statements") == "0"
    assert rows(raw.ask(parse("select 7"), sync())) == []
    for _ in range(3):
        assert rows(raw.ask(bind(), execute(), sync())) == [[b"7"]]


@pytest.fixture
def events(pg):
    pg.admin("create table events (at timestamp, n int); alter table events owner to app", database="shop")
    yield "insert into events values ($1, $2) returning at at time zone 'UTC' = '2024-01-01 10:00', n"
    pg.admin("drop table events", database="shop")


@pytest.mark.parametrize("name", ["", "s"])
@pytest.mark.parametrize("past", [False, True], ids=["through the pooler", "past it"])
def test_parameters_have_the_types_that_columns_have_now(doorman, pg, events, name, past):
    """With the old ones the offset of a time would be dropped without a word."""
    one = doorman(size=1)
    first = one.raw()
    first.ask(parse(events, name), bind(["2024-01-01 12:00", "1"], name), execute(), sync())
    change = "alter table events alter at type timestamptz, alter n type bigint"
    if past:
        pg.admin(change, database="shop")
    else:
        one.raw().ask(query(change))
    new = one.raw()
    seen = new.ask(parse(events, name), bind(["2024-01-01 12:00+02", "5000000000"], name), execute(), sync())
    assert rows(seen) == [[b"t", b"5000000000"]]


def test_what_is_defined_anew_past_the_pooler_is_analysed_anew(doorman, pg):
    """PostgreSQL itself finds the old analysis wrong."""
    pg.admin("create type mood as enum ('good'); alter type mood owner to app", database="shop")
    one = doorman(size=1)
    text = "select $1::mood::text"
    assert rows(one.raw().ask(*run(text, "good", name="s"))) == [[b"good"]]
    pg.admin("drop type mood; create type mood as enum ('bad'); alter type mood owner to app", database="shop")
    for _ in range(3):
        assert rows(one.raw().ask(*run(text, "bad", name="s"))) == [[b"bad"]]
    # A client's own mistake is told as it is, and what others use stays.
    count = "select count(*) from pg_prepared_statements where statement like '%mood%'"
    raw = one.raw()
    before = raw.value(count)
    for n in range(5):
        refused = error(raw.ask(*run(text, "ugly", name=f"s{n}")))
        assert (refused.code, refused.text) == ("22P02", 'invalid input value for enum mood: "ugly"')
    assert rows(raw.ask(bind(["bad"], "s4"), execute(), sync())) == [[b"bad"]]
    assert raw.value(count) == before
    pg.admin("drop type mood", database="shop")


@pytest.mark.parametrize("how", ["select 'x'::text as x into s1.t", "create table s1.t as select 'x'::text as x",
    "explain analyze create table s1.t as select 'x'::text as x", "create table s1.t as select 'x'::text as x with no data"])
def test_a_table_made_by_a_query_hides_another(doorman, pg, how):
    pg.admin("create schema s1; grant all on schema s1 to app; create table t (x int); grant all on t to app", database="shop")
    try:
        one = doorman(size=1)
        first, text = one.raw(options="-c search_path=s1,public"), "select pg_typeof(coalesce($1, x))::text from (select 1) as n left join t on true"
        assert rows(first.ask(*run(text, "7", name="a"))) == [[b"integer"]]
        first.ask(query(how))
        assert rows(first.ask(*run(text, "seven", name="b"))) == [[b"text"]]
    finally:
        pg.admin("drop schema s1 cascade; drop table t", database="shop")


def test_errors_speak_of_a_statement_by_the_name_that_was_used(doorman):
    raw = doorman(size=1).raw()
    raw.ask(parse("select 1", "one"), parse("select 1", "two"), parse("select 1", "three"), sync())
    for name in ("one", "two", "three", "one"):
        refused = error(raw.ask(bind(["x"], name), execute(), sync()))
        assert refused.text == f'bind message supplies 1 parameters, but prepared statement "{name}" requires 0'
    # Under other settings it is another on the server.
    raw.ask(query("set timezone = 'Asia/Tokyo'"))
    refused = error(raw.ask(bind(["x"], "two"), execute(), sync()))
    assert refused.text == 'bind message supplies 1 parameters, but prepared statement "two" requires 0'


def test_names_are_told_apart_by_their_first_63_bytes(doorman, pg):
    long = "n" * 63
    raw = doorman(size=1).raw()
    assert kinds(raw.ask(parse("select 1", long + "a"), sync())) == "1Z"
    refused = error(raw.ask(parse("select 2", long + "b"), sync()))
    assert (refused.code, refused.text) == ("42P05", f'prepared statement "{long}b" already exists')
    assert rows(raw.ask(bind((), long + "c"), execute(), sync())) == [[b"1"]]
    assert kinds(raw.ask(describe_statement(long), sync())) == "tTZ"
    refused = error(raw.ask(bind(["x"], long + "d"), execute(), sync()))
    assert f'"{long}d"' in refused.text
    raw.ask(query(f"deallocate {long}e"))
    assert error(raw.ask(bind((), long + "f"), sync())).text == f'prepared statement "{long}f" does not exist'
    raw.ask(parse("select 3", long + "g"), close_statement(long + "h"), sync())
    assert kinds(raw.ask(parse("select 4", long), sync())) == "1Z"


def test_a_fresh_parse_in_a_block_is_fresh(doorman, altered):
    one = doorman(size=1)
    raw = one.raw()
    raw.ask(*run(ALL))
    altered()
    raw.ask(query("begin"))
    assert len(rows(raw.ask(*run(ALL)))[0]) == 2 and raw.status == "T"
    # Named, where the table is altered through the pooler, by oneself or by somebody else.
    raw.ask(query("commit"))
    raw.ask(*run(ALL, name="a"))
    one.raw().ask(query("alter table altered add more int"))
    raw.ask(query("begin"))
    assert len(rows(raw.ask(*run(ALL, name="b")))[0]) == 3
    raw.ask(query("alter table altered add yet_more int"))
    assert len(rows(raw.ask(*run(ALL, name="c")))[0]) == 4 and raw.status == "T"
    # All in one write.
    raw.send(query("alter table altered drop more"), *run(ALL, name="d"))
    raw.read_until("Z")
    assert len(rows(raw.read_until("Z"))[0]) == 3
    raw.ask(query("commit"))


def test_temporary_tables_of_one_name_and_other_columns(doorman):
    one = doorman(size=1)
    for kind, value in (("int", "7"), ("text", "seven"), ("date", "2024-01-01")):
        raw = one.raw()
        raw.ask(query("begin"))
        raw.ask(query(f"create temp table t (x {kind}) on commit drop"))
        seen = raw.ask(parse("insert into t values ($1) returning x", "s"), bind([value], "s"), execute(), sync())
        assert rows(seen) == [[value.encode()]]
        raw.ask(query("commit"))


def test_a_type_that_is_created_anew(doorman):
    one = doorman(size=1)
    try:
        for labels in ("'a'", "'b'"):
            one.raw().ask(query(f"drop type if exists mood; create type mood as enum ({labels})"))
            label = labels.strip("'")
            seen = one.raw().ask(parse("select $1::mood", "s"), bind([label], "s"), execute(), sync())
            assert rows(seen) == [[label.encode()]]
    finally:
        one.raw().ask(query("drop type mood"))


def test_a_constant_of_its_time_is_shared_by_nobody(doorman):
    one = doorman(size=1)
    seen = set()
    for _ in range(4):
        raw = one.raw()
        seen.add(rows(raw.ask(*run("select 'now'::timestamptz::text", name="s")))[0][0])
    assert len(seen) == 4


# The books and PostgreSQL

def test_portals_that_deallocate_are_told_apart(doorman, direct):
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    for it in (raw, direct):
        it.ask(parse("select 'a'", "a"), parse("select 'b'", "b"), parse("deallocate a", "da"),
               parse("deallocate b", "db"), sync())
        seen = it.ask(bind((), "da", "pa"), bind((), "db", "pb"), execute("pb"), sync())
        assert kinds(seen) == "22CZ"
    for name in "ab":
        step = [bind((), name), execute(), sync()]
        assert gist(raw.ask(*step)) == gist(direct.ask(*step))
        assert rows(other.ask(parse(f"select '{name}'", name), bind((), name), execute(), sync())) == [[name.encode()]]


@pytest.fixture
def forgetful(pg):
    pg.admin("create function forget() returns int language plpgsql as "
             "$$ begin execute 'deal' || 'locate all'; return 1; end $$", database="shop")
    yield "select forget()"
    pg.admin("drop function forget()", database="shop")


@pytest.mark.parametrize("speak", [lambda sql: [query(sql)], run], ids=["simple", "extended"])
def test_a_function_that_deallocates_everything_is_noticed_by_nobody(doorman, forgetful, speak):
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    for it in (raw, other):
        it.ask(*run("select 's'", name="s"))
    for _ in range(2):
        raw.ask(*speak(forgetful))
        for it in (raw, other):
            assert rows(it.ask(bind((), "s"), execute(), sync())) == [[b"s"]]
        assert rows(one.raw().ask(*run("select 's'", name="s"))) == [[b"s"]]
    one.wait_log("behind the pooler's back")


def test_in_a_block_its_client_loses_the_session(doorman, forgetful):
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    raw.ask(*run("select 's'", name="s"))
    other.ask(*run("select 's'", name="s"))
    raw.ask(query("begin"))
    raw.ask(query(forgetful))
    seen = raw.ask(bind((), "s"), execute(), sync())
    assert error(seen).code == "08006" and "DOORMAN" not in error(seen).text
    assert rows(other.ask(bind((), "s"), execute(), sync())) == [[b"s"]]


@pytest.mark.parametrize("sql", ['execute "DOORMAN_0"', 'select 1; execute "DOORMAN_0"', 'explain execute "DOORMAN_0"',
                                 'deallocate "DOORMAN_0"', 'select 1; deallocate "DOORMAN_0"',
                                 'prepare "DOORMAN_0" as select 1'])
@pytest.mark.parametrize("speak", [lambda sql: [query(sql)], run], ids=["simple", "extended"])
def test_sql_reaches_no_statement_by_the_name_it_has_on_the_server(doorman, sql, speak):
    if ";" in sql and speak is run:
        pytest.skip("one statement in a Parse")
    one = doorman(size=1)
    one.raw().ask(*run("select 'mine'", name="mine"))
    curious = one.raw()
    for block in ([], ["begin"]):
        for word in block:
            curious.ask(query(word))
        refused = error(curious.ask(*speak(sql)))
        assert (refused.code, refused.text) == ("26000", 'prepared statement "DOORMAN_0" does not exist')
        assert curious.status == ("E" if block else "I")


# What a client may have the pooler keep

def test_a_client_may_have_so_many_bytes_of_statements(doorman):
    one = doorman(general={"client_memory_limit": "1MB"})
    raw, other = one.raw(), one.raw()
    text = "select length('" + "x" * 400_000 + "')"
    for n in range(2):
        assert kinds(raw.ask(parse(text, f"s{n}"), sync())) == "1Z"
    refused = error(raw.ask(parse(text, "s2"), sync()))
    assert refused.code == "53200" and "client_memory_limit" in refused.text
    assert rows(raw.ask(bind((), "s1"), execute(), sync())) == [[b"400000"]]
    assert kinds(raw.ask(close_statement("s0"), parse(text, "s2"), sync())) == "31Z"
    # One that is larger than all it may have is not waited for.
    assert error(other.ask(parse("select '" + "x" * 2_000_000 + "'"), sync())).code == "53200"
    assert rows(other.ask(*run("select 1"))) == [[b"1"]]


def test_a_server_connection_keeps_so_many_bytes(doorman):
    raw = doorman(size=1, general={"server_prepared_statements_memory": "100kB"}).raw()
    for n in range(50):
        raw.ask(*run(f"select {n}, length('{'x' * 10_000}')", name=f"s{n}"))
    raw.ask(parse(";"), sync())
    assert int(raw.value("select sum(length(statement)) from pg_prepared_statements")) <= 120_000
    for n in range(50):
        assert rows(raw.ask(bind((), f"s{n}"), execute(), sync())) == [[b"%d" % n, b"10000"]]


# A Close needs no server connection

def test_close_and_sync_wait_for_nobody(doorman):
    one = doorman(size=1)
    raw, busy = one.raw(), one.raw()
    raw.ask(parse("select 1", "s"), parse("select 2"), sync())
    busy.ask(query("begin"))
    for step in ([close_statement("s"), sync()], [close_statement("nothing"), sync()], [close_statement(), sync()]):
        assert kinds(raw.ask(*step)) == "3Z"
    busy.ask(query("end"))
    for name in ("s", ""):
        assert error(raw.ask(bind((), name), execute(), sync())).code == "26000"
    assert kinds(raw.ask(parse("select 1", "s"), sync())) == "1Z"


# The same text under other settings is another statement

@pytest.fixture
def schemas(pg):
    """The same table in two schemas, with columns of different types."""
    pg.admin("create schema one; create table one.t (x int, y text); insert into one.t values (1, 'from one');"
             "create schema two; create table two.t (x text, y int); insert into two.t values ('1', 2);"
             "grant usage on schema one, two to app, team; grant select on all tables in schema one, two to app, team;",
             database="shop")
    yield
    pg.admin("drop schema one cascade; drop schema two cascade", database="shop")


BY_X = "select y from t where x = $1"
FOUND = {"one": b"from one", "two": b"2"}


def says_postgresql(pg, path, *batch):
    raw = Raw((pg.host, pg.port))
    raw.login(search_path=path)
    seen = raw.ask(*batch)
    raw.close()
    return [m for m in seen if m.kind not in "SNA"]


@pytest.mark.parametrize("name", ["", "s"])
def test_clients_with_other_search_paths(doorman, pg, schemas, name):
    """PostgreSQL infers the types of parameters when it parses, and of the result: neither is shared."""
    one = doorman(size=1)
    clients = {path: one.raw(search_path=path) for path in ("one", "two")}
    for _ in range(3):
        for path, raw in clients.items():
            batch = [parse(BY_X, name), describe_statement(name), bind(["1"], name), describe_portal(), execute(),
                     close_statement(name), sync()]
            seen = [m for m in raw.ask(*batch) if m.kind not in "SNA"]
            assert kinds(seen) == "1tT2TDC3Z" and rows(seen) == [[FOUND[path]]]
            # The table's number apart, which differs by nature, nothing differs.
            assert seen == says_postgresql(pg, path, *batch)


HOW = {
    "set": "set search_path = {}",
    "set local": "set local search_path to {}",
    "set schema": "set schema '{}'",
    "set_config": "select set_config('search_path', '{}', true)",
    "in a do block": "do $$ begin set local search_path = {}; end $$",
}


@pytest.mark.parametrize("speak", [lambda sql: [query(sql)], run], ids=["simple", "extended"])
@pytest.mark.parametrize("how", HOW)
def test_a_search_path_changed_in_the_transaction(doorman, pg, schemas, how, speak):
    """What was prepared before is refused by PostgreSQL if its rows are others now; what is prepared behind the
    change is read under it."""
    one = doorman(size=1)
    raw, other = one.raw(search_path="one"), one.raw(search_path="one")
    direct = Raw((pg.host, pg.port))
    direct.login(search_path="one")
    change = speak(HOW[how].format("two"))
    steps = [[parse(BY_X, "s"), bind(["1"], "s"), execute(), sync()],
             [query("begin")], change, [bind(["1"], "s"), execute(), sync()], [query("rollback")],
             [bind(["1"], "s"), describe_portal(), execute(), sync()],
             [query("begin")], change, [parse(BY_X), bind(["1"]), execute(), sync()],
             [parse(BY_X, "t"), bind(["1"], "t"), execute(), sync()], [query("rollback")],
             [bind(["1"], "s"), execute(), close_statement("s"), close_statement("t"), sync()]]
    for _ in range(3):
        for step in steps:
            seen = raw.ask(*step)
            assert [(m.kind, m.body) for m in seen if m.kind in "CDZ"] == [
                (m.kind, m.body) for m in direct.ask(*step) if m.kind in "CDZ"], step
        assert rows(other.ask(*run(BY_X, "1"))) == [[FOUND["one"]]]
    direct.close()


def test_what_was_told_under_one_search_path_holds_under_another(doorman, pg, schemas):
    """Whatever server connection the statement is run on."""
    sql = "select x from t"
    for size in (1, 2):
        one = doorman(size=size)
        raw, direct = one.raw(), Raw((pg.host, pg.port))
        direct.login()
        for it in (raw, direct):
            it.ask(query("set search_path = one"))
            it.ask(parse(sql, "a"), describe_statement("a"), sync())
            it.ask(query("set search_path = two"))
        keeper = send_elsewhere(one, raw) if size > 1 else None
        for _ in range(2):
            for it in (raw, direct):
                assert error(it.ask(bind((), "a"), execute(), sync())).code == "0A000"
        for it in (raw, direct):
            it.ask(query("set search_path = one"))
            assert rows(it.ask(bind((), "a"), execute(), sync())) == [[b"1"]]
        direct.close()
        if keeper:
            keeper.close()


def test_a_search_path_that_a_savepoint_takes_back(doorman, schemas):
    one = doorman(size=1)
    raw, other = one.raw(search_path="one"), one.raw(search_path="one")
    raw.ask(query("begin; savepoint s"))
    raw.ask(query("set local search_path = two"))
    assert rows(raw.ask(*run(BY_X, "1"))) == [[FOUND["two"]]]
    raw.ask(query("rollback to s"))
    assert rows(raw.ask(*run(BY_X, "1"))) == [[FOUND["one"]]]
    raw.ask(query("set local search_path = two"))
    assert rows(raw.ask(*run(BY_X, "1"))) == [[FOUND["two"]]]
    raw.ask(query("commit"))
    assert rows(other.ask(*run(BY_X, "1"))) == [[FOUND["one"]]]


def test_all_in_one_write(doorman, schemas):
    raw = doorman(size=1).raw(search_path="one")
    again = run(BY_X, "1")
    for _ in range(2):
        raw.send(*again, query("begin"), query("set local search_path = two"), *again, query("commit"), *again)
        replies = [raw.read_until("Z") for _ in range(6)]
        assert [rows(seen) for seen in replies] == [[[FOUND["one"]]], [], [], [[FOUND["two"]]], [], [[FOUND["one"]]]]
        raw.send(query("begin; set local search_path = two"), *again, query("commit"), *again)
        replies = [raw.read_until("Z") for _ in range(4)]
        assert [rows(seen) for seen in replies] == [[], [[FOUND["two"]]], [], [[FOUND["one"]]]]


@pytest.mark.parametrize("role", ["set local role team", "set role team", "set session authorization app"])
def test_another_role_with_a_schema_of_its_own(doorman, pg, schemas, role):
    """The same search_path, "$user", means another schema."""
    pg.admin("create schema app; create table app.t (x int, y text); insert into app.t values (1, 'from one');"
             "create schema team; create table team.t (x text, y int); insert into team.t values ('1', 2);"
             "grant usage on schema app, team to app, team; grant select on app.t, team.t to app, team",
             database="shop")
    try:
        raw = doorman(size=1).raw()
        of_role = FOUND["two"] if "team" in role else FOUND["one"]
        for _ in range(3):
            assert rows(raw.ask(*run(BY_X, "1"))) == [[FOUND["one"]]]
            raw.ask(query("begin"))
            raw.ask(query(role))
            assert rows(raw.ask(*run(BY_X, "1"))) == [[of_role]]
            raw.ask(query("commit"))
    finally:
        pg.admin("drop schema app cascade; drop schema team cascade", database="shop")


@pytest.mark.parametrize("setting, values, sql", [
    ("datestyle", ["ISO, MDY", "ISO, DMY"], "select '01/02/2020'::date"),
    ("timezone", ["UTC", "Asia/Tokyo"], "select extract(epoch from '2020-01-01 00:00'::timestamptz)"),
    ("standard_conforming_strings", ["on", "off"], r"select 'a\\b'"),
    ("client_encoding", ["UTF8", "LATIN1"], "select length('\u00e9')"),
    ("intervalstyle", ["postgres", "sql_standard"], "select extract(epoch from '-1 2:00'::interval)"),
])
@pytest.mark.parametrize("when", ["at startup", "later"])
def test_constants_are_read_under_the_clients_own_settings(doorman, pg, setting, values, sql, when):
    """PostgreSQL reads the constants in a statement when it parses it."""
    one = doorman(size=1)
    clients = []
    for value in values:
        raw = one.raw(**{setting: value}) if when == "at startup" else one.raw()
        if when == "later":
            raw.ask(query(f"set {setting} = '{value}'"))
        direct = Raw((pg.host, pg.port))
        direct.login(**{setting: value})
        clients.append((raw, direct))
    assert rows(clients[0][1].ask(*run(sql))) != rows(clients[1][1].ask(*run(sql)))
    for _ in range(2):
        for raw, direct in clients:
            assert rows(raw.ask(*run(sql))) == rows(direct.ask(*run(sql)))
    for raw, direct in clients:
        direct.close()


def test_what_does_not_matter_to_a_text_parts_no_statements(doorman):
    one = doorman(size=1)
    plain, hasty = one.raw(), one.raw(statement_timeout="5s", application_name="hasty")
    for raw in (plain, hasty):
        raw.ask(query("begin"))
        raw.ask(query("set local lock_timeout = '1s'"))
        raw.ask(query("select set_config('app.tenant', 'x', true)"))
        raw.ask(*run("select 42", name="s"))
        raw.ask(query("commit"))
    assert raw.value("select count(*) from pg_prepared_statements where statement = 'select 42'") == "1"


# What ends a statement, with the right tags, errors and status

def gist(seen):
    """Kinds, tags, errors and status: all that a client can tell two servers apart by."""
    return [(m.kind, m.tag if m.kind == "C" else (m.code, m.text) if m.kind == "E" else m.body)
            for m in seen if m.kind not in "SNA"]


ENDS = {
    "deallocate": [query("deallocate s")],
    "deallocate prepare": [query("DEALLOCATE\tPREPARE s ;")],
    "deallocate quoted": [query('deallocate "s"')],
    "deallocate with other case": [query("deallocate S")],
    "deallocate a quoted name of other case": [query('deallocate "S"')],
    "deallocate behind a comment": [query("/* bye */ deallocate s -- now")],
    "deallocate what is not there": [query("deallocate nothing")],
    "deallocate all": [query("deallocate all")],
    "deallocate prepare all": [query("DEALLOCATE PREPARE ALL;")],
    "discard all": [query("discard all")],
    "discard plans": [query("discard plans")],
    "close": [close_statement("s"), sync()],
    "close twice": [close_statement("s"), close_statement("s"), sync()],
    "close what is not there": [close_statement("nothing"), sync()],
    "close the unnamed one": [close_statement(""), sync()],
    "a query ends the unnamed one": [query("")],
    "a failed parse ends the unnamed one": [parse("selec"), sync()],
    "deallocate by parse": [*run("deallocate s"), parse("select 'unnamed'"), sync()],
    "deallocate all by parse": run("deallocate all", name="all"),
    "a batch that fails before it comes to close": [bind((), "nothing"), close_statement("s"), sync()],
    "a batch that fails after close": [close_statement("s"), bind((), "nothing"), sync()],
}


@pytest.mark.parametrize("block", [[], ["begin"], ["begin", "select 1/0"]],
                         ids=["outside", "in a transaction", "in a failed one"])
@pytest.mark.parametrize("end", ENDS)
def test_what_ends_a_statement_ends_it_as_in_postgresql(doorman, direct, end, block):
    raw = doorman(size=2).raw()
    for it in (raw, direct):
        it.ask(parse("select 's'", "s"), sync())
        for sql in block:
            it.ask(query(sql))
        it.ask(parse("select 'unnamed'"), sync())
    steps = [ENDS[end], [bind((), "s"), execute(), sync()], [bind(), execute(), sync()], [query("rollback")],
             [bind((), "s"), describe_portal(), execute(), sync()], [bind(), execute(), sync()],
             [parse("select 'new'", "s"), sync()], [bind((), "s"), execute(), sync()]]
    for step in steps:
        if b"".join(step).count(b"S\0\0\0\4") > 1:
            raw.send(*step)
            direct.send(*step)
            for _ in range(2):
                assert gist(raw.read_until("Z")) == gist(direct.read_until("Z"))
        else:
            assert gist(raw.ask(*step)) == gist(direct.ask(*step))
        assert raw.status == direct.status


@pytest.mark.parametrize("how", ["bind", "describe", "close", "deallocate", "deallocate by parse", "in a longer query",
                                 "prepare"])
@pytest.mark.parametrize("block", [[], ["begin"]], ids=["outside", "in a transaction"])
def test_the_name_a_statement_has_on_the_server_reaches_nothing(doorman, direct, how, block):
    """Neither to use another client's statement nor to take it away."""
    one = doorman(size=1)
    victim, curious = one.raw(), one.raw()
    assert rows(victim.ask(*run("select 'mine'", name="mine"))) == [[b"mine"]]
    name = victim.value("select name from pg_prepared_statements where statement like '%mine%'")
    assert name.startswith("DOORMAN_")
    batch = {
        "bind": [bind((), name), execute(), sync()],
        "describe": [describe_statement(name), sync()],
        "close": [close_statement(name), sync()],
        "deallocate": [query(f'deallocate "{name}"')],
        "deallocate by parse": run(f'deallocate "{name}"'),
        "in a longer query": [query(f'select 1; deallocate "{name}"')],
        "prepare": [query(f'prepare "{name}" as select 1')],
    }[how]
    for sql in block:
        curious.ask(query(sql))
        direct.ask(query(sql))
    got, alone = curious.ask(*batch), direct.ask(*batch)
    if how in ("bind", "describe", "close", "deallocate"):
        assert gist(got) == gist(alone)
    elif how != "prepare":
        assert error(got).text == error(alone).text
    assert how == "prepare" or curious.status == direct.status
    curious.ask(query("rollback"))
    for _ in range(2):
        assert rows(victim.ask(bind((), "mine"), execute(), sync())) == [[b"mine"]]
    assert rows(victim.ask(*run("select 'mine'"))) == [[b"mine"]]


@pytest.mark.parametrize("prepared", [True, False])
def test_the_unnamed_statement_of_another_client_is_not_found(doorman, prepared, mode):
    one = doorman(mode=mode, size=1, general={"prepared_statements": prepared})
    first = one.raw()
    first.ask(*run("select 'mine'"))
    first.close()
    second = one.raw()
    refused = error(second.ask(bind(), execute(), sync()))
    assert (refused.code, refused.text) == ("26000", "unnamed prepared statement does not exist")
    assert rows(second.ask(*run("select 'own'"))) == [[b"own"]]


def test_errors_and_the_log_speak_of_the_clients_own_names(doorman, direct):
    one = doorman("-l", "debug", size=1)
    raw = one.raw()
    long = "n" * 60
    for it in (raw, direct):
        it.ask(parse("select $1::int, $2::int", "s"), parse("select 1", long), sync())
    for batch in ([bind(["1"], "s"), sync()], [bind(["x", "1"], "s"), sync()], [parse("select 2", "s"), sync()],
                  [bind((), "nothing"), sync()], [bind(["1"], long), sync()], [execute("p"), sync()],
                  [parse("select 1" + " -- long" * 2000, "s"), sync()]):
        assert gist(raw.ask(*batch)) == gist(direct.ask(*batch))
    one.wait_log("bind message supplies 1 parameters")
    assert "DOORMAN" not in one.log()


def test_prepare_and_execute_in_sql_live_as_long_as_the_transaction(doorman, direct):
    """What the manual says; and nobody else's are reached."""
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    for it in (raw, direct):
        for sql in ("begin", "prepare q(int) as select $1 + 1", "execute q(41)"):
            seen = it.ask(query(sql))
        assert rows(seen) == [[b"42"]]
        # By the protocol too: it is the same statement.
        assert rows(it.ask(bind(["1"], "q"), execute(), sync())) == [[b"2"]]
        it.ask(query("commit"))
    assert error(other.ask(query("execute q(1)"))).code == "26000"
    assert error(raw.ask(query("execute q(1)"))).code == "26000"


# SQL speaks of what the protocol has prepared

@pytest.mark.parametrize("block", [False, True], ids=["alone", "in a block"])
def test_a_prepared_deallocate_is_about_what_the_name_means_when_it_runs(doorman, direct, mode, block):
    """Some drivers prepare whatever they are given, and run it in another transaction, or more than once."""
    one = doorman(mode=mode, size=1)
    raw, other = one.raw(), one.raw()
    ask = [bind((), "q"), execute(), sync()]
    for it in (raw, direct):
        it.ask(parse("deallocate q", "d"), sync())
    for value in ("first", "second", "third"):
        for it in (raw, direct):
            assert kinds(it.ask(parse(f"select '{value}'", "q"), sync())) == "1Z"
        if mode == "transaction":
            other.ask(parse(f"select '{value}'", value), sync())
        if block:
            for it in (raw, direct):
                it.ask(query("begin"))
        steps = [ask, [bind((), "d"), execute(), sync()], ask]
        if block:
            steps.append([query("rollback")])
        steps += [[describe_statement("d"), sync()], [bind((), "d"), execute(), sync()], ask]
        for step in steps:
            assert gist(raw.ask(*step)) == gist(direct.ask(*step)), step
        if mode == "transaction":
            assert rows(other.ask(bind((), value), execute(), sync())) == [[value.encode()]]


@pytest.mark.parametrize("sql", ["execute q(41)", "explain execute q(41)", "create temp table t as execute q(41)",
                                 "select 1; execute q(1)", "deallocate q; select 1"])
@pytest.mark.parametrize("speak", [lambda sql: [query(sql)], run], ids=["simple", "extended"])
def test_sql_finds_no_statement_of_the_protocols_and_the_client_is_told_why(doorman, sql, speak):
    raw = doorman(size=1).raw()
    raw.ask(parse("select $1::int", "q"), sync())
    refused = error(raw.ask(*speak(sql)))
    if ";" not in sql or speak is not run:
        assert refused.code == "26000" and "prepared by the protocol" in refused.fields["H"]
    assert rows(raw.ask(bind(["1"], "q"), execute(), sync())) == [[b"1"]]
    # What was never prepared is nothing special.
    assert "H" not in error(raw.ask(query("execute nosuch"))).fields


@pytest.mark.parametrize("sql", ["execute q(41)", "explain (costs off) execute q(41)", "deallocate q; select 1",
                                 "deallocate q; deallocate nosuch", "prepare q as select 2"])
def test_in_session_mode_sql_and_protocol_speak_of_the_same_statements(doorman, direct, sql):
    raw = doorman(mode="session", size=1).raw()
    for it in (raw, direct):
        it.ask(parse("select $1::int + 1", "q"), sync())
    assert gist(raw.ask(query(sql))) == gist(direct.ask(query(sql)))
    for step in ([bind(["1"], "q"), execute(), sync()], [parse("select 3", "q"), sync()]):
        assert gist(raw.ask(*step)) == gist(direct.ask(*step))


def test_psycopg_deallocates_what_it_has_prepared(doorman, mode):
    connection = doorman(mode=mode, size=1).connect(autocommit=True)
    for forget in ("deallocate q", "deallocate all", "discard all"):
        assert connection.pgconn.prepare(b"q", b"select $1::int * 2").status == 1
        connection.execute(forget)
        assert b"does not exist" in connection.pgconn.exec_prepared(b"q", [b"1"]).error_message
    assert connection.pgconn.prepare(b"q", b"select 1").status == 1


def test_a_statement_outlives_a_change_of_the_pools_mode(doorman):
    """Also a large one, which is kept for a transaction only, and all the transactions of a session."""
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    large = "select length('" + "x" * 20000 + "')"
    for name, sql in (("s", "select 's'"), ("large", large)):
        raw.ask(parse(sql, name), sync())
    one.config["pools"]["shop"]["pool_mode"] = "session"
    one.reload()
    wait_until(lambda: "session" in one.pool()["pool_mode"], what="the pool is in session mode")
    for _ in range(5):
        assert rows(raw.ask(bind((), "s"), execute(), sync())) == [[b"s"]]
        assert rows(raw.ask(bind((), "large"), execute(), sync())) == [[b"20000"]]
        raw.ask(*run("select 1"))
    assert raw.value("select count(*) from pg_prepared_statements where length(statement) > 16000") <= "1"
    raw.close()
    assert rows(other.ask(*run("select 2"))) == [[b"2"]]
