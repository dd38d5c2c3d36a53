"""The admin console: what it shows, and what its commands do."""

import os
import subprocess

import psycopg
import pytest

from doorman import ADMIN_PASSWORD
from postgres import bin_dir, free_port
from wait import stays, wait_until
from wire import bind, error, execute, kinds, parse, query, rows, sync, terminate

COLUMNS = {
    "show version": "version",
    "show pools": "database user pool_mode cl_idle cl_active cl_waiting cl_cancel_req sv_active sv_idle sv_used "
                  "sv_login pool_size maxwait maxwait_us avg_xact_time paused fallback_active oldest_active_age_ms",
    "show clients": "client_id database user application_name addr tls state wait transaction_count query_count "
                    "error_count age_seconds tls_version tls_cipher thread",
    "show servers": "server_id server_process_id database_name user application_name tls state wait "
                    "transaction_count query_count bytes_sent bytes_received age_seconds prepare_cache_hit "
                    "prepare_cache_miss prepare_cache_size tls_version tls_cipher",
    "show stats": "database user total_xact_count total_query_count total_received total_sent total_xact_time "
                  "total_query_time total_wait_time total_errors avg_xact_count avg_query_count avg_recv avg_sent "
                  "avg_errors avg_xact_time avg_query_time avg_wait_time",
    "show config": "key value default changeable",
    "show lists": "list items",
    "show pool_coordinator": "database max_db_conn current reserve_size reserve_used evictions reserve_acq exhaustions",
}
NUMERIC, TEXT = 1700, 25


@pytest.fixture
def admin(doorman):
    """A bare connection to the console, and the pooler behind it."""
    one = doorman(size=2)
    raw = one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
    raw.one = one
    return raw


@pytest.mark.parametrize("command", COLUMNS)
def test_columns(doorman, command):
    one = doorman(pool={"max_db_connections": 50})
    client = one.connect()
    client.execute("select 1")
    with one.connect(user="admin", password=ADMIN_PASSWORD, database="pgdoorman") as console:
        for spelling in (command, command.upper() + ";", f"  {command} ;"):
            cursor = console.execute(spelling)
            assert [column.name for column in cursor.description] == COLUMNS[command].split()
            assert cursor.fetchall()
            assert cursor.statusmessage == "SHOW"


def test_column_types(doorman):
    one = doorman()
    with one.connect(user="admin", password=ADMIN_PASSWORD, database="pgdoorman") as console:
        types = {column.name: column.type_code for column in console.execute("show pools").description}
    assert types["database"] == types["pool_mode"] == TEXT
    assert types["cl_waiting"] == types["pool_size"] == NUMERIC


def test_show_pools_counts(doorman):
    one = doorman(size=2)
    idle, busy, other, waiting = one.raw(), one.raw(), one.raw(), one.raw()
    idle.value("select 1")
    busy.ask(query("begin"))
    row = one.pool()
    assert (row["cl_active"], row["sv_active"], row["pool_size"], row["cl_waiting"]) == (1, 1, 2, 0)
    assert row["cl_idle"] == 3
    other.ask(query("begin"))
    waiting.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1)
    assert one.pool()["sv_active"] == 2
    busy.ask(query("commit"))
    waiting.read_until("Z")
    other.ask(query("commit"))
    row = wait_until(lambda: (r := one.pool())["cl_active"] == 0 and r)
    assert (row["sv_active"], row["sv_idle"], row["cl_waiting"], row["cl_idle"]) == (0, 2, 0, 4)


def test_counts_fall_however_a_client_leaves(doorman, mode):
    one = doorman(mode=mode, size=5)
    for leave in ("close", "vanish"):
        for sql in ("select 1", "begin", "select 1/0", "select pg_sleep(10)"):
            raw = one.raw()
            raw.send(query(sql))
            if "sleep" not in sql:
                raw.read_until("Z")
            getattr(raw, leave)()

    def nothing_left():
        row = one.pool()
        return row["cl_active"] == row["cl_idle"] == row["cl_waiting"] == row["sv_active"] == 0

    wait_until(nothing_left, what="all counts are back at zero")
    assert not [c for c in one.console("show clients") if c["database"] == "shop"]


def test_show_clients(doorman):
    one = doorman()
    raw = one.raw(application_name="till")
    raw.value("select 1")
    row = next(r for r in one.console("show clients") if r["database"] == "shop")
    assert (row["user"], row["application_name"], row["tls"], row["state"]) == ("app", "till", "false", "idle")
    assert row["client_id"].startswith("#c")
    assert row["addr"].startswith("127.0.0.1:")
    assert row["transaction_count"] == 1 and row["query_count"] == 1


def test_show_servers(doorman, pg):
    one = doorman()
    raw = one.raw()
    raw.ask(query("begin"))
    row, = one.console("show servers")
    assert int(row["server_process_id"]) in pg.pids()
    assert (row["database_name"], row["user"], row["state"]) == ("shop", "app", "active")


def test_show_stats_counts(doorman):
    one = doorman()
    raw = one.raw()

    def stats():
        return next(r for r in one.console("show stats") if (r["database"], r["user"]) == ("shop", "app"))

    before = stats()
    for _ in range(10):
        raw.value("select 1")
    raw.ask(query("begin"))
    raw.ask(query("select 1/0"))
    raw.ask(query("rollback"))
    raw.ask(parse("select 1"), bind(), execute(), sync())
    after = stats()
    assert after["total_xact_count"] - before["total_xact_count"] == 12
    assert after["total_query_count"] - before["total_query_count"] == 14
    assert after["total_errors"] - before["total_errors"] == 1
    assert after["total_sent"] > before["total_sent"]
    assert after["total_received"] > before["total_received"]


def test_show_lists(doorman):
    one = doorman()
    clients = [one.raw() for _ in range(3)]
    clients[0].ask(query("begin"))
    items = {r["list"]: r["items"] for r in one.console("show lists")}
    for name in "databases users pools free_clients used_clients login_clients free_servers used_servers".split():
        assert name in items
    assert items["used_servers"] == 1


def test_show_config_knows_the_settings_and_no_secret(doorman):
    one = doorman(general={"query_wait_timeout": "7s"})
    values = {r["key"]: r["value"] for r in one.console("show config")}
    assert values["host"] == "127.0.0.1"
    assert values["port"] == str(one.port)
    assert values["query_wait_timeout"] in ("7000", "7s")
    assert "shutdown_timeout" in values
    assert ADMIN_PASSWORD not in str(values)


@pytest.mark.parametrize("empty", ["", ";", "   ", " ; "])
def test_an_empty_query_is_an_empty_query(admin, empty):
    assert kinds(admin.ask(query(empty))) == "IZ"
    assert kinds(admin.ask(query("show version"))) == "TDCZ"


@pytest.mark.parametrize("sql", ["select 1", "show nothing", "drop table everything", "show", "pause nowhere",
                                 "resume nowhere", "x" * 100_000])
def test_what_it_does_not_know_is_an_error_and_the_session_stays(admin, sql):
    seen = admin.ask(query(sql))
    assert kinds(seen) == "EZ"
    assert kinds(admin.ask(query("show version"))) == "TDCZ"


def test_the_extended_protocol_is_refused_with_a_message(admin):
    admin.send(parse("show version"), bind(), execute(), sync())
    assert admin.read_until("E")[-1].kind == "E"
    assert admin.one.serves()


def paused(one, background):
    """PAUSE, which has begun and waits."""
    pause = background(one.console, "pause")
    wait_until(lambda: one.pool()["paused"] == "1")
    return pause


def test_pause_and_resume(doorman, background):
    one = doorman(size=2)
    inside, outside = one.raw(), one.raw()
    inside.ask(query("begin"))
    pause = paused(one, background)
    # What is under way goes on; what is new waits.
    assert inside.value("select 1") == "1"
    outside.send(query("select 2"))
    wait_until(lambda: one.waiting() == 1)
    inside.ask(query("commit"))
    pause.result(20)
    assert stays(lambda: one.waiting() == 1, 0.2)
    one.console("resume")
    assert [m.kind for m in outside.read_until("Z")] == ["T", "D", "C", "Z"]
    assert one.pool()["paused"] == "0"


def test_pause_waits_for_every_server_connection(doorman, pg, background, mode):
    """In session mode its client has to leave. Then PostgreSQL can be restarted, and nobody notices."""
    one = doorman(mode=mode, size=3, general={"query_wait_timeout": "30s"})
    idle, busy, waiting = one.raw(), one.raw(), one.raw()
    for raw in (idle, busy):
        raw.ask(query("begin"))
    idle.ask(query("commit"))
    assert len(pg.pids()) == 2
    pause = paused(one, background)
    waiting.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1)
    assert stays(lambda: not pause.done(), 0.3)
    busy.ask(query("commit"))
    if mode == "session":
        assert stays(lambda: not pause.done(), 0.3)
        for raw in (idle, busy):
            raw.send(terminate())
            assert raw.at_end()
    pause.result(20)
    pg.restart()
    one.console("resume")
    assert rows(waiting.read_until("Z")) == [[b"1"]]
    if mode == "transaction":
        assert idle.value("select 2") == busy.value("select 2") == "2"


def test_resume_ends_a_pause_that_waits(doorman, background):
    one = doorman(size=1)
    inside = one.raw()
    inside.ask(query("begin"))
    pause = paused(one, background)
    one.console("resume")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="RESUME"):
        pause.result(20)
    assert inside.value("select 1") == "1"


def test_a_pause_goes_on_in_the_next_process(doorman, pg, background):
    one = doorman(size=2)
    inside = one.raw()
    inside.ask(query("begin"))
    pause = paused(one, background)
    one.upgrade()
    assert one.pool()["paused"] == "1"
    assert stays(lambda: not pause.done(), 0.3)
    assert inside.value("select 1") == "1"
    inside.ask(query("commit"))
    pause.result(20)
    assert not pg.pids()
    one.console("resume")
    assert inside.value("select 2") == "2"


def test_pause_one_database(doorman, pg):
    one = doorman(pools={"second": {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": "app", "password": "", "pool_size": 1}]}})
    one.console("pause second")
    assert one.serves()
    assert one.pool("second")["paused"] == "1"
    one.console("resume second")
    with one.connect(database="second") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_pause_ends_with_the_waiting_time(doorman):
    one = doorman(general={"query_wait_timeout": "1s"})
    raw = one.raw()
    one.console("pause")
    assert error(raw.ask(query("select 1"))).code == "53300"
    one.console("resume")
    assert one.serves()


def test_reload(doorman):
    one = doorman(size=1)
    one.config["pools"]["shop"]["users"][0]["pool_size"] = 3
    one.write()
    one.console("reload")
    wait_until(lambda: one.pool()["pool_size"] == 3)


def test_a_reload_of_a_bad_file_says_why(doorman, admin):
    admin.one.path.write_text("[general\n")
    told = error(admin.ask(query("reload")))
    assert str(admin.one.path) in told.text
    assert kinds(admin.ask(query("show version"))) == "TDCZ"


def test_shutdown(doorman):
    """It means shutdown, with or without a terminal."""
    one = doorman()
    holder = one.raw()
    holder.ask(query("begin"))
    one.console("shutdown")
    assert stays(lambda: one.process.poll() is None, 0.2)
    holder.ask(query("commit"))
    assert holder.read_until("E")[-1].code == "58006"
    assert one.wait(5) == 0


def test_psql(doorman):
    """People use psql on it."""
    one = doorman()
    done = subprocess.run(
        [os.path.join(bin_dir(), "psql"), "-h", one.host, "-p", str(one.port), "-U", "admin", "-d", "pgdoorman",
         "-At", "-c", "show version", "-c", "show pools", "-c", "show clients"],
        capture_output=True, text=True, timeout=20, env={**os.environ, "PGPASSWORD": ADMIN_PASSWORD})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("PgDoorman ")


def test_the_console_works_while_every_backend_is_taken(doorman):
    one = doorman(size=1)
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin"))
    waiter.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1)
    assert one.console("show servers")


def test_the_console_works_while_postgresql_is_down(doorman):
    one = doorman(pool={"server_port": free_port()})
    assert one.console("show version")
    assert one.console("show pools")


def test_a_console_session_ends_by_terminate(admin):
    admin.send(terminate())
    assert admin.at_end()
    assert admin.one.serves()
