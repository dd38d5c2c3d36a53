"""Cancel requests, clients that vanish, and servers that go away in the middle of something."""

import socket
import struct
import threading
import time
from contextlib import suppress

import psycopg
import pytest

from test_upgrade import Gate
from wait import stays, wait_until
from wire import Raw, bind, cancel_request, copy_data, error, execute, flush, kinds, parse, query, sync


def running(pg, part="pg_sleep"):
    """Whether PostgreSQL runs such a query for the pooler."""
    # A query shows from its Parse on; what counts is that it has begun.
    return pg.admin("select pid from pg_stat_activity where state = 'active' and usename = 'app' and query like %s "
                    "and (query not like '%%pg_sleep%%' or wait_event = 'PgSleep')", f"%{part}%")


def cancel(one, raw):
    """Sends the cancel request that belongs to this connection, and reads to its end."""
    messenger = Raw((one.host, one.port))
    messenger.send(cancel_request(raw.pid, raw.secret))
    assert messenger.rest() == b""
    messenger.close()


def test_a_running_query_is_cancelled(doorman, pg, mode, background):
    connection = doorman(mode=mode).connect()
    asked = background(connection.execute, "select pg_sleep(30)")
    wait_until(lambda: running(pg), what="the query runs")
    connection.cancel()
    with pytest.raises(psycopg.errors.QueryCanceled):
        asked.result(5)
    assert connection.execute("select 1").fetchone() == (1,)


def test_with_a_long_key(doorman, pg):
    """Of protocol 3.2, whatever PostgreSQL speaks behind the pooler; it must match in full."""
    one = doorman(size=1)
    raw = one.raw(login=False)
    raw.login(version=(3 << 16) + 2)
    assert len(raw.secret) == 32
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    key = raw.secret
    for wrong in (key[:4], key[:31], key[:31] + bytes([key[31] ^ 1]), key + b"\0"):
        raw.secret = wrong
        cancel(one, raw)
    assert stays(lambda: running(pg), 0.2)
    raw.secret = key
    cancel(one, raw)
    assert error(raw.read_until("Z")).code == "57014"
    one.upgrade()
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    cancel(one, raw)
    assert error(raw.read_until("Z")).code == "57014"


def test_in_a_batch(doorman, pg, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.send(parse("select pg_sleep(30)"), bind(), execute(), parse("select 2"), bind(), execute(), sync())
    wait_until(lambda: running(pg))
    cancel(one, raw)
    seen = raw.read_until("Z")
    assert kinds(seen) == "12EZ" and error(seen).code == "57014"
    assert raw.value("select 1") == "1"


def test_inside_a_transaction(doorman, pg, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.ask(query("begin"))
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    cancel(one, raw)
    assert error(raw.read_until("Z")).code == "57014"
    assert raw.status == "E"
    raw.ask(query("rollback"))
    assert raw.value("select 1") == "1"


def test_in_the_queue(doorman, mode):
    """Nobody has begun with it: the client leaves the queue and may ask again."""
    one = doorman(mode=mode, size=1)
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin"))
    waiter.send(query("select 1"))
    wait_until(lambda: one.waiting() == 1, what="it waits")
    cancel(one, waiter)
    assert error(waiter.read_until("Z")).code == "57014"
    assert waiter.status == "I"
    assert one.waiting() == 0
    holder.ask(query("commit"))
    if mode == "session":
        holder.close()
    assert waiter.value("select 2") == "2"


def test_in_the_queue_with_a_batch(doorman):
    one = doorman(size=1)
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin"))
    waiter.send(parse("select 1"), bind(), execute(), sync(), parse("select 2"), bind(), execute(), sync())
    wait_until(lambda: one.waiting() == 1)
    cancel(one, waiter)
    seen = waiter.read_until("Z")
    assert error(seen).code == "57014" and kinds(seen).endswith("EZ")
    holder.ask(query("commit"))
    # The second batch was not what was cancelled.
    assert kinds(waiter.read_until("Z")) == "12DCZ"


@pytest.mark.parametrize("end", ["rollback;", "commit;"])
@pytest.mark.parametrize("asks", [query("select 1"), parse("select 1") + bind() + execute() + sync()],
                         ids=["query", "batch"])
def test_in_the_queue_behind_a_begin_that_no_server_has_seen(doorman, asks, end):
    """The transaction has failed, as PostgreSQL says itself of whatever comes behind."""
    one = doorman(size=1)
    holder, waiter = one.raw(), one.raw()
    holder.ask(query("begin; select 1"))

    def give_up_waiting():
        waiter.ask(query("begin;"))
        waiter.send(asks)
        wait_until(lambda: one.waiting() == 1, what="it waits")
        cancel(one, waiter)
        assert error(waiter.read_until("Z")).code == "57014"
        assert waiter.status == "E"

    give_up_waiting()
    assert waiter.ask(query(end))[0].tag == "ROLLBACK" and waiter.status == "I"
    give_up_waiting()
    holder.ask(query("commit"))
    for _ in range(2):
        assert error(waiter.ask(asks)).code == "25P02" and waiter.status == "E"
    assert waiter.ask(query(end))[0].tag == "ROLLBACK" and waiter.status == "I"
    assert waiter.value("select 2") == "2"


class SlowToBegin(Gate):
    """A way to PostgreSQL on which a BEGIN of the pooler's own takes its time."""

    @staticmethod
    def _copy(source, sink):
        with suppress(OSError):
            while piece := source.recv(16384):
                sink.sendall(piece.replace(query("BEGIN"), query("select pg_sleep(30)")))
            sink.shutdown(socket.SHUT_WR)


def test_while_postgresql_begins_what_the_pooler_has_begun(doorman, pg):
    """What the client asked for has not begun, and must not run outside of the transaction."""
    pg.admin("create table if not exists uncommitted (n int); grant all on uncommitted to app", database="shop")
    slow = SlowToBegin(pg)
    one = doorman(size=1, pool={"server_host": "127.0.0.1", "server_port": slow.port})
    raw = one.raw()
    raw.ask(query("begin;"))
    raw.send(query("insert into uncommitted values (1)"))
    wait_until(lambda: running(pg), what="PostgreSQL begins")
    cancel(one, raw)
    assert error(raw.read_until("Z")).code == "57014" and raw.status == "E"
    raw.ask(query("rollback;"))
    assert raw.status == "I"
    assert raw.value("select count(*) from uncommitted") == "0"
    one.disconnect_all()
    slow.close()
    pg.admin("drop table uncommitted", database="shop")


def test_an_idle_client_is_not_harmed(doorman, mode):
    one = doorman(mode=mode, size=1)
    raw = one.raw()
    for _ in range(20):
        raw.value("select 1")
        cancel(one, raw)
        assert raw.value("select 2") == "2"


def test_a_wrong_key_does_nothing(doorman, pg):
    one = doorman()
    raw = one.raw()
    with pg.gate() as gate:
        raw.send(query(f"select 1 from {gate.passage}"))
        wait_until(gate.stopped)
        send_wrong_keys(one, raw)
        gate.open()
        assert kinds(raw.read_until("Z")) == "TDCZ"


def send_wrong_keys(one, raw):
    for pid, secret in [(raw.pid, b"\0\0\0\0"), (raw.pid + 1, raw.secret), (0, b"\0\0\0\0"), (-1, b"\xff" * 4)]:
        messenger = Raw((one.host, one.port))
        messenger.send(cancel_request(pid, secret))
        assert messenger.rest() == b""
        messenger.close()


def test_keys_differ_and_are_not_the_servers(doorman, pg):
    one = doorman()
    clients = [one.raw() for _ in range(50)]
    assert len({(raw.pid, raw.secret) for raw in clients}) == 50
    assert len({raw.secret for raw in clients}) == 50


@pytest.mark.limit(90)
def test_the_id_of_a_client_is_no_backends(doorman, pg):
    """`select pg_cancel_backend(that id)` is what some libraries send. It must not hit a stranger's backend."""
    one = doorman()
    stranger, raw = one.raw(), one.raw()
    stranger.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    assert raw.pid >= 1 << 22
    assert raw.value(f"select pg_cancel_backend({raw.pid})") == "f"
    assert running(pg)
    cancel(one, stranger)
    assert error(stranger.read_until("Z")).code == "57014"


def test_in_session_mode_a_client_knows_its_own_notifications(doorman, pg):
    one = doorman(mode="session")
    listener, other = one.raw(), one.raw()
    for _ in range(2):
        listener.ask(query("listen news"))
        listener.send(query("notify news, 'mine'"))
        said = listener.read_until("Z")
        (own,) = [m for m in said if m.kind == "A"]
        assert own.body == listener.pid.to_bytes(4, "big") + b"news\0mine\0"
        other.ask(query("notify news, 'from elsewhere'"))
        (foreign,) = listener.read_until("A")
        assert foreign.body[:4] not in (listener.pid.to_bytes(4, "big"), other.pid.to_bytes(4, "big"))
        assert int.from_bytes(foreign.body[:4], "big") in pg.pids()
        one.upgrade()


def test_a_late_cancel_never_hits_the_next_query(doorman, background):
    """A client cancels about when its query ends; another one uses the same backend next."""
    one = doorman(size=1)
    hasty, patient = one.raw(), one.raw()
    stop = threading.Event()
    struck = []

    def work():
        while not stop.is_set():
            seen = patient.ask(query("select pg_sleep(0.003)"))
            struck.extend(m.text for m in seen if m.kind == "E")

    working = background(work)
    outcomes = set()
    for n in range(150):
        hasty.send(query("select pg_sleep(0.002)"))
        time.sleep(0.0001 * (n % 40))  # the moment of the cancel is what varies here
        cancel(one, hasty)
        outcomes.add(kinds(hasty.read_until("Z")))
    stop.set()
    working.result(10)
    assert struck == []
    assert outcomes <= {"TDCZ", "TDEZ", "TEZ", "EZ"}


def test_cancel_over_a_unix_socket(doorman, pg, tmp_path):
    one = doorman(general={"unix_socket_dir": str(tmp_path)})
    raw = one.raw()
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    messenger = Raw(str(tmp_path / f".s.PGSQL.{one.port}"))
    messenger.send(cancel_request(raw.pid, raw.secret))
    assert error(raw.read_until("Z")).code == "57014"
    messenger.close()


def test_cancel_is_served_when_the_house_is_full(doorman, pg):
    one = doorman(general={"max_connections": 1})
    raw = one.raw()
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    cancel(one, raw)
    assert error(raw.read_until("Z")).code == "57014"


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\0\0\1", b"\0" * 40, b"\0" * 300])
def test_a_cancel_request_of_another_length_is_ignored(doorman, body):
    one = doorman()
    messenger = Raw((one.host, one.port))
    messenger.send(struct.pack("!ii", 8 + len(body), 80877102) + body)
    assert messenger.rest() == b""
    assert one.serves()


# Clients that vanish

@pytest.mark.parametrize("leave", ["close", "vanish"])
@pytest.mark.parametrize("doing", [
    [query("select pg_sleep(60)")],
    [query("begin"), query("select pg_sleep(60)")],
    [parse("select pg_sleep(60)"), bind(), execute(), sync()],
    [parse("select pg_sleep(60)"), bind(), execute(), flush()],
], ids=["query", "transaction", "batch", "flush"])
def test_a_client_that_vanishes_stops_its_query(doorman, pg, mode, doing, leave):
    one = doorman(mode=mode, size=1)
    raw = one.raw()
    raw.send(*doing)
    wait_until(lambda: running(pg))
    getattr(raw, leave)()
    wait_until(lambda: not running(pg), what="the query is stopped")
    wait_until(lambda: not one.open_transactions(), what="its transaction is over")
    assert one.serves()


@pytest.mark.parametrize("leave", ["close", "vanish"])
def test_in_the_middle_of_a_large_result(doorman, pg, mode, leave):
    one = doorman(mode=mode, size=1)
    for sql in ("select repeat('x', 1000) from generate_series(1, 10000000)",
                "copy (select repeat('x', 1000) from generate_series(1, 10000000)) to stdout",
                "select repeat('x', 64 * 1024 * 1024)"):
        raw = one.raw(receive_buffer=65536)
        raw.send(query(sql))
        raw.read_until("TH")
        getattr(raw, leave)()
        wait_until(lambda: not running(pg, "select"), what="the query is stopped")
        assert one.serves()


def test_in_the_middle_of_a_copy(doorman, pg, mode):
    one = doorman(mode=mode, size=1)
    pg.admin("create table broken (n int); alter table broken owner to app", database="shop")
    try:
        raw = one.raw()
        raw.send(query("copy broken from stdin"))
        raw.read_until("G")
        raw.send(copy_data(b"1\n"))
        raw.vanish()
        wait_until(lambda: not running(pg, "copy"), what="the copy is over")
        assert one.serves()
    finally:
        pg.admin("drop table broken", database="shop")


def test_in_the_middle_of_a_message(doorman, mode):
    one = doorman(mode=mode, size=1)
    for part in (query("select 1")[:3], query("select 1")[:8], parse("select 1")[:9],
                 query("x" * 1_000_000)[:500_000], parse("select 1") + bind()[:5]):
        raw = one.raw()
        raw.value("select 1")
        raw.send(part)
        raw.vanish()
        assert one.serves()


# Servers that go away

def test_the_servers_last_words_reach_the_client(doorman, pg, mode):
    one = doorman(mode=mode)
    raw = one.raw()
    raw.send(query("select pg_sleep(30)"))
    wait_until(lambda: running(pg))
    pg.terminate(*pg.pids())
    told = raw.read_until("E")[-1]
    assert told.code == "57P01"
    assert "administrator" in told.text
    assert raw.at_end()
    assert one.serves()


def test_also_to_a_client_idle_in_a_transaction(doorman, pg, mode):
    """It need not ask first."""
    one = doorman(mode=mode)
    raw = one.raw()
    raw.ask(query("begin"))
    pg.terminate(*pg.pids())
    assert raw.read_until("E")[-1].code == "57P01"
    assert raw.at_end()
    assert one.serves()


def test_also_in_the_middle_of_a_batch(doorman, pg):
    one = doorman()
    raw = one.raw()
    raw.send(parse("select 1"), bind(), execute(), parse("select pg_sleep(30)"), bind(), execute(), sync())
    wait_until(lambda: running(pg))
    pg.terminate(*pg.pids())
    seen = raw.read_until("E")
    assert kinds(seen) == "12DC12E" and seen[-1].code == "57P01"
    assert one.serves()


def test_also_in_the_middle_of_a_copy(doorman, pg):
    one = doorman()
    pg.admin("create table broken (n int); alter table broken owner to app", database="shop")
    try:
        raw = one.raw()
        raw.send(query("copy broken from stdin"))
        raw.read_until("G")
        pg.terminate(*pg.pids())
        # Either while it says nothing or when it goes on.
        assert raw.read_until("E")[-1].code == "57P01"
        assert one.serves()
    finally:
        pg.admin("drop table broken", database="shop")


def test_a_query_that_may_have_run_is_not_run_again(doorman, pg):
    """Another backend is tried only if nothing of the request reached the first one."""
    one = doorman()
    raw = one.raw()
    pg.admin("create table once (n int); alter table once owner to app", database="shop")
    try:
        raw.send(query("insert into once values (1); commit; select pg_sleep(30)"))
        # All three statements show as running; only the last one has the row committed.
        wait_until(lambda: pg.admin("select count(*) from once", database="shop")[0]["count"] == 1)
        pg.terminate(*pg.pids())
        raw.read_until("E")
        assert stays(lambda: not running(pg), 0.3)
        assert one.connect().execute("select count(*) from once").fetchone() == (1,)
    finally:
        pg.admin("drop table once", database="shop")
