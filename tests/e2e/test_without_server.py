"""A request that gets no server connection: an error like any other, and the session goes on.

Waiting goes on as long as it can help; afterwards the SQLSTATE says what was lacking.
"""

from __future__ import annotations

import socket
import threading
import time

import psycopg
import pytest

from postgres import free_port
from wait import wait_until
from wire import SSL_REQUEST, bind, error, execute, kinds, parse, query, rows, sync

SHORT = {"query_wait_timeout": "300ms"}


@pytest.fixture
def full(doorman, mode):
    """A pool whose only connection is in use, and a client that waits in vain."""
    one = doorman(mode=mode, size=1, general=SHORT)
    holder, late = one.raw(), one.raw()
    holder.ask(query("begin"), query("select 1"))
    holder.read_until("Z")
    return one, holder, late


def reload(one):
    one.write()
    one.console("reload")


def release(holder, mode):
    holder.ask(query("commit"))
    if mode == "session":
        holder.send(b"X\0\0\0\4")
        assert holder.at_end()


def test_a_full_pool_is_an_error_of_the_request(full, mode):
    one, holder, late = full
    for _ in range(2):
        seen = late.ask(query("select 1"))
        assert kinds(seen) == "EZ" and late.status == "I"
        told = error(seen)
        assert (told.code, told.fields["S"], told.fields["V"]) == ("53300", "ERROR", "ERROR")
        assert "pool_size" in told.text and "query_wait_timeout" in told.text
    assert one.waiting() == 0
    release(holder, mode)
    assert late.value("select 2") == "2"


def test_a_batch_is_skipped_up_to_its_sync(full, mode):
    _, holder, late = full
    batch = [parse("select 1"), bind(), execute(), query("select 5"), parse("selec 2"), sync()]
    late.send(*batch, *batch)
    for _ in range(2):
        assert kinds(late.read_until("Z")) == "EZ" and late.status == "I"
    release(holder, mode)
    late.send(parse("select 3", "s"), bind(statement="s"), execute(), sync())
    assert rows(late.read_until("Z")) == [[b"3"]]


def test_a_block_that_has_begun_has_failed(doorman):
    """The client believes that its block is open, and so it is: only to be rolled back."""
    one = doorman(size=1, general=SHORT)
    holder, late = one.raw(), one.raw()
    holder.ask(query("begin"))
    holder.ask(query("select 1"))
    late.ask(query("begin;"))
    assert late.status == "T"
    assert kinds(late.ask(query("select 1"))) == "EZ" and late.status == "E"
    holder.ask(query("commit"))
    assert error(late.ask(query("select 1"))).code == "25P02"
    assert late.status == "E"
    assert late.ask(query("commit"))[0].tag == "ROLLBACK"
    assert late.status == "I"
    assert late.value("select 2") == "2"


def test_drivers_see_the_code_and_go_on(full, mode):
    one, holder, _ = full
    connection = one.connect()
    for prepare in (False, True):
        with pytest.raises(psycopg.errors.TooManyConnections, match="pool_size"):
            connection.execute("select %s::int", (1,), prepare=prepare)
        assert not connection.closed
    release(holder, mode)
    assert connection.execute("select %s::int", (2,)).fetchone() == (2,)


def test_a_huge_request_is_refused_too(full, mode):
    _, holder, late = full
    late.send(query(f"select length('{'x' * 3_000_000}')"))
    assert kinds(late.read_until("Z")) == "EZ"
    release(holder, mode)
    assert late.value("select 2") == "2"


@pytest.mark.parametrize("login", [False, True])
def test_a_server_that_is_down_is_waited_for(doorman, pg, mode, login):
    one = doorman(mode=mode, general={"query_wait_timeout": "30s"})
    raw = one.raw(login=not login)
    pg.stop()
    try:
        if login:
            raw.startup(user="app", database="shop")
        else:
            raw.send(query("select 1"))
        wait_until(lambda: one.waiting() == 1 and "could not connect" in one.log())
    finally:
        pg.start_again()
    if login:
        assert raw.authenticate("app", "")[-1].kind == "Z"
    else:
        assert kinds(raw.read_until("Z")) == "TDCZ"


def test_a_server_that_stays_down_is_a_connection_failure(doorman, pg):
    one = doorman(general=SHORT)
    raw, driver = one.raw(), one.connect()
    pg.stop()
    try:
        wait_until(lambda: one.pool()["sv_idle"] == 0)
        told = error(raw.ask(query("select 1")))
        assert (told.code, told.fields["S"]) == ("08006", "ERROR")
        with pytest.raises(psycopg.errors.ConnectionFailure):
            driver.execute("select 1")
        assert not driver.closed
        refused = one.raw(login=False)
        told = error(refused.login(options="-c work_mem=1234kB"))
        assert (told.code, told.fields["S"]) == ("08006", "FATAL")
        assert refused.at_end()
    finally:
        pg.start_again()
    wait_until(lambda: kinds(raw.ask(query("select 1"))) == "TDCZ")
    assert driver.execute("select 1").fetchone() == (1,)


@pytest.fixture
def refusing():
    """A server that refuses every login with this SQLSTATE; sets `event` when it has."""
    listeners = []

    def start(code: str, words: str):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        refused = threading.Event()

        def serve():
            while True:
                try:
                    peer, _ = listener.accept()
                except OSError:
                    return
                with peer:
                    if peer.recv(4096) == SSL_REQUEST:
                        peer.sendall(b"N")
                        continue
                    body = b"".join(k + v.encode() + b"\0" for k, v in
                                    ((b"S", "FATAL"), (b"V", "FATAL"), (b"C", code), (b"M", words))) + b"\0"
                    peer.sendall(b"E" + (len(body) + 4).to_bytes(4, "big") + body)
                    refused.set()
        threading.Thread(target=serve, daemon=True).start()
        return listener.getsockname()[1], refused

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.mark.parametrize("code", ["57P03", "57P01", "53300"])
def test_a_server_that_takes_nobody_now_is_waited_for(doorman, pg, refusing, code):
    """It is starting, say; and afterwards the client is told by the code that PostgreSQL has for it."""
    one = doorman(general={"query_wait_timeout": "30s"})
    raw = one.raw()
    port, refused = refusing(code, "not now")
    pools = one.config["pools"]["shop"]
    pools["server_port"], right = port, pools["server_port"]
    reload(one)
    raw.send(query("select 1"))
    assert refused.wait(20)
    wait_until(lambda: one.waiting() == 1)
    pools["server_port"] = right
    reload(one)
    assert kinds(raw.read_until("Z")) == "TDCZ"
    pools["server_port"] = port
    one.config["general"].update(SHORT)
    reload(one)
    told = error(raw.ask(query("select 1")))
    assert told.code == ("53300" if code == "53300" else "57P03")
    assert "not now" in told.text


@pytest.mark.parametrize("code", ["28P01", "28000", "3D000", "42501"])
def test_a_refusal_of_the_poolers_own_login_is_told_at_once(doorman, refusing, code):
    one = doorman(general={"query_wait_timeout": "10m"})
    raw = one.raw()
    pools = one.config["pools"]["shop"]
    pools["server_port"], right = refusing(code, "go away")[0], pools["server_port"]
    reload(one)
    told = error(raw.ask(query("select 1")))
    assert (told.code, told.fields["S"]) == (code, "ERROR")
    assert "go away" in told.text and "pooler's own login" in told.text
    pools["server_port"] = right
    reload(one)
    assert raw.value("select 1") == "1"


def test_the_log_says_it_once(doorman):
    one = doorman(general=SHORT, pool={"server_port": free_port()})
    begun = time.monotonic()
    for _ in range(4):
        assert error(one.raw(login=False).login()).code == "08006"
    # It is told again after 20 s.
    told_at_most = 1 + (time.monotonic() - begun) // 20
    assert 1 <= one.log().count("could not connect to PostgreSQL at") <= told_at_most
