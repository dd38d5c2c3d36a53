"""Sessions in threads of their own and in shared sets, and on the way from one to the other."""

from __future__ import annotations

import os
import select
import ssl

import pytest

from wait import wait_until
from wire import (Raw, SSL_REQUEST, bind, cancel_request, copy_data, copy_done, error, execute, flush, kinds, parse,
                  query, rows, sync)

PROCESSORS = len(os.sched_getaffinity(0))


def row_of(one, raw):
    """What SHOW CLIENTS says of this client."""
    number = raw.pid - (1 << 22)
    return next(row for row in one.console("show clients") if row["client_id"] == f"#c{number}")


def is_shared(one, raw):
    return row_of(one, raw)["thread"].startswith("clients ")


class Busy:
    """As many clients with threads of their own as there are processors. Inside a `with` they are all busy."""

    def __init__(self, one):
        self.one = one
        self.clients = [one.raw() for _ in range(PROCESSORS)]

    def __enter__(self):
        for raw in self.clients:
            raw.send(query("select pg_sleep(60)"))
        wait_until(lambda: all(row_of(self.one, raw)["state"] == "active" for raw in self.clients))
        return self

    def __exit__(self, *_):
        for raw in self.clients:
            # PostgreSQL ignores a CancelRequest that comes before the query has begun.
            def ended(raw=raw):
                cancel(self.one, raw)
                return select.select([raw.socket], [], [], 1)[0]
            wait_until(ended)
            assert error(raw.read_until("Z")).code == "57014"


def cancel(one, raw):
    other = one.raw(login=False)
    other.send(cancel_request(raw.pid, raw.secret))
    assert other.at_end()


def calm(one):
    """From now on a session that becomes busy in a set goes back to a thread of its own."""
    with Busy(one) as busy:
        probe = one.raw()
        probe.ask(query("select 1"))
        assert is_shared(one, probe)

    def has_left():
        probe.ask(query("select 1"))
        return not is_shared(one, probe)

    wait_until(has_left)
    for raw in (probe, *busy.clients):
        raw.close()


@pytest.fixture(params=["plain", "tls"])
def scene(doorman, authority, request, mode):
    """A pooler, and how to connect to it: `one, connect = scene`."""
    if request.param == "plain":
        one = doorman(mode=mode, size=2 * PROCESSORS + 8)
        return one, one.raw
    shown = authority.sign("localhost")
    one = doorman(mode=mode, size=2 * PROCESSORS + 8,
                  general={"tls_certificate": str(shown.certificate), "tls_private_key": str(shown.key)})
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False

    def connect():
        raw = one.raw(login=False)
        raw.send(SSL_REQUEST)
        assert raw.byte() == b"S"
        encrypted = Raw(context.wrap_socket(raw.socket))
        encrypted.login()
        return encrypted

    return one, connect


# What is asked, how the reply ends, and its kinds. The session moves at each of these.
STATES = {
    "transactions": [
        ((query("select 1"),), "Z", "TDCZ"),
        ((query("select 2"),), "Z", "TDCZ"),
    ],
    "a transaction block": [
        ((query("begin; create temp table mine (n int) on commit drop"),), "Z", "CCZ"),
        ((query("insert into mine values (1)"),), "Z", "CZ"),
        ((query("select n from mine"),), "Z", "TDCZ"),
        ((query("commit"),), "Z", "CZ"),
    ],
    "a failed block": [
        ((query("begin; select 1/0"),), "Z", "CEZ"),
        ((query("select 1"),), "Z", "EZ"),
        ((query("rollback"),), "Z", "CZ"),
    ],
    "a batch": [
        ((parse("select $1::int", "mine"), bind(["1"], "mine"), execute(), flush()), "C", "12DC"),
        ((bind(["2"], "mine"), execute(), flush()), "C", "2DC"),
        ((bind(["3"], "mine"), execute(), sync()), "Z", "2DCZ"),
    ],
    "a portal": [
        ((query("begin"), parse("select generate_series(1, 3)"), bind(), execute(limit=1), sync()), "s", "CZ12Ds"),
        ((execute(limit=1), sync()), "s", "ZDs"),
        ((execute(), sync()), "C", "ZDC"),
        ((query("commit"),), "C", "ZC"),
    ],
    "a copy in": [
        ((query("begin; create temp table mine (n int) on commit drop; copy mine from stdin"),), "G", "CCG"),
        ((copy_data(b"1\n"), copy_done()), "Z", "CZ"),
        ((query("select n from mine; commit"),), "Z", "TDCCZ"),
    ],
    "a large result": [
        ((query("select repeat('x', 1000) from generate_series(1, 5000)"),), "Z", "T" + 5000 * "D" + "CZ"),
        ((query("copy (select repeat('x', 1000) from generate_series(1, 5000)) to stdout"),), "Z",
         "H" + 5000 * "d" + "cCZ"),
    ],
}


@pytest.mark.parametrize("state", STATES)
def test_a_session_joins_a_set_and_leaves_it_in_every_state(scene, state):
    one, connect = scene
    raw = connect()
    for place, (request, end, expected) in enumerate(STATES[state]):
        if place % 2 == 0:
            with Busy(one) as busy:
                raw.send(*request)
                seen = raw.read_until(end)
                shared = is_shared(one, raw)
            for other in busy.clients:
                other.close()
            assert shared
        else:
            was_busy = row_of(one, raw)["state"] == "active" and "copy" in state
            calm(one)
            raw.send(*request)
            seen = raw.read_until(end)
            # A copy is one request, and a session moves when it begins one.
            assert was_busy or not is_shared(one, raw)
        assert kinds(seen) == expected


@pytest.mark.parametrize("state", STATES)
def test_a_session_in_a_set_moves_to_another_process_in_every_state(scene, state):
    one, connect = scene
    raw = connect()
    for request, end, expected in STATES[state]:
        with Busy(one) as busy:
            raw.send(*request)
            seen = raw.read_until(end)
        for other in busy.clients:
            other.close()
        assert kinds(seen) == expected
        one.upgrade()


def test_clients_beyond_client_threads_share_one(doorman, mode):
    one = doorman(mode=mode, size=40, general={"client_threads": 3})
    crowd = [one.raw() for _ in range(30)]
    for n, raw in enumerate(crowd):
        raw.send(query(f"select {n}"))
    assert [rows(raw.read_until("Z")) for raw in crowd] == [[[b"%d" % n]] for n in range(30)]
    assert sum(not is_shared(one, raw) for raw in crowd) <= 3
    # Another has the place of one that leaves.
    for raw in crowd[:10]:
        raw.close()
    rest = crowd[10:]

    def have_threads():
        for raw in rest:
            raw.ask(query("select 1"))
        return sum(not is_shared(one, raw) for raw in rest) == 3

    wait_until(have_threads)


def test_each_client_has_a_thread_if_that_is_wanted(doorman):
    one = doorman(size=30, general={"client_threads": 0})
    crowd = [one.raw() for _ in range(20)]
    for raw in crowd:
        raw.send(query("select pg_sleep(0.1)"))
    for raw in crowd:
        raw.read_until("Z")
    assert not any(is_shared(one, raw) for raw in crowd)
    one.upgrade()
    for raw in crowd:
        raw.ask(query("select 1"))
    assert not any(is_shared(one, raw) for raw in crowd)


def in_a_set(one, count):
    """So many clients that are in a set, since another has the only thread for one."""
    clients = [one.raw() for _ in range(count + 1)]
    return [raw for raw in clients if is_shared(one, raw)][:count]


def test_a_notification_reaches_a_client_in_a_set(doorman):
    one = doorman(mode="session", size=8, general={"client_threads": 1})
    first, second = in_a_set(one, 2)
    second.ask(query("listen news"))
    first.ask(query("notify news"))
    assert [reply.kind for reply in second.read_until("A")] == ["A"]


def test_one_that_reads_nothing_does_not_delay_the_others_of_its_set(doorman):
    one = doorman(size=4, general={"client_threads": 1})
    slow, other = in_a_set(one, 2)
    slow.send(query("select repeat('x', 1000000) from generate_series(1, 100)"))
    for n in range(20):
        assert other.value(f"select {n}") == str(n)
    seen = slow.read_until("Z")
    assert kinds(seen) == "T" + 100 * "D" + "CZ"


def test_those_of_a_set_wait_for_each_others_server_connection(doorman, mode):
    one = doorman(size=1, general={"client_threads": 1})
    crowd = in_a_set(one, 10)
    holder = crowd[0]
    holder.ask(query("begin"))
    for n, raw in enumerate(crowd[1:]):
        raw.send(query(f"select {n}"))
    wait_until(lambda: one.waiting() == 9)
    cancel(one, crowd[5])
    assert error(crowd[5].read_until("Z")).code == "57014"
    crowd[7].vanish()
    wait_until(lambda: one.waiting() == 7)
    holder.ask(query("commit"))
    for n, raw in enumerate(crowd[1:]):
        if n not in (4, 6):
            assert rows(raw.read_until("Z")) == [[b"%d" % n]]


def test_a_session_that_ends_leaves_the_servers_of_others_alone(doorman, pg):
    one = doorman(mode="session", size=8, general={"client_threads": 1})
    ends, other = [raw for raw in (one.raw(receive_buffer=4096) for _ in range(3)) if is_shared(one, raw)][:2]
    (pid,) = [int(ends.value("select pg_backend_pid()"))]

    def state(of):
        return next(row["state"] for row in pg.backends() if row["pid"] == of)

    # Its last reply is whole, and it has not taken all of it.
    for _ in range(900):
        ends.send(query("select repeat('x', 12000)"))
        wait_until(lambda: state(pid) == "idle")
    pg.terminate(pid)
    pg.admin("select pg_advisory_lock(7)", database="shop")
    other.send(query("select 77 from pg_advisory_lock(7)"))
    wait_until(lambda: pg.backends() and all(row["wait_event"] == "advisory" for row in pg.backends()))
    ends.vanish()
    wait_until(lambda: f"#c{ends.pid - (1 << 22)}" not in str(one.console("show clients")), what="the session has ended")
    pg.admin("select pg_advisory_unlock(7)", database="shop")
    assert rows(other.read_until("Z")) == [[b"77"]]
