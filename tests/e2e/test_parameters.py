"""Session parameters: what a client set is in effect on whichever backend serves it,
and what it was told is what is in effect."""

import os
import re

import pytest

from wait import wait_until
from wire import Raw, bind, error, execute, parse, query, sync

# A value other than the default, as PostgreSQL reports it back.
OTHERS = {
    "application_name": "my app",
    "client_encoding": "LATIN1",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "search_path": "pg_catalog",
    "extra_float_digits": "0",
    "statement_timeout": "54321ms",
}
REPORTED = ["application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone",
            "standard_conforming_strings", "server_version", "server_encoding", "integer_datetimes",
            "is_superuser", "session_authorization"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_startup_parameter_is_in_effect(doorman, mode, name):
    """Two clients with different wishes share one backend."""
    one = doorman(mode=mode, size=1 if mode == "transaction" else 2)
    wishful, plain = one.raw(**{name: OTHERS[name]}), one.raw()
    default = plain.value(f"show {name}")
    assert default != OTHERS[name]
    for _ in range(2):
        assert wishful.value(f"show {name}") == OTHERS[name]
        assert plain.value(f"show {name}") == default


# PostgreSQL does not report the others: they are known only from the start-up packet.
@pytest.mark.parametrize("name", [name for name in OTHERS if name not in ("extra_float_digits", "statement_timeout")])
def test_a_later_set_follows_the_client_over_backends(doorman, name):
    one = doorman(size=2)
    raw, blocker = one.raw(), one.raw()
    raw.ask(query(f"set {name} = '{OTHERS[name]}'" if name != "search_path" else "set search_path = pg_catalog"))
    here = raw.value("select pg_backend_pid()")
    # The backend it used is taken by somebody else: it gets the other one.
    blocker.ask(query("begin"))
    assert blocker.value("select pg_backend_pid()") == here
    assert blocker.value(f"show {name}") != OTHERS[name]
    assert raw.value("select pg_backend_pid()") != here
    assert raw.value(f"show {name}") == OTHERS[name]
    blocker.ask(query("rollback"))


@pytest.mark.parametrize("does, name, value", [
    ("set session characteristics as transaction isolation level serializable", "transaction_isolation", "serializable"),
    ("set session characteristics as transaction read only", "transaction_read_only", "on"),
    ("set session characteristics as transaction deferrable", "transaction_deferrable", "on"),
    ("set default_transaction_isolation = 'repeatable read'", "transaction_isolation", "repeatable read"),
    ("select set_config('jit', 'on', false)", "jit", "on"),
])
def test_what_drivers_set_in_silence_follows_the_client(doorman, does, name, value):
    """JDBC's setTransactionIsolation, asyncpg's look at the catalogue; PostgreSQL reports none of it (or not always)."""
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    default = other.value(f"show {name}")
    raw.ask(query(does))
    for _ in range(2):
        assert other.value(f"show {name}") == default != value
        assert raw.value(f"show {name}") == value
    raw.ask(query("reset all"))
    assert raw.value(f"show {name}") == default


@pytest.mark.parametrize("how", [
    "set timezone = 'Asia/Tokyo'",
    "set time zone 'Asia/Tokyo'",
    "select set_config('timezone', 'Asia/Tokyo', false)",
    "do $$ begin set timezone = 'Asia/Tokyo'; end $$",
    "begin; set timezone = 'Asia/Tokyo'; commit",
    "set session timezone to 'Asia/Tokyo'; select 1",
])
def test_however_it_was_set(doorman, how):
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    raw.ask(query(how))
    for _ in range(2):
        assert other.value("show timezone") == "UTC"
        assert raw.value("show timezone") == "Asia/Tokyo"
        assert raw.parameters["TimeZone"] == "Asia/Tokyo"
        assert other.parameters["TimeZone"] == "UTC"


def test_set_by_the_extended_protocol(doorman):
    one = doorman(size=1)
    raw, other = one.raw(), one.raw()
    raw.ask(parse("select set_config('DateStyle', $1, false)"), bind(["German"]), execute(), sync())
    assert other.value("show datestyle") == "ISO, MDY"
    assert raw.value("show datestyle") == "German, DMY"


@pytest.mark.parametrize("how", [
    "begin; set timezone = 'Asia/Tokyo'; rollback",
    "begin; set local timezone = 'Asia/Tokyo'; commit",
    "set timezone = 'Asia/Tokyo'; reset timezone",
    "set timezone = 'Asia/Tokyo'; reset all",
    "set timezone = 'Asia/Tokyo'; set timezone = default",
    "set timezone = 'Asia/Tokyo'; select 1/0",
])
@pytest.mark.parametrize("start", ["UTC", "Europe/Oslo"])
def test_what_was_undone_is_undone(doorman, mode, how, start):
    """Back to what the start-up packet asked for."""
    one = doorman(mode=mode, size=2)
    raw, other = one.raw(TimeZone=start), one.raw()
    raw.ask(query(how))
    other.value("select 1")
    assert raw.value("show timezone") == start
    assert raw.parameters["TimeZone"] == start


def test_discard_all_goes_back_to_the_start(doorman, mode):
    one = doorman(mode=mode, size=2)
    raw = one.raw(TimeZone="Europe/Oslo", application_name="mine")
    raw.ask(query("set timezone = 'Asia/Tokyo'"))
    raw.ask(query("discard all"))
    assert raw.value("show timezone") == "Europe/Oslo"
    assert raw.value("show application_name") == "mine"


def test_what_is_told_at_login_is_true(doorman, mode):
    one = doorman(mode=mode, size=1 if mode == "transaction" else 2)
    odd = {k: v for k, v in OTHERS.items() if k in REPORTED}
    for raw in (one.raw(), one.raw(**odd)):
        for name in REPORTED:
            assert raw.parameters[name] == raw.value(f"show {name}"), name


def test_what_is_told_is_what_postgresql_tells(doorman, pg, mode):
    direct = Raw((pg.host, pg.port))
    direct.login(application_name="same")
    ours = doorman(mode=mode).raw(application_name="same")
    assert ours.parameters == direct.parameters
    direct.close()


@pytest.mark.parametrize("parameters", [{"TimeZone": "Nowhere/City"}, {"no_such_parameter": "1"},
                                        {"options": "-c no_such_parameter=1"}, {"client_encoding": "KLINGON"}])
def test_what_postgresql_refuses_is_told_by_its_own_words(doorman, pg, mode, parameters):
    direct = Raw((pg.host, pg.port))
    theirs = error(direct.login(**parameters))
    one = doorman(mode=mode)
    raw = one.raw(login=False)
    seen = raw.login(**parameters)
    if raw.status == "I":
        seen = raw.ask(query("select 1"))
    assert error(seen).code == theirs.code
    assert one.serves()
    direct.close()


def test_quotes_and_backslashes_in_values(doorman):
    one = doorman(size=1)
    for name in ["it's", 'a "b"', "back\\slash", "semi; colon", "$1 %s", "ü" * 10]:
        raw = one.raw(application_name=name)
        assert raw.value("select 'standard' || '\\n'") == "standard\\n"
        # PostgreSQL keeps only printable ASCII of an application's name.
        direct = one.pg.connect(application_name=name)
        assert raw.value("show application_name") == direct.execute("show application_name").fetchone()[0]
        direct.close()
        raw.close()


def test_application_name_is_seen_in_postgresql(doorman, pg):
    one = doorman(size=1)
    raw = one.raw(application_name="reporting")
    raw.value("select 1")
    assert [b["application_name"] for b in pg.backends()] == ["reporting"]


def test_names_are_not_case_sensitive(doorman):
    raw = doorman(size=1).raw(timezone="Asia/Tokyo", DATESTYLE="German")
    assert raw.value("show TimeZone") == "Asia/Tokyo"
    assert raw.value("show datestyle").startswith("German")


def test_no_round_trip_when_nothing_differs(doorman, pg):
    """Clients that agree cost nothing: PostgreSQL sees their queries and no others."""
    one = doorman(size=1)
    a, b = one.raw(TimeZone="Asia/Tokyo"), one.raw(TimeZone="Asia/Tokyo")
    a.value("select 1")
    logged = os.path.getsize(pg.log)
    pg.admin("alter system set log_statement = 'all'")
    try:
        pg.admin("select pg_reload_conf()")
        wait_until(lambda: a.value("show log_statement") == "all")
        b.value("select 4711")
        a.value("select 4712")
    finally:
        pg.admin("alter system reset log_statement")
        pg.admin("select pg_reload_conf()")
    with open(pg.log) as log:
        log.seek(logged)
        said = log.read()
    between = said[said.index("select 4711"):said.index("select 4712")]
    assert len(re.findall("LOG:  (statement|execute)", between)) == 1, between


def test_the_operators_startup_parameters_win(doorman, mode):
    one = doorman(mode=mode, pool={"startup_parameters": {"work_mem": "9MB", "TimeZone": "Europe/Oslo"}})
    raw = one.raw(TimeZone="Asia/Tokyo")
    assert raw.value("show work_mem") == "9MB"
    assert raw.value("show timezone") == "Europe/Oslo"
    assert raw.parameters["TimeZone"] == "Europe/Oslo"


def test_encodings_do_not_mix(doorman):
    one = doorman(size=1)
    latin, utf8 = one.connect(client_encoding="latin1"), one.connect(client_encoding="utf8")
    for _ in range(3):
        assert latin.execute("select 'ü' || chr(246)").fetchone() == ("üö",)
        assert utf8.execute("select 'ü' || chr(8364)").fetchone() == ("ü€",)


def test_changes_are_logged_where_it_is_wished(doorman):
    one = doorman(pool={"log_client_parameter_status_changes": True})
    raw = one.raw()
    raw.ask(query("set timezone to 'Asia/Tokyo'"))
    found = wait_until(lambda: [line for line in one.log().splitlines() if "parameter changed" in line])
    assert len(found) == 1 and found[0].endswith('[app@shop #c1] parameter changed: TimeZone = "Asia/Tokyo"'), found
    # What the pooler itself sets for another client, and takes back, is no change of anybody's.
    assert one.raw().value("show timezone") != "Asia/Tokyo"
    assert one.log().count("parameter changed") == 1
    one.config["pools"]["shop"]["log_client_parameter_status_changes"] = False
    one.write()
    one.console("reload")
    raw.ask(query("set timezone to 'Asia/Seoul'"))
    assert one.log().count("parameter changed") == 1
