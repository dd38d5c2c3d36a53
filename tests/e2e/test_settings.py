"""Settings, roles and what else a session has: the same sequence directly and through the pooler, step by step.

Between any two steps another client has the server connection, wherever it can, and must see nothing of it.
"""

from __future__ import annotations

import struct

import pytest

from wire import Raw, bind, error, execute, function_call, kinds, parse, query, rows, sync

# What another client looks at: as whom it runs, and what a session can change.
PROBE = """select current_user, session_user, current_setting('role'), current_setting('timezone'),
    current_setting('datestyle'), current_setting('work_mem'), current_setting('search_path'),
    current_setting('statement_timeout'), current_setting('default_transaction_read_only'),
    current_setting('default_transaction_isolation'), coalesce(current_setting('my.own', true), ''),
    current_setting('client_encoding'), current_setting('extra_float_digits'),
    (select count(*) from pg_class where relpersistence = 't'),
    (select count(*) from pg_locks where locktype = 'advisory')"""

TOKYO = {"TimeZone": "Asia/Tokyo"}
SOME = {"TimeZone": "Asia/Tokyo", "DateStyle": "Postgres, MDY", "statement_timeout": "54321",
        "options": "-c work_mem=1MB -c my.own=x"}
LOOK = ("select current_setting('timezone'), current_setting('datestyle'), current_setting('work_mem'), "
        "current_setting('statement_timeout'), current_setting('my.own', true), current_user")

# What the startup packet says, and the steps: each a simple query; a list is one batch, whose statements have a
# Parse, a Bind and an Execute each.
SEQUENCES = {
    "reset in a block": (SOME, ["begin", "reset timezone", "show timezone", "reset statement_timeout",
                                "show statement_timeout", "commit", "show timezone", LOOK]),
    "reset all in a block": (SOME, ["begin", "set timezone = 'UTC'", "reset all", LOOK, "commit", LOOK]),
    "reset all in a block that fails": (SOME, ["set timezone = 'UTC'", "begin", "reset all", LOOK, "select 1/0",
                                               "rollback", LOOK]),
    "reset, rolled back": (TOKYO, ["set timezone = 'UTC'", "begin", "reset timezone", "show timezone", "rollback",
                                   "show timezone"]),
    "reset, rolled back to a savepoint": (TOKYO, [
        "begin", "set timezone = 'UTC'", "savepoint a", "reset timezone", "show timezone", "rollback to a",
        "show timezone", "commit", "show timezone"]),
    "a savepoint in the text of a reset": (TOKYO, [
        "begin", "set timezone = 'UTC'", "reset timezone; savepoint a", "show timezone",
        "rollback to a", "show timezone", "commit", "show timezone"]),
    "to default": (TOKYO, ["set timezone to 'UTC'", "set timezone to default", "show timezone",
                           "set timezone to 'UTC'", "set session timezone = default", "show timezone"]),
    "local to default": (TOKYO, ["set timezone to 'UTC'", "begin", "set local timezone to default", "show timezone",
                                 "commit", "show timezone", "set local timezone to default", "show timezone"]),
    "time zone": (TOKYO, ["set time zone 'UTC'", "set time zone local", "show timezone", "set time zone 'UTC'",
                          "set time zone default", "show timezone", "set time zone 'UTC'", "reset time zone",
                          "show timezone"]),
    # What the function itself gives back is the server's default.
    "set_config": (SOME, ["select set_config('timezone', 'UTC', false)",
                          "select 1 from set_config('timezone', null, false)", "show timezone",
                          "begin", "select set_config('work_mem', '2MB', false)",
                          "select 1 from set_config('work_mem', null, true)", "show work_mem", "commit",
                          "show work_mem"]),
    "set_config with parameters": (SOME, [[("select set_config($1, $2, false)", ["timezone", "UTC"])],
                                          "show timezone",
                                          [("select 1 from set_config($1, $2, false)", ["timezone", None])],
                                          "show timezone"]),
    "in batches": (SOME, [["set timezone to 'UTC'"], ["reset timezone"], ["show timezone"], ["begin"], ["reset all"],
                          [LOOK], ["commit"], [LOOK], ["set datestyle to default"], ["show datestyle"],
                          ["discard all"], [LOOK]]),
    "do": (SOME, ["do $$ begin reset all; end $$", LOOK, "begin", "set timezone = 'UTC'",
                  "do $$ begin reset timezone; end $$", LOOK, "commit", LOOK,
                  "do $$ begin set work_mem = '3MB'; end $$", LOOK]),
    "call": (SOME, ["call go_back()", LOOK, "begin", "call go_back()", LOOK, "commit", LOOK]),
    "discard all": (SOME, ["set timezone = 'UTC'", "set my.own = 'y'", "discard all", LOOK]),
    "reset and a local value": (SOME, ["reset all; set local work_mem = '2MB'", LOOK]),
    "reset of another, without a role": ({"role": "team"}, [
        "set role none", ["reset datestyle"], "select current_user", ["reset all"], "select current_user",
        "do $$ begin reset all; end $$", "select current_user"]),
    "datestyle": ({"DateStyle": "Postgres, MDY"}, ["set datestyle to iso, mdy", "reset datestyle", "show datestyle"]),
    "a value that is the server's default": (TOKYO, ["set timezone = 'UTC'", "do $$ begin end $$", "show timezone",
                                                     "reset work_mem", "show timezone"]),
    "isolation behind a reset": (SOME, ["begin", "reset timezone", "reset all",
                                        "set transaction isolation level serializable",
                                        "show transaction_isolation", "commit"]),
    "lists": ({"search_path": '"$user", "A b", pg_catalog'}, [
        "set search_path = public", "reset search_path", "show search_path", "begin", "reset all", "show search_path",
        "commit", "show search_path"]),
    "no path": ({"search_path": ""}, ["set search_path = public", "reset search_path",
                                      "select current_setting('search_path') in ('', '\"\"')"]),
    "read only": ({"options": "-c default_transaction_read_only=on"}, [
        "set default_transaction_read_only=off", "show transaction_read_only",
        "insert into settings_log values (1)", "reset default_transaction_read_only",
        "insert into settings_log values (1)"]),
    "isolation": ({"options": "-c default_transaction_isolation=serializable"}, [
        "set default_transaction_isolation='read committed' /* default */", "show transaction_isolation"]),
    "statistics": ({"options": "-c default_statistics_target=77"}, [
        "set default_statistics_target=78", "show default_statistics_target", "set /* default */ work_mem = '1MB'",
        "show default_statistics_target"]),
    "a name beats options": ({"TimeZone": "Asia/Tokyo", "options": "-c timezone=UTC -c geqo=off"},
                             ["show timezone", "show geqo", "reset timezone", "show timezone"]),
    "a name beats options, behind them": ({"options": "-c timezone=UTC", "TimeZone": "Asia/Tokyo"}, ["show timezone"]),
    "a role": ({"options": "-c role=team -c work_mem=1MB"}, [
        "select current_user, session_user", LOOK, "begin", "select current_user", "commit",
        "reset all", "select current_user", "discard all", "select current_user"]),
    "a role by name": ({"role": "team"}, ["select current_user", "show role", "reset role", "select current_user"]),
    "a role that is reset": ({"options": "-c role=team"}, [
        "begin", "set role none", "select current_user", "reset role", "select current_user", "commit",
        "select current_user", "begin", "reset role", "commit", "select current_user",
        ["reset role"], ["select current_user"], "reset session authorization", "select current_user"]),
    "encodings": ({"client_encoding": "LATIN1", "my.own": "x"}, [
        "show client_encoding", "reset client_encoding", "show client_encoding", "select length(current_setting('my.own'))",
        "reset all", "show client_encoding", "select length(current_setting('my.own'))", "set names utf8",
        "set names", "show client_encoding", "set names default", "show client_encoding"]),
    "quotes": ({"options": "-c my.own=it's\\\\\\ \"x\"", "application_name": "a'b\\c"}, [
        "show my.own", "reset all", "show my.own", "show application_name", "begin", "discard temp", "reset my.own",
        "show my.own", "commit", "show application_name"]),
    "update pg_settings": (SOME, [
        "update pg_settings set setting = 'UTC' where name = 'TimeZone'", "show timezone", "reset timezone",
        "show timezone"]),
}
REPORTED = ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone", "is_superuser",
            "session_authorization", "standard_conforming_strings"]


@pytest.fixture(scope="module", autouse=True)
def tables(pg):
    pg.admin("create table settings_log (n int)", database="shop")
    pg.admin("grant all on settings_log to app, team", database="shop")
    pg.admin("create procedure go_back() language plpgsql as $$ begin reset all; end $$", database="shop")
    yield
    pg.admin("drop table settings_log", database="shop")
    pg.admin("drop procedure go_back()", database="shop")


def take(raw: Raw, step) -> list:
    """What a client sees of one step: rows, tags and errors, how it stands, and what it was told."""
    if isinstance(step, str):
        seen = raw.ask(query(step))
    else:
        statements = [(one, []) if isinstance(one, str) else one for one in step]
        seen = raw.ask(*(part for sql, values in statements for part in (parse(sql), bind(values), execute())), sync())
    shown = [m.row if m.kind == "D" else m.tag if m.kind == "C" else (m.code, m.text) for m in seen if m.kind in "DCE"]
    return [shown, raw.status, {name: raw.parameters.get(name) for name in REPORTED}]


@pytest.mark.parametrize("name", SEQUENCES)
def test_settings_are_as_in_a_session_of_its_own(doorman, pg, mode, name):
    parameters, steps = SEQUENCES[name]
    parameters = {"application_name": "same", **parameters}
    one = doorman(mode=mode, size=1)
    direct = Raw((pg.host, pg.port))
    direct.login(**parameters)
    raw = one.raw(**parameters)
    probe = one.raw()
    clean = None
    for number, step in enumerate(steps):
        at = f"step {number}: {step}"
        assert take(raw, step) == take(direct, step), at
        if mode == "transaction" and raw.status == "I":
            seen = rows(probe.ask(query(PROBE)))
            clean = clean or seen
            assert seen == clean, at
            assert seen[0][:3] == [b"app", b"app", b"none"], at
    raw.close()
    direct.close()
    assert rows(probe.ask(query(PROBE)))[0][:3] == [b"app", b"app", b"none"]


# Ways to leave something that no word in a text and no tag tells of, or not by itself.
TRACES = {
    "update pg_settings": ({}, [query("update pg_settings set setting = 'pg_catalog' where name = 'search_path'")]),
    "update in a larger query": ({}, [query(
        "with n as (select 1) update pg_settings set setting = '7' where name = 'statement_timeout'")]),
    "update by a prepared statement": ({}, [
        parse("update PG_SETTINGS set setting = '7' where name = $1") + bind(["statement_timeout"]) + execute() + sync()]),
    "update of the role": ({}, [query("update pg_settings set setting = 'on' where name = 'default_transaction_read_only'")]),
    "set_config by FunctionCall": ({}, ["set_config"]),
    "pg_advisory_lock by FunctionCall": ({}, ["pg_advisory_lock"]),
    "a role by set_config": ({}, [query("select set_config('role', 'team', false)")]),
    "a role by an expression": ({}, [query("select set_config('ro' || 'le', 'te' || 'am', false)")]),
    "a role by another name": ({}, [query("select U&\"set\\005fconfig\"('role', 'team', false)")]),
    "a role by do": ({}, [query("do $$ begin execute 'set ro' || 'le team'; end $$")]),
    "a table, by the path": ({"options": "-c search_path=pg_temp,public"}, [query("create table secret (n int)")]),
    "a table as, by the path": ({"search_path": "pg_temp,public"}, [query("create table secret as select 1 as n")]),
    "a table into, by the path": ({"search_path": "pg_temp"}, [query("select 1 as n into secret")]),
    "a view, by the path": ({"search_path": "pg_temp"}, [query("create view secret as select 1 as n")]),
    "a table, by an earlier path": ({}, [query("set search_path = pg_temp"), query("create table secret as select 1 as n")]),
    "a table, by an expression": ({}, [
        query("begin; select set_config('search_path', 'pg_te' || 'mp', false); select 1 as n into secret; commit")]),
    "a table, by an escape": ({}, [
        query(r"begin; set search_path = e'pg_te\x6dp'; select 1 as n into secret; commit")]),
    "a table, by an update": ({}, [query(
        "begin; update pg_settings set setting = 'pg_te' || 'mp' where name = 'search_path'; select 1 as n into secret; commit")]),
    "a startup role": ({"options": "-c role=team"}, [query("select 1")]),
    "a startup role, in a batch": ({"role": "team"}, [parse("select 1") + bind() + execute() + sync()]),
    "a startup role, failed": ({"role": "team"}, [query("begin; select 1/0")]),
    "a startup role, deferred": ({"role": "team"}, [query("begin;")]),
}


@pytest.mark.parametrize("leave", ["close", "vanish", None])
@pytest.mark.parametrize("trace", TRACES)
def test_nothing_is_left_in_plain_sight_of_the_protocol(doorman, pg, trace, leave):
    parameters, steps = TRACES[trace]
    one = doorman(size=1)
    clean = rows(one.raw().ask(query(PROBE)))
    raw = one.raw(**parameters)
    for step in steps:
        if step == "set_config":
            step = function_call(oid(pg, "set_config"), [b"work_mem", b"77MB", b"\0"])
        elif step == "pg_advisory_lock":
            step = function_call(oid(pg, "pg_advisory_lock", 1), [struct.pack("!q", 4711)])
        raw.send(step)
        if not leave:
            raw.read_until("Z")
    if leave:
        getattr(raw, leave)()
    elif raw.status != "I":
        raw.ask(query("rollback"))
    other = one.raw(options="-c geqo=off")
    assert rows(other.ask(query(PROBE))) == clean
    other.close()
    assert rows(one.raw().ask(query(PROBE))) == clean


def test_the_unnamed_statement_outlives_what_the_pooler_sets(doorman, mode):
    """In a batch a RESET does not drop it; a query of the pooler's own would."""
    one = doorman(mode=mode, size=1)
    raw = one.raw(**SOME)
    update = "update pg_settings set setting = '7s' where name = 'statement_timeout'"
    for sql in ("reset all", update, "select 1 from set_config('timezone', null, false)"):
        raw.ask(query("begin"))
        raw.ask(parse("select 5"), bind(), execute(), sync())
        raw.ask(parse(sql, "named"), bind((), "named"), execute(), sync())
        assert rows(raw.ask(bind(), execute(), sync())) == [[b"5"]], sql
        raw.ask(query("deallocate all"))
        raw.ask(query("commit"))
        assert raw.value("show timezone") == "Asia/Tokyo"


def oid(pg, name: str, arguments: int = 3) -> int:
    return pg.admin(f"select oid::int from pg_proc where proname = '{name}' and pronargs = {arguments}")[0]["oid"]


def test_large_objects_by_function_call_cost_nothing(doorman, pg):
    """What libpq's and JDBC's drivers do all the time."""
    one = doorman(size=1)
    raw = one.raw()
    raw.ask(query("begin"))
    (made,) = [m for m in raw.ask(function_call(957, [struct.pack("!i", 0x60000)])) if m.kind == "V"]
    raw.ask(query("commit"))
    assert struct.unpack("!i", made.body[4:]) > (0,)
    raw.ask(query("begin"))
    (_,) = [m for m in raw.ask(function_call(964, [made.body[4:]])) if m.kind == "V"]
    raw.ask(query("commit"))
    assert raw.status == "I"


@pytest.mark.parametrize("order", [("options", "role"), ("role", "options")])
def test_a_startup_role_that_is_refused_is_refused_as_by_postgresql(doorman, pg, order):
    parameters = {"options": "-c work_mem=1MB", "role": "scram"}
    parameters = {name: parameters[name] for name in order}
    direct = Raw((pg.host, pg.port))
    theirs = error(direct.login(**parameters))
    one = doorman(size=1)
    raw = one.raw(login=False)
    seen = raw.login(**parameters)
    if raw.status == "I":
        seen = raw.ask(query("select 1"))
    assert (error(seen).code, error(seen).text) == (theirs.code, theirs.text)
    assert one.raw().value("select current_user") == "app"
    direct.close()


def test_a_role_by_alter_role_stays(doorman, pg):
    """It is the default that everything goes back to."""
    pg.admin("alter role app set role = 'team'")
    try:
        one = doorman(size=1)
        raw = one.raw()
        assert raw.value("select current_user") == "team"
        for step in ("set role none", "do $$ begin set role none; end $$", "reset session authorization", "discard all"):
            raw.ask(query(step))
            assert one.raw().value("select current_user") == "team", step
    finally:
        pg.admin("alter role app reset role")


# What is sent in one packet after SET ROLE NONE, by a client whose startup role is team.
BEHIND_AN_ERROR = {
    "of a bind": [bind() + sync(), query("set session authorization default")],
    "of a query": [query("select 1/0"), query("reset role")],
    "of a query, by discarding": [query("select 1/0"), query("discard all")],
    "of a batch, by a batch": [parse("selec") + sync(), parse("reset role") + bind() + execute() + sync()],
    "of its own": [query("select 1"), query("reset role; select 1/0")],
    "of its own batch": [query("select 1"), parse("reset role") + bind() + execute() + parse("selec") + sync()],
}


@pytest.mark.parametrize("name", BEHIND_AN_ERROR)
def test_an_error_undoes_only_what_failed(doorman, pg, name):
    one = doorman(mode="session", size=1)
    direct = Raw((pg.host, pg.port))
    direct.login(role="team")
    users = []
    for raw in (direct, one.raw(role="team")):
        raw.ask(query("set role none"))
        raw.send(*BEHIND_AN_ERROR[name])
        for _ in BEHIND_AN_ERROR[name]:
            raw.read_until("Z")
        users.append(raw.value("select current_user"))
        raw.close()
    assert users[1] == users[0]
    assert users[0] == ("app" if name.startswith("of its own") else "team")


# Half of the character is a backslash in SJIS.
TABLE = "\N{CJK UNIFIED IDEOGRAPH-8868}"


@pytest.fixture
def half_backslash(pg):
    names = [TABLE, TABLE + "'"]
    for name in names:
        pg.admin(f'create schema "{name}"; create table "{name}".here as select 42 as a; '
                 f'grant usage on schema "{name}" to public; grant select on "{name}".here to public', database="shop")
    yield names
    for name in names:
        pg.admin(f'drop schema "{name}" cascade', database="shop")


def in_sjis(name):
    return f'"{name}"'.encode("shift_jis")


def simple(sql):
    return b"Q" + struct.pack("!i", len(sql) + 5) + sql + b"\0"


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("number", [0, 1])
def test_a_path_whose_bytes_have_half_a_backslash(doorman, half_backslash, mode, number):
    path = in_sjis(half_backslash[number])
    one = doorman(mode=mode, size=2 if mode == "session" else 1)
    other = one.raw()
    by_set, at_startup = one.raw(client_encoding="SJIS"), None
    assert kinds(by_set.ask(simple(b"set search_path = " + path))) == "CZ"
    assert other.value("select current_setting('client_encoding')") == "UTF8"
    assert by_set.value("select a from here") == "42"
    if mode == "session":
        by_set.close()
    at_startup = one.raw(client_encoding="SJIS", search_path=path)
    assert at_startup.value("select a from here") == "42"
    for sql in ["reset search_path", "begin", "reset search_path", "select 1", "commit", "reset all"]:
        assert "E" not in kinds(at_startup.ask(query(sql)))
        assert at_startup.value("select a from here") == "42", sql
