"""Who is let in over TLS, and whom the pooler believes: channel binding, client certificates, HBA and its maps.

Where it matters who stands in between, somebody does: a relay with a certificate of its own.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from certificates import ED25519, RSA, Authority, Identity
from postgres import free_port
from wire import SSL_REQUEST, Raw, error, message, text

SCRAM = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostnossl all all 127.0.0.1/32 scram-sha-256\n"
VERSIONS = ["1.2", "1.3"]


@pytest.fixture(scope="module")
def identity(authority):
    """What the pooler shows."""
    return authority.sign("localhost")


@pytest.fixture(scope="module")
def postgres_identity(authority):
    """What PostgreSQL shows, if it speaks TLS."""
    return authority.sign("postgres")


@pytest.fixture
def postgres_with_tls(pg, postgres_identity, clients):
    """PostgreSQL itself speaks TLS."""
    pg.speak_tls(postgres_identity.certificate, postgres_identity.key, clients.certificate)
    yield pg
    pg.speak_tls()


@pytest.fixture
def both_show(pg, doorman):
    """Starts a pooler that shows a certificate before a PostgreSQL that shows it too: `both_show(identity, pools)`.
    They speak TLS with each other, and everybody proves a password."""
    def start(shown: Identity, **ports: int):
        pg.speak_tls(shown.certificate, shown.key)
        user = {"username": "scram", "password": pg.verifier("scram"), "pool_size": 4}
        return doorman(general={"tls_certificate": str(shown.certificate), "tls_private_key": str(shown.key),
                                "pg_hba": {"content": SCRAM + "hostnossl pgdoorman admin 127.0.0.1/32 md5\n"},
                                "connect_timeout": "20s", "query_wait_timeout": "25s"},
                       pools={database: {"server_host": pg.host, "server_port": port, "server_database": "shop",
                                         "server_tls_mode": "require", "users": [user]}
                              for database, port in ports.items()})
    yield start
    pg.speak_tls()


@pytest.fixture
def encrypted(doorman, identity, pg):
    """Starts a pooler that offers TLS: `encrypted(hba, user="scram", general={...}, ...)`."""
    def start(hba: str, user: str = "scram", general: dict | None = None, **config):
        config.setdefault("users", [{"username": user, "password": pg.verifier(user) or "", "pool_size": 4}])
        return doorman(general={"tls_certificate": str(identity.certificate), "tls_private_key": str(identity.key),
                                "pg_hba": {"content": hba + "hostnossl pgdoorman admin 127.0.0.1/32 md5\n"},
                                **(general or {})}, **config)
    return start


class Relay:
    """Stands between a client and a server, ends the TLS of the one and begins one with the other."""

    def __init__(self, identity, port: int):
        self.port = free_port()
        self._server = port
        self._identity = identity
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours.load_cert_chain(self._identity.certificate, self._identity.key)
        theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        theirs.check_hostname, theirs.verify_mode = False, ssl.CERT_NONE
        with suppress(OSError):
            request = client.recv(8)
            server = socket.create_connection(("127.0.0.1", self._server))
            server.sendall(SSL_REQUEST)
            if request != SSL_REQUEST or server.recv(1) != b"S":
                return
            client.sendall(b"S")
            client, server = ours.wrap_socket(client, server_side=True), theirs.wrap_socket(server)
            pump = threading.Thread(target=self._copy, args=(server, client), daemon=True)
            pump.start()
            self._copy(client, server)
            pump.join()

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(16384):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def between(authority):
    """Puts a relay before a port: `between(port)` returns the relay's."""
    started = []

    def start(port: int, signer: Authority = authority) -> int:
        started.append(Relay(signer.sign("relay"), port))
        return started[-1].port
    yield start
    for relay in started:
        relay.close()


def refused(connect, **options) -> str:
    """What a client is told that is not let in."""
    with pytest.raises(psycopg.OperationalError) as told:
        connect(**options)
    return str(told.value)


# Channel binding

@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_may_insist_on_channel_binding(encrypted, version):
    one = encrypted(SCRAM)
    with one.connect(user="scram", password="scram-secret", sslmode="require", channel_binding="require",
                     ssl_max_protocol_version=f"TLSv{version}") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


def test_a_client_without_tls_cannot_bind(encrypted):
    one = encrypted(SCRAM)
    with one.connect(user="scram", password="scram-secret", sslmode="disable") as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    told = refused(one.connect, user="scram", password="scram-secret", sslmode="disable", channel_binding="require")
    assert "channel binding" in told


def test_nobody_can_stand_between_a_client_and_the_pooler(encrypted, between):
    one = encrypted(SCRAM)

    def connect(**options):
        return psycopg.connect(host="127.0.0.1", port=between(one.port), user="scram", password="scram-secret",
                               dbname="shop", sslmode="require", **options)
    assert "SCRAM channel binding check failed" in refused(connect, channel_binding="prefer")
    assert "SCRAM channel binding check failed" in refused(connect, channel_binding="require")
    # The relay does its work: without binding nobody notices it.
    with connect(channel_binding="disable") as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("how", ["password", "passed-on"])
def test_nobody_can_stand_between_the_pooler_and_postgresql(encrypted, between, postgres_with_tls, pg, how):
    user = {"username": "scram", "password": pg.verifier("scram"), "pool_size": 4}
    if how == "password":
        user |= {"server_username": "scram", "server_password": "scram-secret"}
    pool = {"server_tls_mode": "require"}
    one = encrypted(SCRAM, users=[user], pool={**pool, "server_port": between(pg.port)}, pools={
        "direct": {"server_host": pg.host, "server_port": pg.port, "server_database": "shop", **pool, "users": [user]}},
        general={"connect_timeout": "20s", "query_wait_timeout": "25s"})
    with one.connect(user="scram", password="scram-secret", database="direct", sslmode="require") as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    refused(one.connect, user="scram", password="scram-secret", sslmode="require")
    one.wait_log("SCRAM channel binding check failed")


def encrypted_raw(one, **options) -> Raw:
    """A bare protocol connection over TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in options.items():
        setattr(context, name, value)
    plain = socket.create_connection((one.host, one.port), timeout=10)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    raw = Raw(context.wrap_socket(plain))
    one._open.append(raw)
    return raw


def offered(raw: Raw) -> list[bytes]:
    """The mechanisms of AuthenticationSASL."""
    raw.startup(user="scram", database="shop")
    request = raw.read()
    assert request.kind == "R" and struct.unpack_from("!i", request.body) == (10,)
    return request.body[4:].rstrip(b"\0").split(b"\0")


def test_binding_is_offered_over_tls_only(encrypted):
    one = encrypted(SCRAM)
    assert offered(one.raw(login=False)) == [b"SCRAM-SHA-256"]
    assert offered(encrypted_raw(one)) == [b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]


def test_a_client_whose_offer_was_struck_out_is_told(encrypted):
    one = encrypted(SCRAM)
    raw = encrypted_raw(one)
    offered(raw)
    first = b"y,,n=,r=abcdefghijklmnopqrstuvwx"
    raw.send(message(b"p", text("SCRAM-SHA-256") + struct.pack("!i", len(first)) + first))
    told = error(raw.read_until("E"))
    assert (told.code, told.text) == ("28000", "SCRAM channel binding negotiation error")
    one.wait_log("thinks the server does not")


def by(directory: Path, kind: tuple[str, ...], *signature: str) -> Authority:
    return Authority(directory, kind=kind, signature=signature)


@pytest.mark.parametrize("hash_", ["sha256", "sha384", "sha512"])
def test_certificates_signed_by_rsa_pss_bind_too(both_show, between, pg, tmp_path, hash_):
    signer = by(tmp_path, RSA, f"-{hash_}", "-sigopt", "rsa_padding_mode:pss")
    one = both_show(signer.sign("localhost"), direct=pg.port, relayed=between(pg.port, signer))
    options = {"user": "scram", "password": "scram-secret", "sslmode": "require"}
    with one.connect(database="direct", channel_binding="require", **options) as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    # Had the pooler not bound, PostgreSQL would not have noticed the relay.
    refused(one.connect, database="relayed", **options)
    one.wait_log("SCRAM channel binding check failed")


def test_certificates_signed_by_ed25519_do_not_bind_and_do_not_hinder(both_show, pg, tmp_path):
    one = both_show(by(tmp_path, ED25519).sign("localhost", kind=ED25519), direct=pg.port)
    options = {"user": "scram", "password": "scram-secret", "sslmode": "require"}
    # PostgreSQL offers what libpq then cannot do.
    assert "could not find digest for NID UNDEF" in refused(pg.connect, **options)
    assert offered(encrypted_raw(one)) == [b"SCRAM-SHA-256"]
    with one.connect(database="direct", **options) as connection:
        assert connection.execute("select ssl from pg_stat_ssl where pid = pg_backend_pid()").fetchone() == (True,)
    assert "channel binding" in refused(one.connect, database="direct", channel_binding="require", **options)


# Client certificates

CERTIFICATES = "hostssl all all 127.0.0.1/32 cert map=staff\n"
MAP = r"""
staff ann app
staff "/^CN=(.*),O=ops$" \1
staff /^(.*)@shop$ \1
"""


@pytest.fixture
def certified(encrypted, clients):
    """Starts a pooler that believes certificates."""
    def start(hba: str, user: str = "app", **general):
        return encrypted(hba, user, general={"tls_ca_cert": str(clients.certificate),
                                             "pg_ident": {"content": MAP}, **general})
    return start


def showing(identity) -> dict:
    return {"sslmode": "require", "sslcert": str(identity.certificate), "sslkey": str(identity.key)}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_is_proof_enough(certified, clients, version):
    one = certified(CERTIFICATES)
    for name in "ann", "app@shop":
        with one.connect(**showing(clients.sign(name)), ssl_max_protocol_version=f"TLSv{version}") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


def test_the_whole_subject_can_be_mapped(certified, clients):
    one = certified(CERTIFICATES.replace("map", "clientname=DN map"))
    with one.connect(**showing(clients.sign("by-subject", subject="/O=ops/CN=app"))) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    told = refused(one.connect, **showing(clients.sign("ann")))
    assert 'certificate authentication failed for user "app"' in told
    one.wait_log('no match in usermap "staff" for user "app" authenticated as "CN=ann"')


def test_the_wrong_certificate_and_none_are_refused(certified, clients, authority):
    one = certified(CERTIFICATES)
    assert "connection requires a valid client certificate" in refused(one.connect, sslmode="require")
    assert 'certificate authentication failed for user "app"' in refused(one.connect, **showing(clients.sign("eve")))
    one.wait_log('no match in usermap "staff" for user "app" authenticated as "eve"')
    # Another authority's does not get that far.
    assert "alert unknown ca" in refused(one.connect, **showing(authority.sign("ann")))
    assert one.console("show clients") and not [row for row in one.console("show clients") if row["database"] == "shop"]


def test_a_certificate_can_be_asked_for_besides_the_password(certified, clients):
    rule = "hostssl all all 127.0.0.1/32 scram-sha-256 clientcert=verify-full\n"
    one = certified(rule, user="scram")
    options = {"user": "scram", "password": "scram-secret"}
    with one.connect(**options, **showing(clients.sign("scram"))) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert "requires a valid client certificate" in refused(one.connect, **options, sslmode="require")
    assert "certificate authentication failed" in refused(one.connect, **options, **showing(clients.sign("ann")))
    told = refused(one.connect, **{**options, "password": "wrong"}, **showing(clients.sign("scram")))
    assert "password authentication failed" in told


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
@pytest.mark.parametrize("version", VERSIONS)
def test_certificates_can_be_demanded_of_everybody(certified, clients, mode, version):
    one = certified("hostssl all all 127.0.0.1/32 trust\n", tls_mode=mode)
    newest = {"ssl_max_protocol_version": f"TLSv{version}"}
    with one.connect(**showing(clients.sign("anybody")), **newest) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert "alert" in refused(one.connect, sslmode="require", sslcert="/nowhere", sslkey="/nowhere", **newest)
    assert "not allowed by tls_mode" in refused(one.connect, sslmode="disable")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_revoked_certificate_is_worth_nothing(certified, clients, version):
    lost, kept = clients.sign("lost"), clients.sign("kept")
    one = certified("hostssl all all 127.0.0.1/32 trust clientcert=verify-ca\n", tls_crl=str(clients.revoke(lost)))
    newest = {"ssl_max_protocol_version": f"TLSv{version}"}
    assert one.connect(**showing(kept), **newest).execute("select 1").fetchone() == (1,)
    assert "alert certificate revoked" in refused(one.connect, **showing(lost), **newest)


def test_a_postgresql_whose_certificate_is_revoked_is_not_believed(doorman, postgres_with_tls, postgres_identity, authority):
    pool = {"server_host": "localhost", "server_tls_mode": "verify-full", "server_tls_ca_cert": str(authority.certificate)}
    other = authority.sign("other")
    one = doorman(pool={**pool, "server_tls_crl": str(authority.revoke(other))})
    assert one.connect().execute("select 1").fetchone() == (1,)
    mistrusted = doorman(pool={**pool, "server_tls_crl": str(authority.revoke(postgres_identity))})
    refused(mistrusted.connect)
    mistrusted.wait_log("certificate revoked")


def test_the_console_asks_for_certificates_too(certified, clients):
    one = certified("hostssl pgdoorman admin 127.0.0.1/32 cert\n")
    with one.connect(user="admin", database="pgdoorman", **showing(clients.sign("admin"))) as console:
        assert console.execute("show version").fetchone()
    assert "certificate" in refused(one.connect, user="admin", database="pgdoorman", sslmode="require")


def test_rules_tell_tls_from_none(encrypted):
    one = encrypted("hostssl all app 127.0.0.1/32 trust\nhostnossl all scram 127.0.0.1/32 trust\n", user="app", users=[
        {"username": name, "password": "", "pool_size": 2, "server_username": "app"} for name in ("app", "scram")])
    assert one.connect(sslmode="require").execute("select 1").fetchone() == (1,)
    assert one.connect(user="scram", sslmode="disable").execute("select 1").fetchone() == (1,)
    assert 'database "shop", no encryption' in refused(one.connect, sslmode="disable")
    assert 'database "shop", SSL encryption' in refused(one.connect, user="scram", sslmode="require")


def test_the_pooler_shows_postgresql_its_own_certificate(encrypted, postgres_with_tls, authority, clients):
    shown = clients.sign("certified")
    one = encrypted("host all all 127.0.0.1/32 trust\n", users=[
        {"username": "certified", "password": "", "pool_size": 2}], pool={
        "server_host": "localhost", "server_tls_mode": "verify-full", "server_tls_ca_cert": str(authority.certificate),
        "server_tls_certificate": str(shown.certificate), "server_tls_private_key": str(shown.key)})
    with one.connect(user="certified", sslmode="disable") as connection:
        (subject,) = connection.execute("select client_dn from pg_stat_ssl where pid = pg_backend_pid()").fetchone()
        assert subject == "/CN=certified"
