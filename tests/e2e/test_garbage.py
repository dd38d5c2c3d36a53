"""Any bytes on the socket: one client may suffer, nobody else does."""

import random
import struct

import pytest

from doorman import ADMIN_PASSWORD
from wait import wait_until
from wire import (SSL_REQUEST, Raw, bind, describe_statement, execute, message, parse, query, startup_packet, sync,
                  text)

HUGE = 0x7FFFFFFF


@pytest.fixture
def one(doorman, pg):
    """A pooler with a witness: a client that must not notice anything."""
    one = doorman(size=2, general={"client_login_timeout": "3s"},
                  users=[{"username": "app", "password": "", "pool_size": 2},
                         {"username": "hashed", "password": pg.verifier("hashed"), "pool_size": 2}])
    witness = one.raw()
    witness.value("select 1")
    threads, descriptors, memory = one.threads(), one.descriptors(), one.resident_kib()
    yield one
    assert witness.value("select 'undisturbed'") == "undisturbed"
    one.disconnect_all()
    wait_until(lambda: one.descriptors() <= descriptors + 2, what="descriptors are given back")
    wait_until(lambda: one.threads() <= threads + 40, what="threads are given back or parked")
    assert one.resident_kib() - memory < 64 * 1024
    assert one.serves()


def startup_body(body):
    return struct.pack("!i", len(body) + 4) + body


V3 = struct.pack("!i", 3 << 16)

FIRST_PACKETS = {
    "nothing": b"",
    "a byte": b"\0",
    "half a length": b"\0\0\0",
    "length 0": struct.pack("!i", 0),
    "length 3": struct.pack("!i", 3),
    "length 4": struct.pack("!i", 4),
    "length 7": struct.pack("!i", 7) + b"abc",
    "length -1": struct.pack("!i", -1) + b"x" * 100,
    "length 2 GB": struct.pack("!i", HUGE) + V3 + b"x" * 100,
    "length 1 MB": struct.pack("!i", 1 << 20) + V3 + b"x" * 100,
    "no parameters": startup_body(V3),
    "only a nul": startup_body(V3 + b"\0"),
    "no terminator": startup_body(V3 + b"user\0app"),
    "no last terminator": startup_body(V3 + b"user\0app\0"),
    "name without value": startup_body(V3 + b"user\0\0"),
    "odd number of strings": startup_body(V3 + b"user\0app\0database\0\0"),
    "a nul in the middle": startup_body(V3 + b"user\0app\0\0database\0shop\0\0"),
    "bytes that are no text": startup_body(V3 + b"user\0\xff\xfe\x80\0database\0\xc3\x28\0\0"),
    "many parameters": startup_body(V3 + b"user\0app\0" + b"a\0b\0" * 1500 + b"\0"),
    "version 0": startup_body(struct.pack("!i", 0) + b"user\0app\0\0"),
    "version 1.0": startup_body(struct.pack("!i", 1 << 16) + b"user\0app\0\0"),
    "version 4.0": startup_body(struct.pack("!i", 4 << 16) + b"user\0app\0\0"),
    "version -1": startup_body(struct.pack("!i", -1) + b"user\0app\0\0"),
    "ssl twice": SSL_REQUEST * 2,
    "ssl with a body": struct.pack("!ii", 12, 80877103) + b"abcd",
    "ssl, then a tls hello": SSL_REQUEST + b"\x16\x03\x01\x02\x00" + b"\1" * 512,
    "a bare tls hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\1" * 505,
    "cancel without a key": struct.pack("!ii", 8, 80877102),
    "cancel, half a key": struct.pack("!ii", 12, 80877102) + b"abcd",
    "http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a query first": query("select 1"),
    "zeroes": b"\0" * 10000,
    "ones": b"\xff" * 10000,
}


@pytest.mark.parametrize("packet", FIRST_PACKETS)
def test_first_packets(one, packet):
    raw = one.raw(login=False)
    raw.send(FIRST_PACKETS[packet])
    # Closed at once, or by the login timeout.
    try:
        raw.rest()
    except ConnectionResetError:
        pass
    assert one.serves()


MESSAGES = {
    "length 0": b"Q" + struct.pack("!i", 0),
    "length 3": b"Q" + struct.pack("!i", 3),
    "length -1": b"Q" + struct.pack("!i", -1),
    "length -2 GB": b"P" + struct.pack("!i", -0x80000000),
    "sync with a body": b"S" + struct.pack("!i", 8) + b"abcd",
    "query without a body": message(b"Q", b""),
    "query without a terminator": message(b"Q", b"select 1"),
    "query with two": message(b"Q", b"select 1\0select 2\0"),
    "query that is no text": message(b"Q", b"select '\xff\xfe'\0"),
    "parse, empty": message(b"P", b""),
    "parse, a name and no more": message(b"P", b"name\0"),
    "parse, no terminators": message(b"P", b"abcdef"),
    "parse, too many types": message(b"P", text("") + text("select 1") + struct.pack("!h", 1000)),
    "parse, -1 types": message(b"P", text("") + text("select 1") + struct.pack("!h", -1)),
    "parse, something behind it": message(b"P", text("") + text("select 1") + struct.pack("!h", 0) + b"more"),
    "bind, empty": message(b"B", b""),
    "bind, too many formats": message(b"B", b"\0\0" + struct.pack("!h", 32767)),
    "bind, too many values": message(b"B", b"\0\0" + struct.pack("!hh", 0, 32767)),
    "bind, value too long": message(b"B", b"\0\0" + struct.pack("!hhi", 0, 1, HUGE)),
    "bind, value of length -2": message(b"B", b"\0\0" + struct.pack("!hhih", 0, 1, -2, 0)),
    "bind, -1 values": message(b"B", b"\0\0" + struct.pack("!hhh", 0, -1, 0)),
    "describe, empty": message(b"D", b""),
    "describe, of what": message(b"D", b"X\0"),
    "describe, no terminator": message(b"D", b"Sname"),
    "close, empty": message(b"C", b""),
    "close, of what": message(b"C", b"X\0"),
    "execute, empty": message(b"E", b""),
    "execute, no limit": message(b"E", b"\0"),
    "function call, empty": message(b"F", b""),
    "function call, too many": message(b"F", struct.pack("!ihh", 177, 0, 32767)),
    "copy data outside of a copy": message(b"d", b"abc"),
    "copy done outside of a copy": message(b"c", b""),
    "copy fail outside of a copy": message(b"f", b"why\0"),
    "a password": message(b"p", b"secret\0"),
    "a server's message": message(b"Z", b"I"),
    "an unknown letter": message(b"\x00", b"abc"),
    "a start-up packet again": startup_packet({"user": "app"}),
    "zeroes": b"\0" * 1000,
    "ones": b"\xff" * 1000,
}


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("inside", ["idle", "transaction", "batch"])
def test_messages(one, name, inside):
    raw = one.raw()
    if inside == "transaction":
        raw.ask(query("begin"))
    if inside == "batch":
        raw.send(parse("select 1"), bind())
    raw.send(MESSAGES[name])
    try:
        # An answer, an error, or nothing at all: but the client can always go.
        raw.send(sync())
        raw.socket.settimeout(0.3)
        raw.read_until("ZE")
    except (OSError, AssertionError):
        pass
    raw.close()
    assert one.serves()


@pytest.mark.parametrize("name", ["length 0", "length 3", "length -1", "length -2 GB", "zeroes", "ones"])
def test_a_length_that_cannot_be_is_told_and_cut(one, name):
    raw = one.raw()
    raw.send(MESSAGES[name])
    assert raw.read_until("E")[-1].code == "08P01"
    assert raw.at_end()


def test_a_huge_length_is_not_believed(one):
    """Nothing is allocated for bytes that have not come."""
    before = one.resident_kib()
    for kind in b"QPBDECSdFp":
        raw = one.raw()
        raw.send(bytes([kind]) + struct.pack("!i", HUGE) + b"x" * 100)
    assert one.serves()
    assert one.resident_kib() - before < 8 * 1024


def test_half_a_message_holds_nobody_up(one):
    """More of them than there are backends."""
    for part in (query("select 1")[:-1], query("select 1")[:2], parse("select 1")[:-3], b"Q"):
        for _ in range(5):
            one.raw().send(part)
    assert one.serves()


@pytest.mark.parametrize("stage", ["first packet", "after ssl", "password", "idle", "transaction", "batch", "copy",
                                   "console"])
def test_random_bytes(one, stage):
    dice = random.Random(f"{stage} 4711")
    for _ in range(60):
        raw = one.raw(login=False)
        if stage == "after ssl":
            raw.send(SSL_REQUEST)
            raw.byte()
        elif stage == "password":
            raw.startup(user="hashed", database="shop")
        elif stage == "console":
            raw.login(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
        elif stage != "first packet":
            raw.login()
            if stage == "transaction":
                raw.ask(query("begin"))
            elif stage == "copy":
                raw.send(query("begin; create temp table c (n int); copy c from stdin"))
                raw.read_until("G")
            elif stage == "batch":
                raw.send(parse("select 1"))
        try:
            raw.send(some_bytes(dice))
            raw.socket.settimeout(0.02)
            raw.rest()
        except OSError:
            pass
        raw.vanish()
    assert one.serves()


def some_bytes(dice):
    """Plain noise, or messages of the right form with noise in them, or good ones cut and bent."""
    kind = dice.randrange(3)
    if kind == 0:
        return dice.randbytes(dice.randrange(1, 3000))
    if kind == 1:
        return b"".join(message(bytes([dice.choice(b"QPBDECSHFdcfpX\x00\xff")]), dice.randbytes(dice.randrange(0, 60)))
                        for _ in range(dice.randrange(1, 10)))
    good = bytearray(parse("select $1::int", "s") + bind(["1"], "s") + describe_statement("s") + execute() + sync()
                     + query("select 1"))
    for _ in range(dice.randrange(1, 6)):
        good[dice.randrange(len(good))] = dice.randrange(256)
    return bytes(good[:dice.randrange(1, len(good) + 1)])


@pytest.mark.parametrize("body", [b"", b"\0", b"show", b"\0\0\0", b"show version", b"\xff\xfe\0", b"show \xff\0",
                                  b"set log_level\0", b"pause nowhere\0", b"set\0", b"show\0", b";;;\0"])
def test_the_console_too(one, body):
    raw = one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
    raw.send(message(b"Q", body))
    raw.socket.settimeout(2)
    assert raw.read_until("Z")[-1].kind in "ZE"
    assert one.serves()


def test_thousands_of_connections_that_say_nothing(one):
    for _ in range(10):
        crowd = [Raw((one.host, one.port)) for _ in range(200)]
        for raw in crowd:
            raw.close()
    assert one.serves()
