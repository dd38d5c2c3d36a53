"""TLS on both sides of the pooler: who gets in, what is shown, and that nobody on it notices an upgrade.

How the libraries get along with it, and what they do with their keys meanwhile, is in test_tls_peers; how clients prove
themselves over it is in test_tls_login.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import psycopg
import pytest

from certificates import EC, Authority
from wait import wait_until
from wire import SSL_REQUEST, Raw, error, query, rows, startup_packet, terminate

VERSIONS = ["1.2", "1.3"]

STARTUP = startup_packet({"user": "app", "database": "shop"})

# 25 MB of rows that say which they are.
LARGE = "select n, repeat(md5(n::text), 78) from generate_series(1, 10000) n"


@pytest.fixture(scope="module")
def identity(authority):
    """What the pooler shows."""
    return authority.sign("localhost")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """An authority nobody has heard of."""
    return Authority(tmp_path_factory.mktemp("stranger"), "a stranger")


@pytest.fixture
def postgres_with_tls(pg, authority):
    """PostgreSQL itself speaks TLS, and would like to see a certificate."""
    shown = authority.sign("postgres", kind=EC)
    pg.speak_tls(shown.certificate, shown.key, authority.certificate)
    yield pg
    pg.speak_tls()


@pytest.fixture(params=["plain server", "encrypted server"])
def behind(request, authority):
    """Whether the pooler speaks TLS to PostgreSQL too; the keys for its pool."""
    if request.param == "plain server":
        return {}
    request.getfixturevalue("postgres_with_tls")
    return verified(authority)


def verified(authority):
    return {"server_host": "localhost", "server_tls_mode": "verify-full",
            "server_tls_ca_cert": str(authority.certificate)}


@pytest.fixture
def secured(doorman, identity):
    """Starts a pooler with a certificate: `secured(tls_mode="require", general={...}, ...)`."""
    def start(tls_mode: str | None = "require", general: dict | None = None, **config):
        keys = {"tls_certificate": str(identity.certificate), "tls_private_key": str(identity.key)}
        if tls_mode:
            keys["tls_mode"] = tls_mode
        return doorman(general={**keys, **(general or {})}, **config)
    return start


def context(authority, version: str | None = None, alpn: bool = False) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=authority.certificate)
    if version:
        made.minimum_version = made.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    if alpn:
        made.set_alpn_protocols(["postgresql"])
    return made


def encrypted(one, authority, version: str | None = None, **parameters) -> Raw:
    """A bare protocol connection over TLS, logged in."""
    plain = socket.create_connection((one.host, one.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    raw = Raw(context(authority, version).wrap_socket(plain, server_hostname="localhost"), timeout=20)
    one._open.append(raw)
    raw.login(**parameters)
    return raw


def sessions(one) -> list[dict]:
    return [row for row in one.console("show clients") if row["database"] == "shop"]


def sleepers(pg) -> list[dict]:
    """Who is in a query of a minute."""
    return pg.admin("select 1 from pg_stat_activity where query like '%pg_sleep(60)%' "
                    "and state = 'active' and usename = 'app'")


def refused(one, **options) -> str:
    with pytest.raises(psycopg.OperationalError) as failure:
        one.connect(**options)
    return str(failure.value)


# Who gets in

@pytest.mark.parametrize("tls_mode, plain, over_tls", [
    (None, True, True), ("disable", True, False), ("allow", True, True), ("prefer", True, True),
    ("require", False, True)])
def test_a_mode_says_whether_clients_may_or_must_use_tls(secured, tls_mode, plain, over_tls):
    one = secured(tls_mode)
    if plain:
        assert one.connect(sslmode="disable").execute("select 1").fetchone() == (1,)
    else:
        assert "Connection without SSL is not allowed by tls_mode." in refused(one, sslmode="disable")
    if over_tls:
        connection = one.connect(sslmode="require")
        assert connection.execute("select 1").fetchone() == (1,)
        assert connection.pgconn.ssl_in_use
    else:
        assert "server does not support SSL" in refused(one, sslmode="require")


def test_the_pooler_shows_its_certificate(secured, authority, stranger):
    one = secured()
    one.connect(host="localhost", sslmode="verify-full", sslrootcert=str(authority.certificate))
    assert "certificate verify failed" in refused(one, sslmode="verify-full", sslrootcert=str(stranger.certificate))
    one.wait_log("TLS handshake with client .* failed: .*unknown ca")


def test_a_unix_socket_needs_no_tls(secured, tmp_path):
    one = secured(general={"unix_socket_dir": str(tmp_path)})
    assert one.connect(host=str(tmp_path), sslmode="prefer").execute("select 1").fetchone() == (1,)


# How it begins

def test_tls_may_begin_with_the_first_byte(secured, authority):
    one = secured()
    plain = socket.create_connection((one.host, one.port), timeout=20)
    raw = Raw(context(authority, alpn=True).wrap_socket(plain, server_hostname="localhost"), timeout=20)
    assert raw.socket.selected_alpn_protocol() == "postgresql"
    raw.login()
    assert raw.value("select 1") == "1"
    one.upgrade()
    assert raw.value("select 2") == "2"
    raw.close()


@pytest.mark.skipif(psycopg.pq.version() < 170000, reason="libpq knows sslnegotiation from PostgreSQL 17 on")
@pytest.mark.parametrize("sslnegotiation", ["postgres", "direct"])
def test_libpq_begins_with_tls_and_cancels_in_the_same_way(secured, pg, authority, background, sslnegotiation):
    one = secured()
    connection = one.connect(host="localhost", sslmode="verify-full", sslrootcert=str(authority.certificate),
                             sslnegotiation=sslnegotiation)
    one.upgrade()
    running = background(connection.execute, "select pg_sleep(60)")
    wait_until(lambda: sleepers(pg))
    connection.cancel_safe(timeout=10)
    with pytest.raises(psycopg.errors.QueryCanceled):
        running.result(10)
    assert connection.execute("select 1").fetchone() == (1,)


def test_who_begins_with_tls_must_say_that_it_speaks_postgresql(secured, authority):
    one = secured()
    plain = socket.create_connection((one.host, one.port), timeout=20)
    raw = Raw(context(authority).wrap_socket(plain, server_hostname="localhost"), timeout=20)
    raw.send(STARTUP)
    assert "without ALPN" in error(raw.read_until("E")).text
    raw.close()
    web = context(authority)
    web.set_alpn_protocols(["http/1.1"])
    with socket.create_connection((one.host, one.port), timeout=20) as plain:
        with pytest.raises(ssl.SSLError, match="NO_APPLICATION_PROTOCOL|no application protocol"):
            web.wrap_socket(plain, server_hostname="localhost")


def test_nothing_sent_before_the_handshake_is_taken_for_something_sent_over_it(secured):
    one = secured()
    raw = one.raw(login=False)
    raw.send(SSL_REQUEST + STARTUP)
    assert error(raw.read_until("E")).text == "received unencrypted data after SSL request"
    assert raw.read() is None


def test_encryption_is_asked_for_once(secured, authority):
    one = secured()
    plain = socket.create_connection((one.host, one.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    raw = Raw(context(authority).wrap_socket(plain, server_hostname="localhost"), timeout=20)
    raw.send(SSL_REQUEST)
    assert error(raw.read_until("E")).code == "08P01"
    raw.close()


def test_a_client_that_never_finishes_its_handshake_holds_up_nobody(secured):
    one = secured(general={"client_login_timeout": "2s"})
    silent = one.raw(login=False)
    silent.send(SSL_REQUEST)
    assert silent.socket.recv(1) == b"S"
    silent.send(b"\x16\x03\x01\x02\x00\x01")
    for _ in range(3):
        one.connect(sslmode="require").close()
    assert silent.rest() == b""
    one.wait_log("TLS handshake with client .* failed: .*client_login_timeout")


def test_handshakes_beyond_their_rate_wait_and_are_not_refused(secured, background):
    one = secured(general={"tls_rate_limit_per_second": 100}, size=2)
    calls = [background(lambda: one.connect(sslmode="require").execute("select 1").fetchone()) for _ in range(40)]
    assert [call.result() for call in calls] == [(1,)] * 40


def test_what_nobody_has_sealed_ends_that_one_session(secured, authority):
    one = secured()
    good, bad = encrypted(one, authority), encrypted(one, authority)
    with socket.socket(fileno=bad.socket.detach()) as beneath:
        beneath.sendall(b"\x17\x03\x03\x00\x20" + b"this was not sealed by anybody..")
        beneath.settimeout(10)
        while beneath.recv(1000):
            pass
    wait_until(lambda: len(sessions(one)) == 1)
    assert good.value("select 1") == "1"


def test_results_of_any_length_reach_a_client_that_reads_asynchronously(secured, authority):
    """libpq leaves what it has not read of a record longer than 8 KiB with OpenSSL, and waits for the socket."""
    one = secured()

    async def ask():
        parameters = {"host": one.host, "port": one.port, "user": "app", "dbname": "shop", "sslmode": "require"}
        async with await psycopg.AsyncConnection.connect(**parameters, autocommit=True) as connection:
            for count in range(1, 200):
                found = await connection.execute(f"select repeat('x', 1000) from generate_series(1, {count})")
                assert len(await found.fetchall()) == count

    asyncio.run(asyncio.wait_for(ask(), 20))


# What is shown

@pytest.mark.parametrize("version", VERSIONS)
def test_the_console_shows_version_and_suite(secured, authority, behind, version):
    one = secured("allow", general={"log_client_connections": True}, pool=behind)
    over_tls, plain = encrypted(one, authority, version), one.raw()
    over_tls.ask(query("begin"))
    plain.ask(query("begin"))
    for _ in range(2):
        shown = sorted((row["tls"], row["tls_version"], row["tls_cipher"]) for row in sessions(one))
        assert shown == [("false", "", ""), ("true", f"TLSv{version}", over_tls.socket.cipher()[0])]
        wanted = ("true", "TLSv1.3", "TLS_AES_256_GCM_SHA384") if behind else ("false", "", "")
        servers = one.console("show servers")
        assert [(row["tls"], row["tls_version"], row["tls_cipher"]) for row in servers] == [wanted] * 2
        one.upgrade()
    counts = one.console("show connections")[0]
    # The console's own clients have used TLS too.
    assert (counts["plain"], counts["errors"]) == (1, 0)
    assert counts["tls"] > 1
    assert re.search(rf"client connected from \S+ \(TLS, TLSv{version} \S+\)", one.log())
    assert re.search(r"client connected from \S+ \(plain\)", one.log())


# Certificates that change

def shown_by(one) -> bytes:
    """The certificate that a client is shown now."""
    plain = socket.create_connection((one.host, one.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    anything = ssl.create_default_context()
    anything.check_hostname, anything.verify_mode = False, ssl.CERT_NONE
    with anything.wrap_socket(plain) as over_tls:
        return over_tls.getpeercert(binary_form=True)


@pytest.mark.parametrize("how", ["reload", "upgrade"])
def test_a_new_certificate_is_for_new_handshakes(secured, authority, stranger, how):
    one = secured()
    raw = encrypted(one, authority)
    raw.ask(query("begin"))
    old = shown_by(one)
    changed = stranger.sign("localhost")
    one.config["general"]["tls_certificate"] = str(changed.certificate)
    one.config["general"]["tls_private_key"] = str(changed.key)
    if how == "reload":
        one.reload()
    else:
        one.write()
        one.upgrade()
    new = ssl.PEM_cert_to_DER_cert(changed.certificate.read_text()[changed.certificate.read_text().index("-----BEGIN"):])
    wait_until(lambda: shown_by(one) == new != old, what="the new certificate is shown")
    assert raw.value("select 1") == "1"
    assert raw.status == "T"


def test_a_certificate_that_cannot_be_used_changes_nothing(secured, authority, tmp_path):
    one = secured()
    raw = encrypted(one, authority)
    old = shown_by(one)
    broken = tmp_path / "broken.crt"
    broken.write_text("no certificate")
    one.config["general"]["tls_certificate"] = str(broken)
    one.reload()
    one.wait_log("holds no certificate")
    assert shown_by(one) == old
    assert raw.value("select 1") == "1"


# PostgreSQL

def server_connections(pg) -> list[bool]:
    """Of each connection of the pooler's: whether it is encrypted."""
    return [row["ssl"] for row in pg.admin(
        "select ssl from pg_stat_activity join pg_stat_ssl using (pid) where usename = 'app'")]


@pytest.mark.parametrize("server_tls_mode, without, with_it", [
    ("disable", False, False), ("allow", False, False), ("prefer", False, True), ("require", None, True),
    ("verify-ca", None, True), ("verify-full", None, True)])
def test_a_mode_says_whether_server_connections_use_tls(doorman, pg, authority, server_tls_mode, without, with_it):
    keys = {"server_tls_mode": server_tls_mode}
    if server_tls_mode.startswith("verify"):
        keys["server_tls_ca_cert"] = str(authority.certificate)
    one = doorman(pool=keys)
    if without is None:
        assert "it does not offer TLS" in refused(one)
    else:
        one.connect().execute("select 1")
        assert server_connections(pg) == [without]
    one.stop()
    shown = authority.sign("postgres", kind=EC)
    pg.speak_tls(shown.certificate, shown.key)
    try:
        one = doorman(pool=keys)
        one.connect().execute("select 1")
        assert server_connections(pg) == [with_it]
        one.stop()
    finally:
        pg.speak_tls()


def test_allow_means_tls_where_postgresql_wants_it(doorman, postgres_with_tls):
    pg = postgres_with_tls
    with pg.rules("hostssl all all 127.0.0.1/32 trust\n"):
        one = doorman(pool={"server_tls_mode": "allow"})
        one.connect().execute("select 1")
        assert server_connections(pg) == [True]
        one.stop()


@pytest.mark.parametrize("how", ["reload", "upgrade"])
@pytest.mark.parametrize("file", ["authorities", "revoked", "certificate"])
def test_what_a_file_says_decides_which_connections_are_kept(doorman, postgres_with_tls, authority, stranger, tmp_path,
                                                             file, how):
    pg = postgres_with_tls
    bundle, revoked, shown, key = (tmp_path / name for name in ("ca.pem", "ca.crl", "own.crt", "own.key"))
    own = authority.sign("app")
    bundle.write_text(authority.certificate.read_text())
    revoked.write_text(authority.revoke().read_text())
    shown.write_text(own.certificate.read_text())
    key.write_text(own.key.read_text())
    key.chmod(0o600)
    one = doorman(pool={**verified(authority), "server_tls_ca_cert": str(bundle), "server_tls_crl": str(revoked),
                        "server_tls_certificate": str(shown), "server_tls_private_key": str(key)})

    def apply() -> None:
        one.console("reload") if how == "reload" else one.upgrade()

    idle, lent = one.connect(), one.connect()
    with idle.transaction(), lent.transaction():
        old = {pid_of(idle), pid_of(lent)}
    # The same text in its place again says nothing new.
    bundle.write_text(authority.certificate.read_text())
    apply()
    assert pg.pids() == old
    with lent.transaction():
        kept = pid_of(lent)
        if file == "authorities":
            bundle.write_text(stranger.certificate.read_text() + authority.certificate.read_text())
        elif file == "revoked":
            revoked.write_text(authority.revoke(authority.sign("lost")).read_text())
        else:
            renewed = authority.sign("app")
            shown.write_text(renewed.certificate.read_text())
            key.write_text(renewed.key.read_text())
        apply()
        # The one that lay idle is closed, the other is left to its transaction.
        wait_until(lambda: pg.pids() == {kept})
        assert pid_of(lent) == kept
        assert pid_of(idle) not in old
    wait_until(lambda: kept not in pg.pids())
    assert pid_of(lent) not in old


def pid_of(connection) -> int:
    return connection.execute("select pg_backend_pid()").fetchone()[0]


def test_a_server_is_not_trusted_for_having_any_certificate(doorman, postgres_with_tls, stranger, authority):
    pg = postgres_with_tls
    one = doorman(pool={"server_tls_mode": "verify-ca", "server_tls_ca_cert": str(stranger.certificate)})
    assert "certificate verify failed" in refused(one)
    one.stop()
    elsewhere = authority.sign("elsewhere", names="DNS:elsewhere.example")
    pg.speak_tls(elsewhere.certificate, elsewhere.key)
    keys = {"server_tls_ca_cert": str(authority.certificate)}
    one = doorman(pool={"server_tls_mode": "verify-ca", **keys})
    assert one.connect().execute("select 1").fetchone() == (1,)
    one.stop()
    one = doorman(pool={"server_tls_mode": "verify-full", **keys})
    assert "IP address mismatch" in refused(one)


def test_a_query_over_tls_is_cancelled(secured, pg, authority, behind, background):
    one = secured(pool=behind)
    connection = one.connect(sslmode="require")
    for _ in range(2):
        running = background(lambda: connection.execute("select pg_sleep(60)"))
        wait_until(lambda: sleepers(pg))
        connection.cancel()
        with pytest.raises(psycopg.errors.QueryCanceled):
            running.result()
        one.upgrade()


# Moving

@pytest.mark.parametrize("version", VERSIONS)
def test_clients_on_tls_move_whatever_they_are_doing(secured, pg, authority, behind, mode, version):
    one = secured(pool=behind, mode=mode, size=8)
    idle, silent, busy, asking = (encrypted(one, authority, version) for _ in range(4))
    idle.value("select 1")
    busy.ask(query("begin"))
    busy.ask(query("create temp table mine as select 42 as n"))
    backends = pg.pids()
    for turn in range(3):
        asking.send(query("select pg_sleep(2), 'late'"))
        wait_until(lambda: pg.admin("select 1 from pg_stat_activity where query like '%late%' and state = 'active' "
                                    "and usename = 'app'"))
        backends |= pg.pids()
        one.upgrade()
        assert rows(asking.read_until("Z")) == [[b"", b"late"]]
        assert busy.value("select n from mine") == "42"
        assert idle.value(f"select {turn}") == str(turn)
    assert pg.pids() <= backends, "PostgreSQL has seen a new connection"
    assert silent.value("select 1") == "1"
    for raw in (idle, silent, busy, asking):
        raw.send(terminate())
        # An end without a goodbye of TLS would be an error.
        assert raw.read() is None


@pytest.mark.limit(240)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_large_result_passes_through_upgrades(secured, authority, behind, version):
    one = secured(pool=behind)
    raw = encrypted(one, authority, version)
    raw.send(query(LARGE))
    seen = 0
    for _ in range(6):
        # Part of a row, of a record, of what the pooler owes: wherever it happens to be.
        for _ in range(1000):
            seen = next_row(raw, seen)
        one.upgrade(timeout=30)
    while seen < 10_000:
        seen = next_row(raw, seen)
    raw.read_until("Z")
    assert raw.value("select 1") == "1"


def next_row(raw, seen: int) -> int:
    """Reads one row of LARGE, which must be the one after the last."""
    while (message := raw.read()).kind != "D":
        assert message.kind == "T", message
    number, text = rows([message])[0]
    assert number == str(seen + 1).encode()
    assert text == hashlib.md5(number).hexdigest().encode() * 78
    return seen + 1


@pytest.mark.parametrize("version", VERSIONS)
def test_half_a_record_goes_along(secured, authority, version):
    one = secured()
    with through(one) as (address, gate):
        plain = socket.create_connection(address, timeout=20)
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
        raw = Raw(context(authority, version).wrap_socket(plain, server_hostname="localhost"), timeout=20)
        raw.login()
        gate.set_most(7)
        raw.send(query("select 'in two pieces'"))
        gate.wait_until_shut()
        one.upgrade()
        gate.set_most(None)
        assert rows(raw.read_until("Z")) == [[b"in two pieces"]]
        raw.close()


def test_a_failed_upgrade_leaves_sessions_as_they_were(secured, authority, behind):
    one = secured(pool=behind)
    raws = [encrypted(one, authority, version) for version in VERSIONS]
    for raw in raws:
        raw.ask(query("begin"))
    one.config["general"]["port"] = "nonsense"
    one.write()
    one.fail_to_upgrade()
    for raw in raws:
        assert raw.value("select 1") == "1"
        assert raw.status == "T"
    one.config["general"]["port"] = one.port
    one.write()


def test_a_console_session_on_tls_moves(secured, authority):
    one = secured()
    raw = encrypted(one, authority, user="admin", database="pgdoorman", password="admin-secret")
    for _ in range(2):
        assert rows(raw.ask(query("show version")))
        one.upgrade()
    raw.send(terminate())
    assert raw.read() is None


@pytest.mark.parametrize("version", VERSIONS)
def test_many_clients_at_work_notice_nothing(secured, authority, behind, version, background):
    one = secured(pool=behind, size=4)
    over = threading.Event()

    def work() -> int:
        raw, turns = encrypted(one, authority, version), 0
        while not over.is_set():
            turns += 1
            assert raw.value(f"select {turns}") == str(turns)
        return turns

    workers = [background(work) for _ in range(12)]
    try:
        for _ in range(5):
            one.upgrade(timeout=30)
    finally:
        over.set()
    assert all(worker.result() > 0 for worker in workers)


class Gate:
    """Between a client and the pooler: lets so many bytes of the client's pass and keeps the rest."""

    def __init__(self, client: socket.socket, server: socket.socket):
        self.client, self.server = client, server
        self._most: int | None = None
        self._moved = threading.Condition()
        self._shut = threading.Event()
        threading.Thread(target=self._forward, daemon=True).start()
        threading.Thread(target=self._back, daemon=True).start()

    def set_most(self, most: int | None) -> None:
        with self._moved:
            self._most = most
            self._moved.notify_all()

    def wait_until_shut(self) -> None:
        assert self._shut.wait(20)

    def _forward(self) -> None:
        while data := self.client.recv(65536):
            with self._moved:
                if self._most is not None:
                    self.server.sendall(data[:self._most])
                    data = data[self._most:]
                    self._shut.set()
                    self._moved.wait_for(lambda: self._most is None)
            self.server.sendall(data)

    def _back(self) -> None:
        with suppress(OSError):
            while data := self.server.recv(65536):
                self.client.sendall(data)
        self.client.close()


@contextmanager
def through(one):
    """Another address of the pooler, with a gate in front of it."""
    gates: list[Gate] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def accept() -> None:
            client, _ = listener.accept()
            gates.append(Gate(client, socket.create_connection((one.host, one.port))))

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()

        class First:
            def __getattr__(self, name):
                wait_until(lambda: gates)
                return getattr(gates[0], name)

        yield listener.getsockname(), First()
        thread.join(10)
