"""Limits in time: clients and servers that stall, and what an operator allows for a pool and a user."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager, suppress

import pytest

from wait import stays, wait_until
from wire import Raw, bind, copy_data, error, execute, flush, kinds, parse, query, rows, sync

MIB = 1024 * 1024
BIG = query("select length('%s')" % ("x" * (8 * MIB)))
ROWS = query("select repeat('x', 1000) from generate_series(1, 100000)")


def active(pg, what: str) -> list[dict]:
    return [b for b in pg.backends() if b["state"] == "active" and what in b["query"]]


@contextmanager
def stopped(pid: int):
    """This backend does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(params=["tcp", "unix"])
def pool(request, pg):
    """How PostgreSQL is reached."""
    return {"server_host": pg.directory} if request.param == "unix" else {}


@contextmanager
def locked(pg):
    """Whoever touches the table waits."""
    pg.admin("create table if not exists busy (t text); alter table busy owner to app", database="shop")
    lock = pg.connect()
    lock.autocommit = False
    lock.execute("lock table busy")
    try:
        yield lock
    finally:
        lock.close()
        pg.admin("drop table busy", database="shop")


def send_what_is_taken(raw: Raw, data: bytes) -> int:
    """Sends until nothing is taken for a while; how much was."""
    raw.socket.settimeout(0.5)
    sent = 0
    with suppress(TimeoutError):
        while sent < len(data):
            sent += raw.socket.send(data[sent:])
    raw.socket.settimeout(30)
    return sent


def is_back(one) -> bool:
    return int(one.pool()["sv_active"]) == 0


# A server that does not read

def test_a_server_that_stops_reading_is_given_up(doorman, pg, mode, pool):
    one = doorman(mode=mode, size=1, pool=pool, general={"server_write_timeout": "300ms"})
    raw = one.raw()
    raw.value("select 1")
    (pid,) = pg.pids()
    with stopped(pid):
        raw.send(BIG)
        told = raw.read_until("E")[-1]
        assert told.code == "08006" and "server_write_timeout" in told.text
        assert raw.at_end()
        assert one.serves()


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_client_of_such_a_server_frees_the_place_when_it_leaves(doorman, pg, mode, pool, way):
    one = doorman(mode=mode, size=1, pool=pool, general={"server_write_timeout": "1h", "unix_socket_dir": "/tmp"})
    raw = one.raw(address=f"/tmp/.s.PGSQL.{one.port}" if way == "unix" else None)
    raw.value("select 1")
    (pid,) = pg.pids()
    with stopped(pid):
        send_what_is_taken(raw, BIG)
        # Over TCP a plain end would stand behind what nobody has taken.
        raw.close() if way == "unix" else raw.vanish()
        assert one.serves()


def test_a_server_that_waits_for_a_lock_is_not_given_up(doorman, pg, mode, pool):
    """It reads nothing meanwhile, and its client goes on sending."""
    one = doorman(mode=mode, size=1, pool=pool, general={"server_write_timeout": "100ms", "tcp_user_timeout": 1})
    with locked(pg) as lock:
        raw = one.raw()
        send_what_is_taken(raw, b"".join([query("select 1"), query("insert into busy values ('x')"), *[BIG] * 4]))
        assert stays(lambda: active(pg, "insert"), 3)
        lock.rollback()
        assert kinds(raw.read_until("Z") + raw.read_until("Z")) == "TDCZCZ"
        raw.vanish()
        assert one.serves()


@pytest.mark.parametrize("speak", ["simple", "extended"])
def test_a_copy_that_waits_for_a_lock_is_not_given_up(doorman, pg, mode, pool, speak):
    """Its data are sent without waiting for PostgreSQL to ask for them."""
    one = doorman(mode=mode, size=1, pool=pool, general={"server_write_timeout": "100ms", "tcp_user_timeout": 1})
    copy = "copy busy from stdin"
    with locked(pg) as lock:
        raw = one.raw()
        begin = [query(copy)] if speak == "simple" else [parse(copy), bind(), execute(), flush()]
        send_what_is_taken(raw, b"".join(begin) + copy_data(b"x" * 8000 + b"\n") * 130 * 16)
        assert stays(lambda: active(pg, "copy"), 2)
        lock.rollback()
        assert raw.read_until("GE")[-1].kind == "G"
        raw.vanish()
        assert one.serves()


def test_a_large_bind_of_a_statement_that_waits_is_not_cut(doorman, pg, pool):
    one = doorman(size=1, pool=pool, general={"server_write_timeout": "100ms", "tcp_user_timeout": 1})
    with locked(pg) as lock:
        raw = one.raw()
        batch = b"".join([parse("insert into busy values ($1)"), bind(["x" * (8 * MIB)]), execute(), sync()])
        sent = send_what_is_taken(raw, batch)
        wait_until(lambda: active(pg, "insert"), what="PostgreSQL has the statement")
        assert stays(lambda: active(pg, "insert"), 1)
        lock.rollback()
        raw.send(batch[sent:])
        assert kinds(raw.read_until("Z")) == "12CZ"


# A client that stalls

HALF = {
    "query": query("select '%s'" % ("x" * 300_000))[:100_000],
    "bind": parse("select length($1)") + bind(["x" * 300_000])[:100_000],
    "rows": ROWS,
    "many queries": query("select repeat('x', 1000)") * 30_000,
}


@pytest.mark.parametrize("sent", HALF.values(), ids=HALF.keys())
def test_a_stalled_client_is_cut_for_the_sake_of_another(doorman, pg, pool, sent):
    one = doorman(size=1, pool=pool, general={"client_stall_timeout": "200ms", "query_wait_timeout": "1h"})
    raw = one.raw(receive_buffer=4096)
    send_what_is_taken(raw, sent)
    wait_until(lambda: not is_back(one), what="it has a server connection")
    # As long as nobody waits for it, it may have it.
    assert stays(lambda: not is_back(one), 1)
    assert one.serves()
    one.wait_log("client_stall_timeout")


def test_it_is_told_where_it_reads(doorman):
    one = doorman(size=1, general={"client_stall_timeout": "200ms"})
    raw = one.raw()
    raw.send(HALF["query"])
    wait_until(lambda: not is_back(one), what="it has a server connection")
    assert one.serves()
    told = raw.read_until("E")[-1]
    assert told.code == "57P05" and "client_stall_timeout" in told.text


def test_a_client_that_reads_slowly_is_not_cut(doorman, background):
    one = doorman(size=1, general={"client_stall_timeout": "2s", "query_wait_timeout": "1h",
                                   "tcp_socket_buffer_size": 16384})
    raw = one.raw(receive_buffer=4096)
    raw.send(ROWS)
    raw.read_until("T")
    wait_until(lambda: not is_back(one))
    other = background(one.serves)
    wait_until(lambda: one.waiting() == 1)
    for _ in range(30):
        # Longer than the limit, and always something.
        assert raw.sip(2000)
        assert stays(lambda: not other.done(), 0.1)
    raw.vanish()
    assert other.result()


def test_never_in_session_mode(doorman, background):
    one = doorman(mode="session", size=1, general={"client_stall_timeout": "100ms", "query_wait_timeout": "1h"})
    raw = one.raw(receive_buffer=4096)
    raw.send(ROWS)
    wait_until(lambda: not is_back(one))
    other = background(one.serves)
    wait_until(lambda: one.waiting() == 1)
    assert stays(lambda: not other.done(), 1)
    raw.discard_until_ready()
    raw.close()
    assert other.result()


# What an operator allows

LIMITS = {
    "query_timeout": ("57014", "query timeout"),
    "idle_transaction_timeout": ("25P03", "idle transaction timeout"),
    "transaction_timeout": ("25P04", "transaction timeout"),
    "client_idle_timeout": ("57P05", "client idle timeout"),
}


def is_told(raw: Raw, name: str) -> None:
    told = raw.read_until("E")[-1]
    assert (told.fields["S"], told.code) == ("FATAL", LIMITS[name][0])
    assert LIMITS[name][1] in told.text and name in told.text
    assert raw.at_end()


DOING = {
    "query": ("query_timeout", [query("select pg_sleep(60)")], 0),
    "batch": ("query_timeout", [parse("select pg_sleep(60)"), bind(), execute(), sync()], 0),
    "pipeline": ("query_timeout", [query("select 1"), query("select pg_sleep(60)")], 1),
    "block": ("idle_transaction_timeout", [query("begin; select 1")], 1),
    "deferred block": ("idle_transaction_timeout", [query("begin")], 1),
    "failed block": ("idle_transaction_timeout", [query("begin"), query("selec")], 2),
    "batch without sync": ("idle_transaction_timeout", [parse("select 1"), bind(), execute(), flush()], 0),
    "batch without flush": ("idle_transaction_timeout", [parse("select 1"), bind(), execute()], 0),
    "block without flush": ("idle_transaction_timeout", [query("begin"), parse("select 1"), bind()], 1),
    "copy": ("idle_transaction_timeout", [query("copy busy from stdin")], 0),
    "long query": ("transaction_timeout", [query("select pg_sleep(60)")], 0),
    "idle": ("client_idle_timeout", [], 0),
    "idle after a query": ("client_idle_timeout", [query("select 1")], 1),
}


@pytest.fixture
def busy(pg):
    pg.admin("create table busy (t text); alter table busy owner to app", database="shop")
    yield
    pg.admin("drop table busy", database="shop")


@pytest.mark.parametrize("where", ["general", "pool", "user"])
@pytest.mark.parametrize("mode, what", [(mode, what) for mode in ("transaction", "session") for what in DOING
                                        # In session mode it has its server connection.
                                        if (mode, what) != ("session", "idle after a query")])
def test_what_takes_too_long_ends(doorman, pg, busy, mode, what, where):
    name, doing, answers = DOING[what]
    one = doorman(mode=mode, size=1, **{where: {name: "300ms"}})
    raw = one.raw()
    raw.send(*doing)
    for _ in range(answers):
        raw.read_until("Z")
    is_told(raw, name)
    wait_until(lambda: not active(pg, "pg_sleep"), what="nothing runs any more")
    with one.connect() as connection:
        assert connection.execute("select count(*) from busy").fetchone() == (0,)
    wait_until(lambda: not one.open_transactions(), what="nothing is open any more")


def test_a_batch_that_runs_is_not_idle(doorman, pg):
    one = doorman(size=1, general={"idle_transaction_timeout": "300ms"})
    raw = one.raw()
    raw.send(parse("select pg_sleep(3)"), bind(), execute())
    wait_until(lambda: active(pg, "pg_sleep"), what="it runs")
    assert stays(lambda: active(pg, "pg_sleep"), 1)
    raw.send(sync())
    assert kinds(raw.read_until("Z")) == "12DCZ"


def test_a_pools_limit_may_be_lifted_for_a_user(doorman):
    one = doorman(general={"client_idle_timeout": "200ms", "idle_transaction_timeout": "200ms"},
                  user={"client_idle_timeout": 0, "idle_transaction_timeout": "0"})
    raw = one.raw()
    raw.ask(query("begin; select 1"))
    assert stays(lambda: raw.value("select 1") == "1", 0.1)
    assert stays(lambda: one.open_transactions(), 0.6)
    assert raw.ask(query("commit"))[-1].body == b"I"


def test_a_transaction_of_many_quick_queries(doorman):
    one = doorman(size=1, general={"transaction_timeout": "500ms"})
    raw = one.raw()
    raw.ask(query("begin"))

    def ended():
        raw.send(query("select 1"))
        seen = raw.read_until("ZE")
        return seen[-1] if seen[-1].kind == "E" else None

    assert wait_until(ended).code == "25P04"


def test_a_busy_client_is_not_idle(doorman):
    one = doorman(size=1, general={"client_idle_timeout": "1500ms", "query_timeout": "1500ms",
                                   "idle_transaction_timeout": "1500ms"})
    raw = one.raw()
    assert stays(lambda: raw.value("select 1") == "1", 2)
    raw.ask(query("begin"))
    assert stays(lambda: raw.value("select 1") == "1", 2)


def test_a_long_pipeline_is_not_one_query(doorman):
    one = doorman(size=1, general={"query_timeout": "1500ms"})
    raw = one.raw()
    raw.send(*[query("select pg_sleep(0.25)")] * 8)
    for _ in range(8):
        assert kinds(raw.read_until("Z")) == "TDCZ"


def test_a_query_without_an_end_that_sends_rows(doorman, pg):
    one = doorman(size=1, general={"query_timeout": "300ms"})
    raw = one.raw()
    raw.send(query("select repeat('x', 100) from generate_series(1, 1000000000)"))
    raw.read_until("E")
    wait_until(lambda: not active(pg, "generate_series"), what="it is canceled")
    assert one.serves()


@pytest.mark.parametrize("name", LIMITS)
def test_the_time_goes_on_in_another_process(doorman, pg, name):
    one = doorman(size=1, general={name: "3s"})
    raw = one.raw()
    if name in ("query_timeout", "transaction_timeout"):
        raw.send(query("select pg_sleep(60)"))
        wait_until(lambda: active(pg, "pg_sleep"))
    elif name == "idle_transaction_timeout":
        raw.ask(query("begin; select 1"))
    one.upgrade()
    is_told(raw, name)
    assert one.serves()


def test_a_reload_reaches_clients_that_wait(doorman, pg):
    one = doorman(size=3)
    idle, begun, busy = one.raw(), one.raw(), one.raw()
    begun.ask(query("begin; select 1"))
    busy.send(query("select pg_sleep(60)"))
    wait_until(lambda: active(pg, "pg_sleep"), what="it runs")
    one.config["general"] |= {"client_idle_timeout": "200ms", "idle_transaction_timeout": "200ms",
                              "query_timeout": "200ms"}
    one.reload()
    is_told(idle, "client_idle_timeout")
    is_told(begun, "idle_transaction_timeout")
    is_told(busy, "query_timeout")


@pytest.mark.parametrize("bare", [30, "30"])
def test_a_bare_number_is_refused(doorman, bare):
    one = doorman()
    one.config["pools"]["shop"]["query_timeout"] = bare
    one.reload()
    said = one.wait_log("query_timeout.*")
    assert '"30s"' in said[0] and "PgBouncer" in said[0]
    assert one.serves()


# Server connections past their lifetime

def test_a_connection_past_its_lifetime_is_not_lent_again(doorman, pg, mode):
    """Neither to who waits, nor out of the idle ones, nor to the next session."""
    one = doorman(mode=mode, size=1, general={"server_lifetime": "100ms", "retain_connections_time": "1h",
                                              "query_wait_timeout": "1h"})
    first, second = one.raw(), one.raw()
    first.ask(query("begin"))
    old = first.value("select pg_backend_pid()")
    second.send(query("select pg_backend_pid()"))
    wait_until(lambda: one.waiting() == 1, what="the second waits")
    wait_until(lambda: pg.pids() == {int(old)}, what="it is the only one")
    assert stays(lambda: one.waiting() == 1, 0.3)
    first.ask(query("commit"))
    if mode == "session":
        first.close()
    new = rows(second.read_until())[0][0].decode()
    assert new != old
    if mode == "session":
        second.close()
    assert stays(lambda: True, 0.3)
    assert one.raw().value("select pg_backend_pid()") not in (old, new)
