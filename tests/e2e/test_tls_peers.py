"""Every TLS library that a client is likely to have, in both versions and with every suite, through upgrades.

The libraries: OpenSSL (s_client, psql, psycopg, Python's ssl), GnuTLS, JSSE under JDBC, Go's crypto/tls under pgx
and lib/pq, rustls. Each does rounds of the same work on one connection: small queries, a result of megabytes, a
parameter of a megabyte; before, during and after upgrades of the pooler, and where the library can, with the keys
changed in between (TLS 1.3). In the end each says goodbye and insists on the other side's goodbye.
"""

from __future__ import annotations

import hashlib
import os
import select
import socket
import ssl
import subprocess
from pathlib import Path

import psycopg
import pytest

from certificates import EC
from postgres import bin_dir
from wait import wait_until
from wire import SSL_REQUEST, Raw, bind, execute, parse, query, rows, sync, terminate

PEERS = Path(__file__).resolve().parents[1] / "drivers/tls"
STATE = PEERS.parents[1] / ".state"

VERSIONS = ["1.2", "1.3"]
TLS_13 = ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
TLS_12_RSA = ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305"]
TLS_12_EC = [name.replace("RSA", "ECDSA") for name in TLS_12_RSA]
SUITES = TLS_12_RSA + TLS_12_EC + TLS_13


@pytest.fixture(scope="module")
def identities(authority):
    """What the pooler shows: by kind of key."""
    return {"RSA": authority.sign("localhost"), "ECDSA": authority.sign("localhost-ec", kind=EC, subject="/CN=localhost")}


@pytest.fixture(params=["plain", "encrypted"])
def behind(request, pg, authority):
    """Whether the pooler speaks TLS to PostgreSQL too; the keys for its pool."""
    if request.param == "plain":
        return {}
    request.getfixturevalue("postgres_with_tls")
    return {"server_host": "localhost", "server_tls_mode": "verify-full", "server_tls_ca_cert": str(authority.certificate)}


@pytest.fixture(scope="module")
def postgres_with_tls(pg, authority):
    """PostgreSQL itself speaks TLS."""
    identity = authority.sign("postgres")
    pg.speak_tls(identity.certificate, identity.key, authority.certificate)
    yield pg
    pg.speak_tls()


@pytest.fixture
def secured(doorman, identities):
    """Starts a pooler that insists on TLS: `secured(kind="ECDSA", general={...}, ...)`."""
    def start(kind: str = "RSA", general: dict | None = None, **config):
        identity = identities[kind]
        config.setdefault("users", [{"username": "app", "password": "", "pool_size": 4}])
        return doorman(general={"tls_mode": "require", "tls_certificate": str(identity.certificate),
                                "tls_private_key": str(identity.key), **(general or {})}, **config)
    return start


# The work

LARGE = "select repeat(n::text, 200) from generate_series(1, {}) n"
SENT = "0123456789" * 100_000


def work(raw: Raw, count: int = 3000) -> None:
    """A round, by hand, with so many large rows. No chunk begins with a letter that s_client takes for a command."""
    for n in range(20):
        answer = raw.ask(parse("select $1::int + 1"), bind([str(n)]), execute(), sync())
        assert rows(answer) == [[str(n + 1).encode()]]
    answer = rows(raw.ask(parse(LARGE.format(count)), bind(), execute(), sync()))
    assert len(answer) == count
    assert all(row == [str(n).encode() * 200] for n, row in enumerate(answer, 1))
    answer = raw.ask(parse("select md5($1)"), bind([SENT]), execute(), sync())
    assert rows(answer) == [[hashlib.md5(SENT.encode()).hexdigest().encode()]]


def through_upgrades(one, step, version: str, suite: str = "") -> None:
    """Does `step` before, during and after upgrades, on a session of this version and suite."""
    step()
    agreed = negotiated(one)
    assert agreed[0] == f"TLSv{version}" and aead(suite) in aead(agreed[1]), agreed
    one.upgrade(timeout=20)
    step()
    step(during=one.upgrade)
    step()
    assert negotiated(one) == agreed


def negotiated(one) -> tuple[str, str]:
    """Version and suite of the only client, as the console shows them."""
    (row,) = [row for row in one.console("show clients") if row["database"] == "shop"]
    assert row["tls"] == "true"
    return row["tls_version"], row["tls_cipher"]


def aead(suite: str) -> str:
    """What all libraries' names of a suite have in common."""
    plain = suite.replace("-", "").replace("_", "")
    return next((name for name in ("AES128GCM", "AES256GCM", "CHACHA20POLY1305") if name in plain), "")


class Piped:
    """A program that does the TLS: what is written to it is sent, what it prints was received."""

    def __init__(self, *command: object, large: int = 3000):
        self.large = large
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(list(map(str, command)), stdin=theirs, stdout=theirs,
                                            stderr=subprocess.PIPE)
        self.raw = Raw(ours, timeout=20)

    def step(self, during=None) -> None:
        if during:
            # A result on its way through the upgrade.
            self.raw.send(parse(LARGE.format(self.large)), bind(), execute(), sync())
            during(timeout=20)
            assert len(rows(self.raw.read_until("Z"))) == self.large
        work(self.raw, self.large)

    def leave(self) -> str:
        """Ends the session, and the program because of that; what it said about it."""
        self.raw.send(terminate())
        assert self.raw.read() is None
        self.raw.close()
        said = self.process.communicate(timeout=20)[1].decode(errors="replace")
        assert self.process.returncode == 0, said
        return said

    def kill(self) -> None:
        self.raw.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


class Program:
    """A program of tests/drivers/tls: a round of work for every line it is sent."""

    def __init__(self, *command: object, environment: dict):
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, bufsize=1,
                                        env={**os.environ, **environment})
        self.expect("connected")

    def expect(self, line: str) -> None:
        ready = select.select([self.process.stdout], [], [], 40)[0]
        got = self.process.stdout.readline().strip() if ready else "nothing in 40 s"
        if got != line:
            self.process.kill()
            raise AssertionError(f"wanted {line!r}, got {got!r}: {self.process.communicate()[1][-5000:]}")

    def step(self, during=None) -> None:
        self.process.stdin.write("\n")
        if during:
            during(timeout=20)
        self.expect("round")

    def leave(self) -> None:
        self.process.stdin.close()
        self.expect("done")
        assert self.process.wait(20) == 0, self.process.stderr.read()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def peers():
    """Keeps the programs, to end those that a failed test leaves."""
    started: list = []
    yield lambda peer: started.append(peer) or peer
    for peer in started:
        peer.kill()


def variables(one, authority, **more: str) -> dict[str, str]:
    """What a program of tests/drivers/tls is told."""
    return {"PGHOST": "localhost", "PGPORT": str(one.port), "PGUSER": "app", "PGPASSWORD": "app-secret",
            "PGDATABASE": "shop", "PGSSLROOTCERT": str(authority.certificate), **more}


def kind_of(suite: str) -> str:
    return "ECDSA" if "ECDSA" in suite else "RSA"


# OpenSSL

def s_client(one, authority, suite: str) -> list:
    version, suites = ("-tls1_3", "-ciphersuites") if suite in TLS_13 else ("-tls1_2", "-cipher")
    # -no_ign_eof: without it -quiet switches the commands off.
    return ["openssl", "s_client", "-quiet", "-no_ign_eof", "-starttls", "postgres", version, suites, suite,
            "-verify_return_error", "-verify_hostname", "localhost", "-CAfile", authority.certificate,
            "-connect", f"127.0.0.1:{one.port}"]


@pytest.mark.limit(180)
@pytest.mark.parametrize("suite", SUITES)
def test_openssl(secured, authority, peers, behind, suite):
    one = secured(kind_of(suite), pool=behind)
    peer = peers(Piped(*s_client(one, authority, suite)))
    peer.raw.login()

    def step(during=None):
        peer.step(during)
        if suite in TLS_13:
            for command in b"k\n", b"K\n":
                # Sent, and also asked of us. What follows is a chunk of its own once this is read.
                peer.raw.send(command)
                said = peer.process.stderr.readline()
                while b"KEYUPDATE" not in said:
                    assert said
                    said = peer.process.stderr.readline()
                work(peer.raw)

    through_upgrades(one, step, "1.3" if suite in TLS_13 else "1.2", suite)
    peer.leave()


# GnuTLS

GNUTLS = {
    "1.2": ["ECDHE-RSA:AES-128-GCM", "ECDHE-RSA:AES-256-GCM", "ECDHE-RSA:CHACHA20-POLY1305",
            "ECDHE-ECDSA:AES-128-GCM", "ECDHE-ECDSA:AES-256-GCM", "ECDHE-ECDSA:CHACHA20-POLY1305"],
    "1.3": ["ALL:AES-128-GCM", "ALL:AES-256-GCM", "ALL:CHACHA20-POLY1305"],
}


@pytest.mark.limit(180)
@pytest.mark.parametrize("version, suite", [(version, suite) for version in VERSIONS for suite in GNUTLS[version]])
def test_gnutls(secured, authority, peers, tmp_path, version, suite):
    exchange, cipher = suite.split(":")
    one = secured(kind_of(exchange))
    priority = f"NORMAL:-VERS-ALL:+VERS-TLS{version}:-CIPHER-ALL:+{cipher}"
    if exchange != "ALL":
        priority += f":-KX-ALL:+{exchange}"
    # It takes its time to print: some 40 ms for a record.
    peer = peers(Piped("gnutls-cli", "--starttls-proto=postgres", "--priority", priority, "--logfile", tmp_path / "log",
                       "--x509cafile", authority.certificate, "--port", one.port, "localhost", large=150))
    peer.raw.login()
    through_upgrades(one, peer.step, version, cipher)
    peer.leave()


# Java

@pytest.fixture(scope="module")
def java():
    """The Java program, compiled once, with a tiny limit on how long a key is used."""
    classes = STATE / "java-tls"
    classes.mkdir(parents=True, exist_ok=True)
    jar = "/usr/share/java/postgresql.jar"
    done = subprocess.run(["javac", "-cp", jar, "-d", classes, PEERS / "java/Peer.java"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    limits = classes / "limits.security"
    limits.write_text("jdk.tls.keyLimits=AES/GCM/NoPadding KeyUpdate 2^16, ChaCha20-Poly1305 KeyUpdate 2^16\n")
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", f"-Djava.security.properties={limits}",
            "-cp", f"{classes}:{jar}"]


JAVA = TLS_13 + [f"TLS_ECDHE_{kind}_WITH_{cipher}" for kind in ("RSA", "ECDSA") for cipher in
                 ("AES_128_GCM_SHA256", "AES_256_GCM_SHA384", "CHACHA20_POLY1305_SHA256")]


@pytest.mark.limit(180)
@pytest.mark.parametrize("suite", JAVA)
def test_java(secured, authority, peers, java, suite):
    one = secured(kind_of(suite))
    version = "TLSv1.3" if suite in TLS_13 else "TLSv1.2"
    peer = peers(Program(*java, f"-Djdk.tls.client.protocols={version}", f"-Djdk.tls.client.cipherSuites={suite}", "Peer",
                         environment=variables(one, authority)))
    through_upgrades(one, peer.step, version.removeprefix("TLSv"), suite)
    peer.leave()


# Go

@pytest.fixture(scope="module")
def go():
    """The Go program, compiled once; the packages are Debian's."""
    STATE.mkdir(exist_ok=True)
    program = STATE / "go-tls"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
                   "GOCACHE": str(STATE / "go-cache")}
    done = subprocess.run(["go", "build", "-o", program, PEERS / "go/main.go"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return program


@pytest.mark.limit(180)
@pytest.mark.parametrize("version, suite", [("1.3", ""), *(("1.2", name) for name in JAVA if name not in TLS_13)])
def test_pgx(secured, authority, peers, go, version, suite):
    one = secured(kind_of(suite))
    peer = peers(Program(go, environment=variables(one, authority, PEER="pgx", TLS_VERSION=version, TLS_SUITE=suite)))
    through_upgrades(one, peer.step, version, suite)
    peer.leave()


@pytest.mark.limit(180)
def test_lib_pq(secured, authority, peers, go):
    one = secured()
    peer = peers(Program(go, environment=variables(one, authority, PEER="pq")))
    through_upgrades(one, peer.step, "1.3")
    peer.leave()


# rustls

@pytest.fixture(scope="module")
def rustls():
    """The Rust program, compiled once."""
    done = subprocess.run(["cargo", "build", "--release", "--quiet", "--locked"], cwd=PEERS / "rustls", capture_output=True,
                          text=True, env={**os.environ, "CARGO_TARGET_DIR": str(STATE / "rustls")})
    assert done.returncode == 0, done.stderr
    return STATE / "rustls/release/peer"


@pytest.mark.limit(300)
@pytest.mark.parametrize("suite", [name.replace("TLS_", "TLS13_") if name in TLS_13 else name for name in JAVA])
def test_rustls(secured, authority, peers, rustls, behind, suite):
    one = secured(kind_of(suite), pool=behind)
    version = "1.3" if "TLS13" in suite else "1.2"
    peer = peers(Program(rustls, environment=variables(one, authority, TLS_VERSION=version, TLS_SUITE=suite)))
    through_upgrades(one, peer.step, version, suite)
    peer.leave()


# Python

@pytest.mark.limit(180)
@pytest.mark.parametrize("version", VERSIONS)
def test_python(secured, authority, version):
    one = secured()
    context = ssl.create_default_context(cafile=authority.certificate)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    plain = socket.create_connection(("127.0.0.1", one.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    with context.wrap_socket(plain, server_hostname="localhost") as encrypted:
        raw = Raw(encrypted, timeout=20)
        raw.login()

        def step(during=None):
            if during:
                raw.send(query(LARGE.format(3000)))
                during(timeout=20)
                assert len(rows(raw.read_until("Z"))) == 3000
            work(raw)

        through_upgrades(one, step, version)
        raw.send(terminate())
        # An end without the other side's goodbye would be an ssl.SSLEOFError.
        encrypted.unwrap()


@pytest.mark.limit(180)
@pytest.mark.parametrize("version", VERSIONS)
def test_psycopg(secured, authority, version):
    one = secured()
    with one.connect(host="localhost", sslmode="verify-full", sslrootcert=str(authority.certificate),
                     ssl_min_protocol_version=f"TLSv{version}", ssl_max_protocol_version=f"TLSv{version}") as connection:
        def step(during=None):
            if during:
                during(timeout=20)
            assert len(connection.execute(LARGE.format(3000)).fetchall()) == 3000
            assert connection.execute("select md5(%s)", [SENT]).fetchone() == (hashlib.md5(SENT.encode()).hexdigest(),)

        through_upgrades(one, step, version)


@pytest.mark.limit(180)
@pytest.mark.parametrize("version", VERSIONS)
def test_psql(secured, authority, version):
    one = secured()
    conninfo = f"host=localhost port={one.port} user=app dbname=shop sslmode=verify-full sslrootcert={authority.certificate}"
    process = subprocess.Popen(
        [f"{bin_dir()}/psql", "-XAtq", "-v", "ON_ERROR_STOP=1", conninfo], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, "PGSSLMINPROTOCOLVERSION": f"TLSv{version}", "PGSSLMAXPROTOCOLVERSION": f"TLSv{version}"})
    try:
        def step(during=None):
            process.stdin.write(f"{LARGE.format(3000)};\n")
            if during:
                during(timeout=20)
            assert all(process.stdout.readline().strip() == str(n) * 200 for n in range(1, 3001))

        through_upgrades(one, step, version)
        process.stdin.write("\\conninfo\n")
        assert f"protocol: TLSv{version}" in process.stdout.readline() + process.stdout.readline()
        _, complaints = process.communicate(timeout=20)
        assert (process.returncode, complaints) == (0, "")
    finally:
        process.kill()
