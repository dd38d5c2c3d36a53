"""The PostgreSQL protocol, version 3, from the client's side, byte by byte.

For tests that must send what no driver sends, or see what no driver shows.
Builders (`query`, `parse`, `bind`, ...) return bytes; `Raw` is a socket that
sends bytes and reads messages. It never retries, and it believes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import struct
from typing import NamedTuple, Sequence

PROTOCOL_3_0 = 3 << 16
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
GSSENC_REQUEST = struct.pack("!ii", 8, 80877104)


class Message(NamedTuple):
    """One message from the server: its type letter and its body."""

    kind: str
    body: bytes

    @property
    def fields(self) -> dict[str, str]:
        """An ErrorResponse's or NoticeResponse's fields, by their letter."""
        assert self.kind in "EN", self
        return {part[:1].decode(): part[1:].decode() for part in self.body.split(b"\0") if part}

    @property
    def code(self) -> str:
        return self.fields["C"]

    @property
    def text(self) -> str:
        return self.fields["M"]

    @property
    def tag(self) -> str:
        assert self.kind == "C", self
        return self.body[:-1].decode()

    @property
    def row(self) -> list[bytes | None]:
        assert self.kind == "D", self
        (count,), at, values = struct.unpack_from("!h", self.body), 2, []
        for _ in range(count):
            (length,) = struct.unpack_from("!i", self.body, at)
            at += 4
            values.append(None if length < 0 else self.body[at:at + length])
            at += max(length, 0)
        return values


def kinds(messages: Sequence[Message]) -> str:
    """The type letters in a row, without what the server may say at any time."""
    return "".join(m.kind for m in messages if m.kind not in "SNA")


def rows(messages: Sequence[Message]) -> list[list[bytes | None]]:
    return [m.row for m in messages if m.kind == "D"]


def error(messages: Sequence[Message]) -> Message:
    """The one error among these messages."""
    errors = [m for m in messages if m.kind == "E"]
    assert len(errors) == 1, messages
    return errors[0]


def message(kind: bytes, body: bytes = b"") -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def text(value: str | bytes) -> bytes:
    return (value.encode() if isinstance(value, str) else value) + b"\0"


def startup_packet(parameters: dict[str, str | bytes], version: int = PROTOCOL_3_0) -> bytes:
    body = struct.pack("!i", version)
    body += b"".join(text(name) + text(value) for name, value in parameters.items()) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


def cancel_request(pid: int, secret: bytes) -> bytes:
    return struct.pack("!iii", 12 + len(secret), 80877102, pid) + secret


def query(sql: str) -> bytes:
    return message(b"Q", text(sql))


def parse(sql: str, name: str = "", types: Sequence[int] = ()) -> bytes:
    return message(b"P", text(name) + text(sql) + struct.pack(f"!h{len(types)}i", len(types), *types))


def bind(values: Sequence[str | None] = (), statement: str = "", portal: str = "") -> bytes:
    body = text(portal) + text(statement) + struct.pack("!hh", 0, len(values))
    for value in values:
        data = None if value is None else value.encode()
        body += struct.pack("!i", -1) if data is None else struct.pack("!i", len(data)) + data
    return message(b"B", body + struct.pack("!h", 0))


def describe_statement(name: str = "") -> bytes:
    return message(b"D", b"S" + text(name))


def describe_portal(name: str = "") -> bytes:
    return message(b"D", b"P" + text(name))


def execute(portal: str = "", limit: int = 0) -> bytes:
    return message(b"E", text(portal) + struct.pack("!i", limit))


def close_statement(name: str = "") -> bytes:
    return message(b"C", b"S" + text(name))


def close_portal(name: str = "") -> bytes:
    return message(b"C", b"P" + text(name))


def sync() -> bytes:
    return message(b"S")


def flush() -> bytes:
    return message(b"H")


def terminate() -> bytes:
    return message(b"X")


def copy_data(data: bytes) -> bytes:
    return message(b"d", data)


def copy_done() -> bytes:
    return message(b"c")


def copy_fail(reason: str) -> bytes:
    return message(b"f", text(reason))


def function_call(oid: int, arguments: Sequence[bytes]) -> bytes:
    body = struct.pack("!ihhh", oid, 1, 1, len(arguments))
    for argument in arguments:
        body += struct.pack("!i", len(argument)) + argument
    return message(b"F", body + struct.pack("!h", 1))


class Raw:
    """A socket to a server that speaks the protocol, with nothing in between.

    `address` may be a socket that is connected already: one to a program, say, that does the TLS.
    """

    def __init__(self, address: tuple[str, int] | str | socket.socket, receive_buffer: int = 0, timeout: float = 30.0):
        self.parameters: dict[str, str] = {}
        self.pid = 0
        self.secret = b""
        self.status = ""
        self._buffer = b""
        if isinstance(address, socket.socket):
            self.socket = address
            self.socket.settimeout(timeout)
            return
        family = socket.AF_UNIX if isinstance(address, str) else \
            socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(timeout)
        self.socket.connect(address)
        if family != socket.AF_UNIX:
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # Sending

    def send(self, *parts: bytes) -> None:
        self.socket.sendall(b"".join(parts))

    def startup(self, version: int = PROTOCOL_3_0, **parameters: str | bytes) -> None:
        self.send(startup_packet(parameters, version))

    def login(self, password: str = "", version: int = PROTOCOL_3_0, **parameters: str | bytes) -> list[Message]:
        """Start-up packet, password if asked for, and everything up to ReadyForQuery."""
        parameters.setdefault("user", "app")
        parameters.setdefault("database", "shop")
        self.startup(version, **parameters)
        return self.authenticate(str(parameters["user"]), password)

    def authenticate(self, user: str, password: str) -> list[Message]:
        """Answers what the server asks; stops at ReadyForQuery, an error or the end."""
        seen: list[Message] = []
        while True:
            reply = self.read()
            if reply is None:
                return seen
            seen.append(reply)
            if reply.kind == "R":
                (method,) = struct.unpack_from("!i", reply.body)
                if method == 3:
                    self.send(message(b"p", text(password)))
                elif method == 5:
                    self.send(message(b"p", text(md5_answer(user, password, reply.body[4:8]))))
                elif method == 10:
                    exchange = Scram(password)
                    first = exchange.first()
                    self.send(message(b"p", text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
                elif method == 11:
                    self.send(message(b"p", exchange.final(reply.body[4:])))
                elif method == 12:
                    assert exchange.is_genuine(reply.body[4:]), "the server does not know the password"
            elif reply.kind in "EZ":
                return seen

    # Reading

    def read(self) -> Message | None:
        """The next message; None at the end of the stream."""
        head = self._take(5)
        if head is None:
            return None
        (length,) = struct.unpack_from("!i", head, 1)
        body = self._take(length - 4)
        assert body is not None, "the stream ended in the middle of a message"
        reply = Message(chr(head[0]), body)
        if reply.kind == "S":
            name, value = body[:-1].split(b"\0")
            self.parameters[name.decode()] = value.decode()
        elif reply.kind == "K":
            (self.pid,), self.secret = struct.unpack_from("!i", body), body[4:]
        elif reply.kind == "Z":
            self.status = body.decode()
        return reply

    def read_until(self, stop: str = "Z") -> list[Message]:
        """Messages up to and including one of these kinds, or the end of the stream."""
        seen: list[Message] = []
        while True:
            reply = self.read()
            if reply is None:
                return seen
            seen.append(reply)
            if reply.kind in stop:
                return seen

    def ask(self, *parts: bytes) -> list[Message]:
        """Sends these and reads up to ReadyForQuery."""
        self.send(*parts)
        return self.read_until("Z")

    def prepare_more_than_passes(self) -> None:
        """Prepares so many short statements that their session cannot be passed to another process: their names and
        texts go in one message, which has a bound of 16 MiB. The pooler has to allow any number of them."""
        for part in range(20):
            self.send(*(parse(f"select '{'x' * 900}{part}-{n}'", f"{'n' * 50}{part}-{n}") for n in range(1000)), sync())
            self.read_until("Z")

    def value(self, sql: str) -> str | None:
        """The one value of a simple query."""
        found = self.ask(query(sql))
        result = rows(found)
        assert result, found
        return None if result[0][0] is None else result[0][0].decode()

    def byte(self) -> bytes:
        """One bare byte: the answer to SSLRequest and GSSENCRequest."""
        return self._take(1) or b""

    def discard_until_ready(self) -> tuple[str, int]:
        """Reads a reply of any size without keeping it: the kinds and the bytes of it."""
        seen, total = "", 0
        while True:
            head = self._take(5)
            assert head is not None, f"the stream ended after {seen[-20:]!r}"
            left = struct.unpack_from("!i", head, 1)[0] - 4
            total += left + 5
            seen += chr(head[0])
            while left > 0:
                piece = self._take(min(left, 1 << 20))
                assert piece is not None, "the stream ended in the middle of a message"
                left -= len(piece)
            if seen[-1] == "Z":
                return seen, total

    def sip(self, count: int) -> int:
        """Takes at most so many bytes off the socket, to be read later; returns how many came."""
        piece = self.socket.recv(count)
        self._buffer += piece
        return len(piece)

    def at_end(self) -> bool:
        """Whether the server closes now, having said no more than an error."""
        try:
            while (reply := self.read()) is not None:
                if reply.kind == "Z":
                    return False
            return True
        except ConnectionResetError:
            return True

    def rest(self) -> bytes:
        """All bytes until the server closes; ConnectionResetError if it does so rudely."""
        data = self._buffer
        self._buffer = b""
        while piece := self.socket.recv(65536):
            data += piece
        return data

    # Leaving

    def close(self) -> None:
        self.socket.close()

    def vanish(self) -> None:
        """Closes without a word, as a crashed client does (RST)."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, count: int) -> bytes | None:
        while len(self._buffer) < count:
            piece = self.socket.recv(max(65536, count - len(self._buffer)))
            if not piece:
                return None
            self._buffer += piece
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data


def md5_answer(user: str, password: str, salt: bytes) -> str:
    inner = hashlib.md5(password.encode() + user.encode()).hexdigest()
    return "md5" + hashlib.md5(inner.encode() + salt).hexdigest()


class Scram:
    """The client's side of one SCRAM-SHA-256 exchange (RFC 7677), without channel binding."""

    def __init__(self, password: str):
        self._password = password.encode()
        self._bare = b"n=,r=" + base64.b64encode(os.urandom(18))

    def first(self) -> bytes:
        return b"n,," + self._bare

    def final(self, server_first: bytes) -> bytes:
        said = dict(part.split(b"=", 1) for part in server_first.split(b","))
        salted = hashlib.pbkdf2_hmac("sha256", self._password, base64.b64decode(said[b"s"]), int(said[b"i"]))
        without_proof = b"c=biws,r=" + said[b"r"]
        signed = b",".join([self._bare, server_first, without_proof])
        client_key = _hmac(salted, b"Client Key")
        signature = _hmac(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self._expected = b"v=" + base64.b64encode(_hmac(_hmac(salted, b"Server Key"), signed))
        return without_proof + b",p=" + base64.b64encode(proof)

    def is_genuine(self, server_final: bytes) -> bool:
        return server_final == self._expected


def _hmac(key: bytes, data: bytes) -> bytes:
    return hmac.new(key, data, hashlib.sha256).digest()
