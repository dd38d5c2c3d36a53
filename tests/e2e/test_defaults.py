"""What a client is told at login: PostgreSQL's defaults as they are now, and its own settings, whether a server
connection is free to ask or not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import psycopg
import pytest

from postgres import Postgres
from wait import stays, wait_until
from wire import error, kinds, parse, query, sync

READ_ONLY = "default_transaction_read_only"


@pytest.fixture
def full(doorman, mode):
    """A pool whose only connection is in use."""
    one = doorman(mode=mode, size=1)
    holder = one.raw()
    holder.ask(query("begin"))

    def release():
        holder.ask(query("commit"))
        holder.send(b"X\0\0\0\4")
        assert holder.at_end()

    return one, release


def login(one, **options):
    raw = one.raw(login=False)
    assert raw.login(**options)[-1].kind == "Z"
    return raw


def test_a_login_needs_no_free_connection(full, pg):
    one, release = full
    raw = login(one, DateStyle="postgres", TimeZone="asia/tokyo", options="-c work_mem=1234 -c my.own=x")
    assert raw.parameters["DateStyle"] == "postgres"
    assert raw.parameters["TimeZone"] == "asia/tokyo"
    assert len(pg.pids()) == 1
    release()
    # PostgreSQL's own spelling comes with the first transaction.
    assert raw.value("show work_mem") == "1234kB"
    assert raw.parameters["DateStyle"] == "Postgres, MDY"
    assert raw.parameters["TimeZone"] == "Asia/Tokyo"
    assert raw.value("show my.own") == "x"
    raw.ask(query("set datestyle = 'ISO, DMY'"))
    assert raw.parameters["DateStyle"] == "ISO, DMY"
    raw.ask(query("reset datestyle"))
    assert raw.value("show datestyle") == "Postgres, MDY"
    assert len(pg.pids()) == 1


@pytest.mark.parametrize("batch", [[query("select 1")], [parse("select 1"), sync()]])
def test_a_value_that_postgresql_refuses_ends_the_session_then(full, pg, batch):
    one, release = full
    raws = [login(one, options=f"-c {setting}=nonsense") for setting in ("work_mem", "timezone")]
    release()
    for raw, setting in zip(raws, ("work_mem", "TimeZone")):
        raw.send(*batch)
        told = error(raw.read_until("EZ"))
        assert (told.code, told.fields["S"]) == ("22023", "FATAL")
        assert told.text == f'invalid value for parameter "{setting}": "nonsense"'
        assert raw.at_end()
    assert one.connect().execute("show work_mem").fetchone() == ("4MB",)
    assert len(pg.pids()) == 1


def test_a_driver_sees_why_its_value_was_refused(full):
    one, release = full
    connection = one.connect(options="-c statement_timeout=soon")
    release()
    with pytest.raises(psycopg.OperationalError, match='invalid value for parameter "statement_timeout": "soon"'):
        connection.execute("select 1")
    assert connection.closed


@pytest.fixture
def altered(pg):
    """Changes PostgreSQL's configuration for a while."""
    changed = []

    def alter(name: str, value: str) -> None:
        changed.append(name)
        pg.admin(f"alter system set {name} = '{value}'")
        reload()

    def reload():
        loaded = pg.admin("select pg_conf_load_time() as at")
        pg.admin("select pg_reload_conf()")
        wait_until(lambda: pg.admin("select pg_conf_load_time() as at") != loaded)

    yield alter
    for name in changed:
        pg.admin(f"alter system reset {name}")
    reload()


def told(one, name):
    with one.connect() as connection:
        return connection.info.parameter_status(name)


def test_a_login_is_told_what_a_reload_of_postgresql_has_changed(doorman, altered, mode):
    """libpq looks at it before it takes a connection for one that can write."""
    one = doorman(mode=mode)
    sits, sets = one.raw(), one.raw()
    sits.ask(query("select 1"))
    assert told(one, READ_ONLY) == "off"
    one.connect(target_session_attrs="read-write").close()
    altered(READ_ONLY, "on")
    wait_until(lambda: told(one, READ_ONLY) == "on")
    with pytest.raises(psycopg.OperationalError, match="read-only"):
        one.connect(target_session_attrs="read-write")
    # Who was there before is not given the old default.
    assert sits.value(f"show {READ_ONLY}") == "on"
    assert sits.parameters[READ_ONLY] == "on"
    sets.ask(query(f"set {READ_ONLY} = off"))
    altered(READ_ONLY, "off")
    wait_until(lambda: told(one, READ_ONLY) == "off")
    one.connect(target_session_attrs="read-write").close()
    assert sets.value(f"show {READ_ONLY}") == "off"


@pytest.fixture
def standby():
    """A PostgreSQL in recovery, which waits for its promotion."""
    cluster = Postgres()
    try:
        cluster.start().stop()
        signal = Path(cluster.data, "standby.signal")
        signal.touch()
        shutil.copystat(Path(cluster.data, "PG_VERSION"), signal)
        if os.geteuid() == 0:
            shutil.chown(signal, "postgres", "postgres")
        cluster.start_again()
        yield cluster
    finally:
        cluster.remove()


def test_a_login_is_told_of_a_promotion(doorman, standby, mode):
    one = doorman(mode=mode, pool={"server_port": standby.port})
    with one.connect(target_session_attrs="standby") as connection:
        assert connection.execute("select pg_is_in_recovery()").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError):
        one.connect(target_session_attrs="read-write")
    standby.admin("select pg_promote()")

    def writes():
        try:
            with one.connect(target_session_attrs="read-write") as connection:
                return connection.execute("select pg_is_in_recovery()").fetchone() == (False,)
        except psycopg.OperationalError:
            return False
    wait_until(writes)


def test_nothing_is_closed_for_it(doorman, altered, pg):
    one = doorman(size=2)
    assert told(one, READ_ONLY) == "off"
    before = pg.pids()
    altered(READ_ONLY, "on")
    wait_until(lambda: told(one, READ_ONLY) == "on")
    assert pg.pids() == before and len(before) == 1


def test_a_clients_own_setting_is_no_news(doorman):
    """Although it stays on the connection, which others get."""
    one = doorman(size=1)
    first = one.raw()
    first.ask(query("set timezone = 'Asia/Tokyo'"))
    assert stays(lambda: told(one, "TimeZone") == "UTC", 1.5)
    second = one.raw()
    assert second.value("show timezone") == "UTC"
    assert first.value("show timezone") == "Asia/Tokyo"


@pytest.mark.parametrize("forget", ["reconnect", "restart", "terminate"])
@pytest.mark.parametrize("of", ["role app", "database shop"])
def test_what_is_set_for_a_role_or_database_shows_on_the_next_connection(doorman, pg, forget, of):
    one = doorman(size=1)
    assert told(one, "TimeZone") == "UTC"
    sits = one.raw()
    pg.admin(f"alter {of} set timezone = 'Asia/Tokyo'")
    try:
        if forget == "reconnect":
            one.console("reconnect")
        elif forget == "restart":
            pg.restart()
        else:
            pg.terminate(*pg.pids())
        if forget != "reconnect":
            wait_until(lambda: one.pool()["sv_idle"] == 0)
        assert told(one, "TimeZone") == "Asia/Tokyo"
        with one.connect() as connection:
            assert connection.execute("show timezone").fetchone() == ("Asia/Tokyo",)
        assert sits.value("show timezone") == sits.parameters["TimeZone"] == "Asia/Tokyo"
    finally:
        pg.admin(f"alter {of} reset timezone")


def test_after_reconnect_a_full_pool_tells_what_is_known(full):
    one, release = full
    one.console("reconnect")
    raw = login(one)
    assert raw.parameters["TimeZone"] == "UTC"
    release()
    assert kinds(raw.ask(query("select 1"))) == "TDCZ"
