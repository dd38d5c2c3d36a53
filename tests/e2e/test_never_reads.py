"""Peers that send as much as is taken and never read: what the pooler keeps for them has a bound."""

from __future__ import annotations

import select
import socket
import struct
import threading

import pytest

from wait import wait_until
from wire import (Raw, bind, close_statement, describe_statement, execute, flush, function_call, message, parse, query,
                  sync, text)

MIB = 1024

TALK = {
    "Sync": sync(),
    "Parse and Close of the same": parse("select 1", "a") + close_statement("a"),
    "Parse, Close, Sync": parse("select 1", "a") + close_statement("a") + sync(),
    "Close of nothing": close_statement("nothing"),
    "Parse without a name": parse("select 1"),
    "Describe": parse("select 1", "a") + describe_statement("a") + close_statement("a"),
    "Bind and Execute": parse("select 1") + bind() + execute(),
    "Query": query("select 1"),
    "an empty Query": query(""),
    "Flush": flush(),
    "long rows": query("select repeat('x', 100000)"),
    "SET": query("set application_name = 'x'"),
    "errors": query("select 1/0"),
    "FunctionCall": function_call(1598, []),
}


def send_all_that_is_taken(raw: Raw, data: bytes, most: int = 16 * 1024 * 1024) -> int:
    """Sends until nothing has been taken for a moment."""
    raw.socket.setblocking(False)
    data, sent = memoryview(data * (1 + 256 * 1024 // len(data))), 0
    rest = data
    while sent < most:
        if not select.select([], [raw.socket], [], 0.5)[1]:
            break
        try:
            n = raw.socket.send(rest)
        except (BrokenPipeError, ConnectionResetError):
            break
        sent, rest = sent + n, rest[n:] or data
    return sent


@pytest.mark.parametrize("talk", TALK, ids=list(TALK))
def test_a_client_that_never_reads_is_kept_little_of(doorman, mode, talk):
    one = doorman(mode=mode, size=3)
    clients = [one.raw(), one.raw()]
    one.forget_peak()
    before = one.resident_kib()
    for raw in clients:
        send_all_that_is_taken(raw, TALK[talk])
    # What is held back for statements that may not come to be has a bound of 8 MiB of its own.
    assert one.peak_kib() - before < 40 * MIB
    assert one.serves()


class Endless:
    """A PostgreSQL that lets everybody in and then says something without end."""

    def __init__(self, said: bytes):
        self.said = said * (1 + 256 * 1024 // len(said))
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        ready = message(b"Z", b"I")
        packet = connection.recv(4096)
        if packet[4:8] == struct.pack("!i", 80877103):
            connection.sendall(b"N")
            packet = connection.recv(4096)
        connection.sendall(message(b"R", struct.pack("!i", 0)) + message(b"S", text("server_version") + text("15"))
                           + message(b"S", text("client_encoding") + text("UTF8"))
                           + message(b"K", struct.pack("!ii", 1, 2)) + ready)
        try:
            while connection.recv(65536):
                while self.sent < 256 * 1024 * 1024:
                    self.sent += connection.send(self.said)
                connection.sendall(ready)
        except OSError:
            pass


NOISE = {
    "NoticeResponse": message(b"N", b"SNOTICE\0C00000\0M" + b"x" * 100 + b"\0\0"),
    "NotificationResponse": message(b"A", struct.pack("!i", 1) + text("channel") + text("payload")),
    "ParameterStatus": message(b"S", text("application_name") + text("x")),
    "ParameterStatus of another name": message(b"S", text("work_mem") + text("x" * 50)),
    "DataRow": message(b"D", struct.pack("!hi", 1, 4) + b"abcd"),
}


@pytest.mark.parametrize("noise", list(NOISE))
def test_what_a_server_says_without_end_is_not_kept(doorman, pg, mode, noise):
    server = Endless(NOISE[noise])
    one = doorman(mode=mode, pool={"server_port": server.port},
                  users=[{"username": "app", "password": "", "pool_size": 2}])
    raw = one.raw()
    one.forget_peak()
    before = one.resident_kib()
    raw.send(query("select 1"))
    wait_until(lambda: server.sent > 1024 * 1024)
    seen = 0
    while seen != server.sent:
        seen = server.sent
        select.select([], [], [], 1.0)
    assert one.peak_kib() - before < 24 * MIB
    raw.socket.close()
    server.listener.close()
