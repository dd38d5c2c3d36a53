"""A client that stops sending: what it sent whole is run and answered, as PostgreSQL does.

With a Terminate behind it, to its end. Without one, while the client may still read, for `client_gone_timeout`.
"""

from __future__ import annotations

import socket
import ssl
from contextlib import suppress

import pytest

from wait import stays, wait_until
from wire import (Raw, bind, copy_data, copy_done, error, execute, flush, kinds, parse, query, rows, sync, terminate,
                  SSL_REQUEST, startup_packet)

LONG = {"client_gone_timeout": "1h"}


@pytest.fixture
def table(pg):
    pg.admin("create table kept (n int); alter table kept owner to app", database="shop")
    yield lambda: sorted(row["n"] for row in pg.admin("select n from kept", database="shop"))
    pg.admin("drop table kept", database="shop")


def insert(n: int) -> bytes:
    return query(f"insert into kept values ({n})")


def running(pg, what: str = "pg_sleep") -> list[dict]:
    return [b for b in pg.backends() if b["state"] == "active" and what in b["query"]]


def half_close(raw: Raw) -> None:
    raw.socket.shutdown(socket.SHUT_WR)


def all_messages(raw: Raw) -> list:
    seen = []
    while (message := raw.read()) is not None:
        seen.append(message)
    return seen


# The end of the stream, as PostgreSQL has it

ENDS = {
    "query": [query("select 1")],
    "pipeline": [query(f"select {n}") for n in range(50)],
    "transaction": [query("begin"), insert(1)],
    "batch": [parse("select 1"), bind(), execute(), sync()],
    "flush": [parse("insert into kept values (1)"), bind(), execute(), flush()],
    "unflushed": [parse("select 1"), bind(), flush(), execute()],
    "unflushed error": [parse("select 1"), bind(), parse("selec 1")],
    "unflushed copy": [parse("copy kept from stdin"), bind(), execute(), sync(), copy_data(b"1\n"), copy_done()],
    "untold": [query("select 1"), parse("select 1"), bind(), execute()],
    "error": [query("selec 1"), query("select 2")],
    "failed batch": [parse("selec 1"), sync(), query("select 2")],
    "half a message": [query("select 1"), query("select 2")[:9]],
    "half a large message": [query("select 1"), query("select '%s'" % ("x" * 300_000))[:200_000]],
    "copy": [query("copy kept from stdin"), copy_data(b"1\n"), copy_done(), query("select 1")],
    "barrier": [query("begin"), query("set local search_path = public"), query("select 1")],
}


@pytest.mark.parametrize("what, end", [(what, end) for what in ENDS for end in ("terminate", "half-close")
                                       if end == "half-close" or "half" not in what])
def test_what_was_sent_whole_is_answered(doorman, pg, table, mode, what, end):
    one = doorman(mode=mode, size=1, general=LONG)

    def replies(raw: Raw) -> str:
        raw.send(*ENDS[what], *([terminate()] if end == "terminate" else []))
        if end == "half-close":
            half_close(raw)
        return kinds(all_messages(raw))

    direct = Raw((pg.host, pg.port))
    direct.login()
    expected = replies(direct)
    assert expected
    assert replies(one.raw()) == expected
    assert one.serves()
    wait_until(lambda: not one.open_transactions(), what="nothing is left open")
    assert len(pg.pids()) == 1


def test_an_open_batch_is_not_committed(doorman, table, mode):
    one = doorman(mode=mode, size=1)
    for last in ([], [flush()]):
        for leave in (half_close, lambda raw: raw.send(terminate()), Raw.close, Raw.vanish):
            raw = one.raw()
            raw.send(parse("insert into kept values (1)"), bind(), execute(), *last)
            leave(raw)
            assert one.serves()
    assert table() == []


def test_a_copy_fails(doorman, table, mode):
    one = doorman(mode=mode, size=1)
    for leave in (half_close, lambda raw: raw.send(terminate()), Raw.close, Raw.vanish):
        raw = one.raw()
        raw.send(query("copy kept from stdin"))
        raw.read_until("G")
        raw.send(copy_data(b"1\n"))
        leave(raw)
        assert one.serves()
    assert table() == []


# While the pool is busy

@pytest.fixture
def busy(doorman):
    """A pool whose one server connection is in use until `let_go()` is called."""
    one = doorman(size=1, general={"query_wait_timeout": "1h", "unix_socket_dir": "/tmp"})
    holder = one.raw()
    holder.ask(query("begin"))
    holder.ask(query("select 1"))
    one.let_go = lambda: holder.ask(query("commit"))
    return one


def unix(one) -> str:
    return f"/tmp/.s.PGSQL.{one.port}"


@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("leave", [Raw.close, Raw.vanish, half_close], ids=["close", "reset", "half-close"])
def test_a_request_with_a_terminate_is_run_when_its_turn_comes(busy, table, way, leave):
    raw = busy.raw(address=unix(busy) if way == "unix" else None)
    raw.send(*[insert(n) for n in range(20)], terminate())
    wait_until(lambda: busy.waiting() == 1, what="it waits")
    leave(raw)
    # Longer than client_gone_timeout.
    assert stays(lambda: busy.waiting() == 1, 1.5)
    busy.let_go()
    wait_until(lambda: table() == list(range(20)), what="all of it is run")
    assert busy.serves()


def test_a_terminate_behind_what_fits_no_buffer(busy, table):
    """It lies in the socket while the session waits."""
    raw = busy.raw()
    raw.send(query("insert into kept select 1 -- " + "x" * 400_000), terminate())
    raw.close()
    assert stays(lambda: busy.waiting() == 1, 1.5)
    busy.let_go()
    wait_until(lambda: table() == [1], what="it is run")
    assert busy.serves()


def test_a_request_without_a_terminate_keeps_its_place(doorman, table):
    one = doorman(size=1, general=LONG | {"query_wait_timeout": "1h"})
    holder = one.raw()
    holder.ask(query("begin"))
    holder.ask(query("select 1"))
    first, second = one.raw(), one.raw()
    first.send(insert(1))
    wait_until(lambda: one.waiting() == 1)
    second.send(query("select count(*) from kept"))
    wait_until(lambda: one.waiting() == 2)
    half_close(first)
    assert stays(lambda: one.waiting() == 2, 0.5)
    holder.ask(query("commit"))
    assert kinds(all_messages(first)) == "CZ"
    assert rows(second.read_until()) == [[b"1"]]


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_request_that_nobody_awaits_leaves_the_queue(busy, table, way):
    for leave in (Raw.close, Raw.vanish, half_close):
        raw = busy.raw(address=unix(busy) if way == "unix" else None)
        raw.send(insert(1))
        wait_until(lambda: busy.waiting() == 1, what="it waits")
        leave(raw)
        wait_until(lambda: busy.waiting() == 0, what="it has left the queue")
    busy.let_go()
    assert busy.serves()
    assert table() == []


# What runs

def test_a_half_closed_client_is_told_when_its_time_is_up(doorman, pg, mode):
    one = doorman(mode=mode, size=1, general={"client_gone_timeout": "100ms"})
    raw = one.raw()
    raw.send(query("select pg_sleep(60)"))
    half_close(raw)
    told = error(all_messages(raw))
    assert told.code == "57014" and "client_gone_timeout" in told.text
    wait_until(lambda: not running(pg), what="the query is canceled")
    assert one.serves()


@pytest.mark.parametrize("way, leave", [("tcp", Raw.vanish), ("unix", Raw.close), ("unix", Raw.vanish)])
def test_a_query_is_canceled_at_once_where_nobody_reads(doorman, pg, mode, way, leave):
    one = doorman(mode=mode, size=1, general=LONG | {"unix_socket_dir": "/tmp"})
    raw = one.raw(address=unix(one) if way == "unix" else None)
    raw.send(query("select pg_sleep(60)"))
    wait_until(lambda: running(pg), what="it runs")
    leave(raw)
    wait_until(lambda: not running(pg), what="the query is canceled")
    assert one.serves()


@pytest.mark.parametrize("leave", [Raw.close, Raw.vanish, half_close], ids=["close", "reset", "half-close"])
def test_with_a_terminate_it_runs_to_its_end(doorman, pg, table, mode, leave):
    one = doorman(mode=mode, size=1, general={"client_gone_timeout": "0"})
    lock = pg.connect()
    lock.autocommit = False
    lock.execute("lock table kept")
    raw = one.raw()
    raw.send(query("begin"), insert(1), query("commit"), insert(2), terminate())
    wait_until(lambda: running(pg, "insert"), what="it waits for the lock")
    leave(raw)
    assert stays(lambda: running(pg, "insert"), 1.5)
    lock.rollback()
    lock.close()
    wait_until(lambda: table() == [1, 2], what="all of it is run")
    assert one.serves()


def test_a_client_that_leaves_while_it_does_not_read(doorman, pg, mode):
    """Its replies are owed to it, and more requests lie unread."""
    one = doorman(mode=mode, size=1, general=LONG)
    for leave in (Raw.close, Raw.vanish):
        raw = one.raw(receive_buffer=4096)
        raw.send(*[query("select repeat('x', 10000) from generate_series(1, 1000)")] * 20)
        wait_until(lambda: running(pg, "repeat"), what="PostgreSQL waits for it to read")
        leave(raw)
        assert one.serves()


# TLS

@pytest.mark.parametrize("end", ["close_notify", "end of stream", "terminate"])
def test_over_tls(doorman, authority, table, end):
    shown = authority.sign("localhost")
    one = doorman(size=1, general={"tls_certificate": str(shown.certificate), "tls_private_key": str(shown.key)})
    plain = socket.create_connection((one.host, one.port), timeout=30)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=authority.certificate).wrap_bio(incoming, outgoing, server_hostname="localhost")

    def flow(step):
        """Does this, with the bytes that it takes from and to the socket."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                if outgoing.pending:
                    plain.sendall(outgoing.read())
                data = plain.recv(65536)
                incoming.write(data) if data else incoming.write_eof()

    flow(tls.do_handshake)
    tls.write(startup_packet({"user": "app", "database": "shop"}))
    seen = b""
    while not seen.endswith(b"Z\0\0\0\5I"):
        seen += flow(lambda: tls.read(65536))
    tls.write(insert(1) + query("select pg_sleep(0.3)") + insert(2) + (terminate() if end == "terminate" else b""))
    if end == "close_notify":
        with suppress(ssl.SSLWantReadError):
            tls.unwrap()
    plain.sendall(outgoing.read())
    if end == "end of stream":
        plain.shutdown(socket.SHUT_WR)
    replies = b""
    if end == "close_notify":
        # OpenSSL reads no more by itself: that there is something to read has to do.
        while data := plain.recv(65536):
            replies += data
    else:
        with suppress(ssl.SSLZeroReturnError, ssl.SSLEOFError):
            while data := flow(lambda: tls.read(65536)):
                replies += data
        assert replies.count(b"INSERT 0 1") == 2
    assert replies
    plain.close()
    wait_until(lambda: table() == [1, 2], what="both have been run")
    assert one.serves()


# Upgrades

def test_in_a_set_after_an_upgrade(doorman, table, mode):
    one = doorman(mode=mode, size=1, general=LONG)
    quiet = [one.raw() for _ in range(3)]
    one.upgrade()
    quiet[0].send(insert(1), terminate())
    quiet[1].send(insert(2))
    half_close(quiet[1])
    if mode == "transaction":
        quiet[2].close()
    for raw in quiet[:2]:
        assert kinds(all_messages(raw)) == "CZ"
    assert table() == [1, 2]
    assert one.serves()


@pytest.mark.parametrize("end", ["terminate", "half-close"])
def test_an_upgrade_after_the_end(doorman, pg, table, end):
    """What the client is owed, and its place in the queue, move with it."""
    one = doorman(size=1, general=LONG | {"query_wait_timeout": "1h"})
    lock = pg.connect()
    lock.autocommit = False
    lock.execute("lock table kept")
    both = [one.raw(), one.raw()]
    for n, raw in enumerate(both):
        raw.send(insert(n), *([terminate()] if end == "terminate" else []))
        if end == "half-close":
            half_close(raw)
        wait_until(lambda: running(pg, "insert"), what="the first runs")
    wait_until(lambda: one.waiting() == 1, what="the second waits")
    one.upgrade()
    lock.rollback()
    lock.close()
    for raw in both:
        assert kinds(all_messages(raw)) == "CZ"
    assert table() == [0, 1]
    assert one.serves()
