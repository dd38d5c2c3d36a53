"""Connections that have not logged in: they cost no thread and no place, and keep nobody out.

What is promised is that a login, a cancel and the console work beside any number of them, so the limits of time here
are those of the clients.
"""

from __future__ import annotations

import os
import select
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from certificates import Authority
from doorman import Doorman, binary
from wait import wait_until
from wire import Raw, cancel_request, error, query, startup_packet

SSL_REQUEST = struct.pack("!ii", 8, 80877103)
PACKET = startup_packet({"user": "app", "database": "shop"})
SCRAM = "host all all 127.0.0.0/8 scram-sha-256\nlocal all all trust\n"


CROWD = """
import resource, socket, sys
host, port, number, said = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), bytes.fromhex(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
sockets = []
for _ in range(min(number, hard - 100)):
    sockets.append(socket.create_connection((host, port), timeout=20))
    try:
        sockets[-1].sendall(said)
    except OSError:
        pass
print("connected", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def mass():
    """Another process connects many times: `mass(one, number, said)`."""
    processes = []

    def connect(one, number: int, said: bytes = b"") -> None:
        command = [sys.executable, "-c", CROWD, one.host, str(one.port), str(number), said.hex()]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert processes[-1].stdout.readline() == b"connected\n"

    yield connect
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def crowd():
    """Connects and says something: `crowd(one, number, said, address)`."""
    sockets = []

    def connect(one, number: int, said: bytes = b"", address: str = "127.0.0.1") -> list[socket.socket]:
        made = []
        for _ in range(number):
            made.append(socket.create_connection((one.host, one.port), timeout=20, source_address=(address, 0)))
            if said:
                made[-1].sendall(said)
        sockets.extend(made)
        return made

    yield connect
    for one in sockets:
        one.close()


def at_end(plain: socket.socket) -> bool:
    try:
        return plain.recv(1) == b""
    except ConnectionResetError:
        return True


def works(one, busy: Raw) -> None:
    """A login, a cancel and the console."""
    assert one.serves()
    works_in_reserve(one, busy)


def works_in_reserve(one, busy: Raw) -> None:
    """A cancel and the console."""
    busy.send(query("select pg_sleep(600)"))
    wait_until(lambda: "pg_sleep" in str([row["query"] for row in one.pg.backends(None) if row["state"] == "active"]))
    messenger = one.raw(login=False)
    messenger.send(cancel_request(busy.pid, busy.secret))
    assert messenger.at_end()
    assert error(busy.read_until("Z")).code == "57014"
    assert one.console("show version")


@pytest.mark.parametrize("said", [b"", PACKET[:11], SSL_REQUEST], ids=["nothing", "half a packet", "SSLRequest"])
def test_ten_thousand_silent_connections_keep_nobody_out(doorman, mass, said):
    one = doorman(general={"max_connections": 100}, size=2)
    busy = one.raw()
    before = one.threads()
    mass(one, 10_000, said)
    works(one, busy)
    assert one.threads() < before + 10, "a silent connection has a thread"
    # They have no places either.
    inside = [one.raw() for _ in range(90)]
    assert len(inside) == 90


def test_the_one_silent_longest_is_closed_of_the_address_with_most(doorman, crowd):
    rules = "host all all 127.0.0.0/8 trust\n"
    one = doorman(general={"max_unauthenticated_connections": 20, "pg_hba": {"content": rules}})
    (lone,) = crowd(one, 1, address="127.0.0.2")
    crowded = crowd(one, 19)
    wait_until(lambda: one.descriptors() > 20)
    extra = crowd(one, 5)
    for old in crowded[:5]:
        assert at_end(old)
    for alive in (lone, crowded[5], extra[-1]):
        alive.sendall(PACKET)
        assert alive.recv(1) == b"R"
    one.wait_log("closed before its login.*max_unauthenticated_connections")


def test_a_login_that_is_held_up_by_its_client_gives_way_to_another(doorman, crowd, mass):
    one = doorman(general={"pg_hba": {"content": SCRAM}, "max_connections": 50})
    stuck = crowd(one, 1, PACKET)
    mass(one, 1500, PACKET)
    raw = one.raw(login=False, address=(one.host, one.port))
    assert error(raw.login(password="wrong")).code == "28P01"
    assert one.threads() < 600
    assert one.console("show version")
    told = b""
    stuck[0].settimeout(20)
    while chunk := stuck[0].recv(4096):
        told += chunk
    assert b"53300" in told


def test_clients_that_do_not_close_what_was_refused_hold_no_threads(doorman, mass):
    one = doorman()
    before = one.threads()
    mass(one, 2000, startup_packet({"user": "nobody", "database": "none"}))
    assert one.serves()
    wait_until(lambda: one.threads() < before + 40)


def test_places_are_for_those_who_have_logged_in(doorman, crowd, pg):
    users = [{"username": "app", "password": pg.verifier("app"), "pool_size": 2}]
    one = doorman(users=users, general={"max_connections": 3, "pg_hba": {"content": SCRAM}})
    crowd(one, 60, PACKET)
    assert one.console("show version")
    assert one.console("show lists")


def test_the_console_has_places_in_reserve(doorman):
    one = doorman(general={"max_connections": 2})
    inside = [one.raw() for _ in range(2)]
    assert error(one.raw(login=False).login()).text == "sorry, too many clients already"
    works_in_reserve(one, inside[0])


def test_a_connection_whose_bytes_drip_in_is_cut_in_time(doorman):
    one = doorman(general={"client_login_timeout": "1s"})
    raw = one.raw(login=False)
    for byte in startup_packet({"user": "app", "database": "shop", "application_name": "x" * 5000}):
        try:
            raw.send(bytes([byte]))
        except OSError:
            break
        if raw.socket in select.select([raw.socket], [], [], 0.002)[0]:
            break
    assert raw.at_end() or error([raw.read()]).code
    one.wait_log("rejected: canceling authentication due to timeout")


def test_thousands_of_rejections_are_a_few_lines(doorman):
    one = doorman()
    before = len(one.log())
    for _ in range(2000):
        with socket.create_connection((one.host, one.port)) as plain:
            plain.sendall(startup_packet({"user": "app", "database": "nowhere"}))
            assert plain.recv(1) == b"E"
    one.wait_log(r"\d+ more connections rejected: No connection pool configured for database: nowhere")
    assert len(one.log()) - before < 30_000


# TLS

@pytest.fixture
def secured(doorman, authority: Authority):
    identity = authority.sign("localhost")

    def start(**general) -> Doorman:
        keys = {"tls_certificate": str(identity.certificate), "tls_private_key": str(identity.key)}
        return doorman(general={**keys, **general})
    return start


def test_who_only_asks_for_tls_takes_no_turn_from_others(secured, crowd):
    one = secured(tls_rate_limit_per_second=100)
    for _ in range(3000):
        with socket.create_connection((one.host, one.port)) as plain:
            plain.sendall(SSL_REQUEST)
    # In the order of 3000 turns it would have 30 seconds to wait.
    assert one.connect(sslmode="require", connect_timeout=20).execute("select 1").fetchone() == (1,)


def hello() -> bytes:
    """A ClientHello."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        context.wrap_bio(incoming, outgoing).do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


def test_a_turn_is_given_back_by_who_goes_away_before_it(secured):
    one = secured(tls_rate_limit_per_second=100)
    begun = hello()
    for _ in range(3000):
        with socket.create_connection((one.host, one.port)) as plain:
            plain.sendall(SSL_REQUEST)
            assert plain.recv(1) == b"S"
            plain.sendall(begun)
    assert one.connect(sslmode="require", connect_timeout=20).execute("select 1").fetchone() == (1,)


def test_a_handshake_that_has_no_turn_in_time_is_refused_at_once(secured, crowd):
    one = secured(tls_rate_limit_per_second=100, client_login_timeout="3s")
    begun = hello()
    waiting = crowd(one, 900, SSL_REQUEST)
    for plain in waiting:
        assert plain.recv(1) == b"S"
        plain.sendall(begun)
    one.wait_log("TLS handshake with client .* failed: tls_rate_limit_per_second leaves it no turn")


# Threads

class OfAnother(Doorman):
    """One whose process is another user's."""

    USER = 61234

    def write(self) -> None:
        super().write()
        os.chown(self.path, self.USER, self.USER)


@pytest.fixture
def limited(pg, tmp_path):
    """Starts a pooler as a user of its own who may have so many threads: `limited(40)`."""
    if os.getuid() != 0:
        pytest.skip("needs root, to start a process of another user")
    directory = Path(tempfile.mkdtemp(prefix="doorman-", dir="/tmp"))
    started = []

    def start(threads: int, **config) -> Doorman:
        program = directory / "pg_doorman"
        shutil.copy(binary(), directory / "real")
        program.write_text(f"#!/bin/sh\nexec setpriv --reuid={OfAnother.USER} --regid={OfAnother.USER} --clear-groups "
                           f"prlimit --nproc={threads} -- {directory}/real \"$@\"\n")
        for path in (program, directory / "real", directory):
            path.chmod(0o755)
        one = OfAnother(pg, directory, program=program, **config)
        started.append(one)
        return one.start()

    yield start
    for one in started:
        try:
            one.stop()
        finally:
            one.kill()
    shutil.rmtree(directory)


def test_more_clients_than_there_may_be_threads_share_some(limited):
    one = limited(80, general={"max_connections": 1000, "client_threads": 0})
    one.wait_log(r"No more than \d+ threads for clients, by RLIMIT_NPROC")
    inside = [one.raw() for _ in range(150)]
    assert all(raw.value("select 1") == "1" for raw in inside)
    assert one.threads() <= 80


def test_where_no_thread_can_be_started_clients_are_told_at_once(limited, background):
    one = limited(80, general={"max_connections": 1000})
    inside = [one.raw()]
    # Somebody else has all of the user's threads.
    hog = ["setpriv", f"--reuid={OfAnother.USER}", f"--regid={OfAnother.USER}", "--clear-groups", "sleep", "600"]
    hogs = [subprocess.Popen(hog) for _ in range(90)]
    try:
        wait_until(lambda: sum(Path(f"/proc/{hog.pid}/comm").read_text() == "sleep\n" for hog in hogs) == 90)
        # Those that wait without work are used up first.
        while (seen := (raw := one.raw(login=False)).login())[-1].kind == "Z":
            inside.append(raw)
        assert error(seen).code == "53300"
        assert "no thread" in error(seen).text
        works_in_reserve(one, inside[0])
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
