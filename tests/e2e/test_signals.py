"""SIGTERM, SIGINT and SIGHUP."""

import signal
import time

import psycopg
import pytest

from doorman import listening
from wait import stays, wait_until
from wire import Raw, error, query


def told(raw):
    """The error this client reads before the end; nothing else may follow it."""
    seen = [m for m in raw.read_until("E") if m.kind not in "SNA"]
    assert seen and seen[-1].kind == "E", seen
    assert raw.at_end()
    return seen[-1]


# SIGTERM

def test_sigterm_tells_everybody_and_ends(doorman, pg, mode):
    one = doorman(mode=mode, size=2)
    idle, busy, waiting = one.raw(), one.raw(), one.raw()
    holder = one.raw()
    idle.value("select 1")
    if mode == "session":
        idle.close()
        idle = one.raw()
    holder.ask(query("begin"))
    busy.send(query("select pg_sleep(30)"))
    wait_until(lambda: len([b for b in pg.backends() if b["state"] != "idle"]) == 2)
    waiting.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1)
    one.signal(signal.SIGTERM)
    for raw in (idle, holder, busy, waiting):
        said = told(raw)
        assert (said.code, said.fields["S"]) == ("57P01", "FATAL")
    assert one.wait() == 0
    wait_until(lambda: not pg.pids(), what="nothing runs on in PostgreSQL")


def test_sigterm_with_nobody_there(doorman):
    one = doorman()
    one.signal(signal.SIGTERM)
    assert one.wait() == 0


def test_sigterm_does_not_wait_for_a_client_that_does_not_read(doorman):
    one = doorman()
    stuck = one.raw(receive_buffer=4096)
    stuck.send(query("select repeat('x', 1000) from generate_series(1, 1000000)"))
    stuck.read_until("T")
    half = one.raw(login=False)
    half.send(b"\0\0\0")
    one.signal(signal.SIGTERM)
    assert one.wait() == 0


def test_sigterm_with_many_clients(doorman):
    one = doorman()
    crowd = [one.raw() for _ in range(300)]
    one.signal(signal.SIGTERM)
    assert {told(raw).code for raw in crowd} == {"57P01"}
    assert one.wait() == 0


# SIGINT, in a terminal: as Ctrl-C

def test_sigint_lets_transactions_finish(doorman, mode):
    one = doorman(mode=mode, terminal=True, size=2)
    idle, holder = one.raw(), one.raw()
    holder.ask(query("begin"))
    one.signal(signal.SIGINT)
    assert stays(lambda: one.process.poll() is None, 0.3)
    assert holder.value("select 1") == "1"
    holder.send(query("commit"))
    assert [m.kind for m in holder.read_until("Z")] == ["C", "Z"]
    assert told(holder).code == "58006"
    assert told(idle).code == "58006"
    assert one.wait() == 0


def test_sigint_lets_running_queries_finish(doorman, pg):
    one = doorman(terminal=True)
    raw = one.raw()
    with pg.gate() as gate:
        raw.send(query(f"select 1 from {gate.passage}"))
        wait_until(gate.stopped)
        one.signal(signal.SIGINT)
        one.wait_log(r"(?i)sigint|shut")
        assert stays(lambda: one.process.poll() is None, 0.3)
        gate.open()
        assert [m.kind for m in raw.read_until("Z")] == ["T", "D", "C", "Z"]
    assert told(raw).code == "58006"
    assert one.wait() == 0


def test_sigint_takes_no_new_clients(doorman):
    one = doorman(terminal=True)
    holder = one.raw()
    holder.ask(query("begin"))
    one.signal(signal.SIGINT)
    one.wait_log(r"(?i)sigint|shut")

    def refused():
        try:
            raw = Raw((one.host, one.port))
            seen = raw.login()
            raw.close()
            return not seen or seen[-1].kind == "E"
        except OSError:
            return True

    wait_until(refused, what="new clients are refused")
    holder.ask(query("commit"))
    assert one.wait() == 0


def test_shutdown_timeout_bounds_it(doorman):
    one = doorman(terminal=True, general={"shutdown_timeout": "1s"})
    holder = one.raw()
    holder.ask(query("begin"))
    begin = time.monotonic()
    one.signal(signal.SIGINT)
    assert told(holder).code in ("58006", "57P01")
    assert one.wait() == 0
    assert time.monotonic() - begin > 0.8


def test_sigterm_cuts_a_sigint_short(doorman):
    one = doorman(terminal=True)
    holder = one.raw()
    holder.ask(query("begin"))
    one.signal(signal.SIGINT)
    one.wait_log(r"(?i)sigint|shut")
    one.signal(signal.SIGTERM)
    assert one.wait() == 0


# SIGHUP

def pool_settings(one):
    return one.config["pools"]["shop"], one.config["pools"]["shop"]["users"][0]


def test_a_reload_reaches_sessions_that_are_there(doorman, pg):
    """A larger pool serves those who wait in the smaller one."""
    one = doorman(size=1)
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin"))
    waiter.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1)
    pool_settings(one)[1]["pool_size"] = 2
    one.reload()
    assert [m.kind for m in waiter.read_until("Z")] == ["T", "D", "C", "Z"]
    assert holder.value("select 2") == "2"
    holder.ask(query("commit"))
    assert len(pg.pids()) == 2


def test_a_smaller_pool_lets_go(doorman, pg):
    one = doorman(size=3, general={"query_wait_timeout": "2s"})
    clients = [one.raw() for _ in range(3)]
    for raw in clients:
        raw.ask(query("begin"))
    assert len(pg.pids()) == 3
    pool_settings(one)[1]["pool_size"] = 1
    one.reload()
    wait_until(lambda: int(one.pool()["pool_size"]) == 1)
    for raw in clients:
        assert raw.value("select 1") == "1"
        raw.ask(query("commit"))
    wait_until(lambda: len(pg.pids()) == 1, what="one backend is left")
    clients[0].ask(query("begin"))
    assert error(clients[1].ask(query("select 1"))).code == "53300"


def test_the_pool_mode_changes_for_sessions_that_are_there(doorman, pg):
    one = doorman(mode="transaction", size=2)
    a, b = one.raw(), one.raw()
    assert a.value("select pg_backend_pid()") == b.value("select pg_backend_pid()")
    pool_settings(one)[0]["pool_mode"] = "session"
    one.reload()
    wait_until(lambda: one.pool()["pool_mode"].lower() == "session")
    assert a.value("select pg_backend_pid()") != b.value("select pg_backend_pid()")


def test_general_settings_change_at_once(doorman):
    one = doorman(size=1, general={"query_wait_timeout": "10m"})
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin"))
    one.config["general"]["query_wait_timeout"] = "200ms"
    one.reload()
    wait_until(lambda: [r for r in one.console("show config") if r["key"].endswith("query_wait_timeout")
                        and r["value"] in ("200", "200ms")])
    # With the old limit the test would end first.
    assert error(waiter.ask(query("select 1"))).code == "53300"


def test_another_server(doorman, pg):
    one = doorman(size=1)
    raw = one.raw()
    assert raw.value("select current_database()") == "shop"
    pool_settings(one)[0]["server_database"] = "second"
    one.reload()
    wait_until(lambda: raw.value("select current_database()") == "second")
    assert len(pg.pids()) == 1


def test_pools_come_and_go(doorman, pg):
    one = doorman()
    resident = one.raw()
    resident.value("select 1")
    one.config["pools"]["second"] = {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": "app", "password": "", "pool_size": 1}]}
    one.reload()
    wait_until(lambda: reachable(one, "second"), what="the new pool is there")
    del one.config["pools"]["second"]
    one.reload()
    wait_until(lambda: not reachable(one, "second"), what="the pool is gone")
    assert resident.value("select 1") == "1"


def reachable(one, database):
    try:
        with psycopg.connect(host=one.host, port=one.port, user="app", dbname=database) as connection:
            return connection.execute("select 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def test_a_session_whose_pool_is_gone_is_told(doorman, pg):
    one = doorman(pools={"second": {
        "server_host": pg.host, "server_port": pg.port,
        "users": [{"username": "app", "password": "", "pool_size": 1}]}})
    raw = one.raw(database="second")
    raw.ask(query("begin"))
    del one.config["pools"]["second"]
    one.reload()
    wait_until(lambda: not reachable(one, "second"))
    assert raw.value("select 1") == "1"
    raw.send(query("commit"), query("select 2"))
    assert raw.read_until("E")[-1].code in ("3D000", "58006")
    assert raw.at_end()


@pytest.mark.parametrize("spoil", [
    lambda text: text.replace('pool_size = 4', 'pool_size = "many"'),
    lambda text: text + "\n[general\n",
    lambda text: "",
    None,
], ids=["wrong value", "not toml", "empty", "gone"])
def test_a_bad_file_changes_nothing_and_is_told(doorman, spoil):
    one = doorman()
    raw = one.raw()
    raw.value("select 1")
    pid = raw.value("select pg_backend_pid()")
    good = one.path.read_text()
    one.path.write_text(spoil(good)) if spoil else one.path.unlink()
    one.signal(signal.SIGHUP)
    one.wait_log(r"Config reload (error|rejected)")
    assert raw.value("select pg_backend_pid()") == pid
    assert one.serves()
    one.path.write_text(good)
    one.signal(signal.SIGHUP)
    assert one.serves()
    assert listening(one.port)


def test_reloading_without_a_change_changes_nothing(doorman, pg):
    one = doorman(size=2)
    clients = [one.raw() for _ in range(2)]
    for raw in clients:
        raw.ask(query("begin"))
    pids = {raw.value("select pg_backend_pid()") for raw in clients}
    for _ in range(5):
        one.reload()
    for raw in clients:
        raw.ask(query("commit"))
    assert stays(lambda: {str(pid) for pid in pg.pids()} == pids, 0.3)


def test_reloads_under_load(doorman, background):
    one = doorman(size=4)

    def work():
        client = one.connect()
        for n in range(100):
            assert client.execute("select %s::int", (n,)).fetchone() == (n,)

    working = [background(work) for _ in range(8)]
    for n in range(20):
        pool_settings(one)[1]["pool_size"] = 2 + n % 3
        one.reload()
        time.sleep(0.01)  # reloads at a steady pace, not a condition
    for done in working:
        done.result(30)
