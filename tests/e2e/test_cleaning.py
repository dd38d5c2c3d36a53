"""What a client leaves behind is gone before the next one gets its server connection."""

import pytest

from wait import stays, wait_until
from wire import bind, copy_data, execute, flush, parse, query, sync

# What one client does, what the next one looks at, and what it must see there.
TRACES = {
    "set": ("set work_mem = '77MB'", "show work_mem", "4MB"),
    "set twice, reset once": ("set work_mem = '77MB'; set geqo = off; reset work_mem", "show geqo", "on"),
    "set_config": ("select set_config('work_mem', '77MB', false)", "show work_mem", "4MB"),
    "set_config in a larger query": (
        "with w as (select set_config('work_mem', '77MB', false) as c) select length(c), 1 from w",
        "show work_mem", "4MB"),
    "set session characteristics": (
        "set session characteristics as transaction read only", "show default_transaction_read_only", "off"),
    "set of an extension's own": ("set my.thing = 'mine'", "select coalesce(current_setting('my.thing', true), '')", ""),
    "set in a transaction": ("begin; set work_mem = '77MB'; commit", "show work_mem", "4MB"),
    "set in a failed batch": ("set work_mem = '77MB'; commit; select 1/0", "show work_mem", "4MB"),
    "search_path": ("set search_path = pg_catalog", "show search_path", '"$user", public'),
    "role": ("set role team", "select current_user", "app"),
    "prepare": ("prepare leak as select 1", "select count(*) from pg_prepared_statements where from_sql", "0"),
    "cursor with hold": ("declare leak cursor with hold for select 1", "select count(*) from pg_cursors where name = 'leak'", "0"),
    "listen": ("listen leak", "select count(*) from pg_listening_channels()", "0"),
    "temp table": ("create temp table leak (n int)", "select count(*) from pg_class where relname = 'leak'", "0"),
    "temp table as": ("select 1 as n into temp leak", "select count(*) from pg_class where relname = 'leak'", "0"),
    "temp view": ("create temp view leak as select 1", "select count(*) from pg_class where relname = 'leak'", "0"),
    "temp sequence": ("create temp sequence leak", "select count(*) from pg_class where relname = 'leak'", "0"),
    "advisory lock": ("select pg_advisory_lock(4711)", "select count(*) from pg_locks where locktype = 'advisory'", "0"),
    "advisory lock tried": ("select pg_try_advisory_lock_shared(4711)", "select count(*) from pg_locks where locktype = 'advisory'", "0"),
    "timezone": ("set timezone = 'Asia/Tokyo'", "show timezone", "UTC"),
    "application_name": ("set application_name = 'leak'", "select current_setting('application_name') = 'leak'", "f"),
    "client_encoding": ("set client_encoding = 'LATIN1'", "show client_encoding", "UTF8"),
}


@pytest.fixture
def tidy(pg):
    yield
    pg.admin("drop table if exists leaked", database="shop")


def in_simple_protocol(raw, sql):
    raw.ask(query(sql))


def in_extended_protocol(raw, sql):
    for statement in sql.split("; "):
        raw.ask(parse(statement), bind(), execute(), sync())


@pytest.mark.parametrize("trace", TRACES)
@pytest.mark.parametrize("speak", [in_simple_protocol, in_extended_protocol])
def test_no_trace_is_left(doorman, mode, trace, speak):
    does, looks, clean = TRACES[trace]
    one = doorman(mode=mode, size=1)
    first = one.raw()
    speak(first, does)
    if mode == "session":
        first.close()
    second = one.raw()
    assert second.value(looks) == clean
    if mode == "transaction":
        # And the one that did it goes on without harm.
        assert first.value("select 1") == "1"


def test_traces_are_gone_for_other_kinds_of_leaving(doorman, mode):
    one = doorman(mode=mode, size=1)
    for leave in ("close", "vanish"):
        raw = one.raw()
        raw.ask(query("begin; set work_mem = '77MB'; create temp table leak (n int)"))
        getattr(raw, leave)()
        next_one = one.raw()
        assert next_one.value("show work_mem") == "4MB"
        assert next_one.value("select count(*) from pg_class where relname = 'leak'") == "0"
        next_one.close()


@pytest.mark.parametrize("leave", ["close", "vanish"])
@pytest.mark.parametrize("doing", [
    [query("begin; insert into leaked values (1)")],
    [query("begin; insert into leaked values (1); select 1/0")],
    [query("begin"), parse("insert into leaked values (1)"), bind(), execute(), flush()],
    [parse("insert into leaked values (1)"), bind(), execute(), flush()],
    [query("begin"), bind((), "never there"), sync()],
    [query("begin"), query("savepoint a"), query("insert into leaked values (1)")],
], ids=range(6))
def test_an_open_transaction_is_rolled_back(doorman, pg, mode, tidy, doing, leave):
    one = doorman(mode=mode, size=1)
    one.connect().execute("create table if not exists leaked (n int)")
    one.disconnect_all()
    raw = one.raw()
    raw.send(*doing)
    wait_until(lambda: pg.admin("select 1 from pg_stat_activity where usename = 'app' and backend_xid is not null "
                                "or usename = 'app' and state like 'idle in transaction%%'"), what="the transaction is open")
    getattr(raw, leave)()
    wait_until(lambda: not one.open_transactions(), what="nothing is left open")
    next_one = one.raw()
    assert next_one.value("select count(*) from leaked") == "0"
    assert next_one.status == "I"


def test_a_half_sent_batch_is_forgotten(doorman, mode, tidy):
    one = doorman(mode=mode, size=1)
    one.connect().execute("create table if not exists leaked (n int)")
    one.disconnect_all()
    raw = one.raw()
    raw.send(parse("insert into leaked values (1)", "half"), bind((), "half"), execute())
    raw.vanish()
    next_one = one.raw()
    assert next_one.value("select count(*) from leaked") == "0"
    assert next_one.value("select count(*) from pg_prepared_statements where name = 'half'") == "0"


def test_a_copy_broken_off_is_undone(doorman, mode, tidy):
    one = doorman(mode=mode, size=1)
    one.connect().execute("create table if not exists leaked (n int)")
    one.disconnect_all()
    raw = one.raw()
    raw.send(query("copy leaked from stdin"))
    raw.read_until("G")
    raw.send(copy_data(b"1\n2\n"))
    raw.vanish()
    next_one = one.raw()
    assert next_one.value("select count(*) from leaked") == "0"


def test_protocol_level_statements_do_not_survive_the_session(doorman):
    one = doorman(mode="session", size=1)
    raw = one.raw()
    raw.ask(parse("select 1", "mine"), sync())
    assert raw.value("select count(*) from pg_prepared_statements where name = 'mine'") == "1"
    raw.close()
    next_one = one.raw()
    assert next_one.value("select count(*) from pg_prepared_statements where name = 'mine'") == "0"
    next_one.ask(parse("select 2", "mine"), sync())
    assert next_one.status == "I"


def test_session_mode_keeps_what_the_session_set(doorman):
    """Cleaning is for the next client; the one that set it goes on with it."""
    raw = doorman(mode="session").raw()
    raw.ask(query("set work_mem = '77MB'"))
    raw.ask(query("create temp table mine (n int)"))
    raw.ask(query("prepare p as select 1"))
    raw.ask(query("select 1/0"))
    assert raw.value("show work_mem") == "77MB"
    assert raw.value("select count(*) from mine") == "0"
    assert raw.value("execute p") == "1"


def test_nothing_is_cleaned_that_is_not_dirty(doorman, pg):
    """An ordinary transaction is not followed by a reset: that would be a round trip for nothing."""
    one = doorman(size=1)
    raw = one.raw()
    raw.ask(query("select 4711"))
    assert stays(lambda: "4711" in pg.backends()[0]["query"], 0.2)


def test_cleaning_may_be_switched_off(doorman):
    one = doorman(size=1, pool={"cleanup_server_connections": False})
    raw = one.raw()
    raw.ask(query("set work_mem = '77MB'"))
    assert one.raw().value("show work_mem") == "77MB"
