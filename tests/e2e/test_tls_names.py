"""Several certificates: which one a client is shown for the name it asks for (SNI), and that all else is the same with each.

What holds for any certificate is in test_tls and test_tls_login.
"""

from __future__ import annotations

import socket
import ssl
import subprocess

import psycopg
import pytest

from certificates import EC, Identity
from doorman import binary
from wait import wait_until
from wire import SSL_REQUEST, Raw, query, terminate

VERSIONS = ["1.2", "1.3"]
SCRAM = "hostssl all all 127.0.0.1/32 scram-sha-256\nhostnossl pgdoorman admin 127.0.0.1/32 md5\n"


@pytest.fixture(scope="module")
def identities(authority) -> dict[str, Identity]:
    """By their common names. The first is `main`, for localhost."""
    return {"main": authority.sign("main"),
            "shop": authority.sign("shop", kind=EC, names="DNS:shop.example,DNS:www.shop.example,IP:192.0.2.1"),
            "any": authority.sign("any", names="DNS:*.wild.example"),
            "db": authority.sign("db", names="DNS:DB.wild.example")}


def pairs(*identities: Identity) -> list[dict]:
    return [{"certificate": str(one.certificate), "private_key": str(one.key)} for one in identities]


@pytest.fixture
def named(doorman, identities):
    """Starts a pooler with `main` and these beside it: `named("shop", "db", general={...}, ...)`."""
    def start(*names: str, general: dict | None = None, **config):
        main = identities["main"]
        return doorman(general={"tls_certificate": str(main.certificate), "tls_private_key": str(main.key),
                                "tls_certificates": pairs(*(identities[name] for name in names)),
                                **(general or {})}, **config)
    return start


def encrypted(one, authority, asked: str | None, version: str | None = None, directly: bool = False) -> Raw:
    """A bare protocol connection over TLS, to the server of this name."""
    context = ssl.create_default_context(cafile=authority.certificate)
    context.check_hostname = False
    if version:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{version.replace('.', '_')}"]
    plain = socket.create_connection((one.host, one.port), timeout=20)
    if directly:
        context.set_alpn_protocols(["postgresql"])
    else:
        plain.sendall(SSL_REQUEST)
        assert plain.recv(1) == b"S"
    raw = Raw(context.wrap_socket(plain, server_hostname=asked), timeout=20)
    one._open.append(raw)
    return raw


def common_name(raw: Raw) -> str:
    return dict(part for (part,) in raw.socket.getpeercert()["subject"])["commonName"]


def shown(one, authority, asked: str | None, version: str | None = None) -> str:
    """Whose certificate a client is shown that asks for this name."""
    raw = encrypted(one, authority, asked, version)
    name = common_name(raw)
    raw.close()
    return name


def refused(one, **options) -> str:
    with pytest.raises(psycopg.OperationalError) as failure:
        one.connect(**options)
    return str(failure.value)


# Which one

@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_is_shown_the_certificate_for_the_name_it_asks_for(named, authority, version):
    one = named("shop", "any", "db")
    assert {asked: shown(one, authority, asked, version) for asked in [
        None, "localhost", "127.0.0.1", "192.0.2.1", "other.example", "shop.example", "www.shop.example",
        "sub.shop.example", "some.wild.example", "db.wild.example", "wild.example", "a.b.wild.example"]
    } == {None: "main", "localhost": "main", "127.0.0.1": "main", "192.0.2.1": "main", "other.example": "main",
          "shop.example": "shop", "www.shop.example": "shop", "sub.shop.example": "main",
          # Before it stands one with a wildcard for it, but this one is for no other.
          "some.wild.example": "any", "db.wild.example": "db", "wild.example": "main", "a.b.wild.example": "main"}


@pytest.mark.parametrize("asked, name", [
    (b"SHOP.example", "shop"), (b"shop.example.", "main"), (b".", "main"), (b"*", "main"), (b"\xff\xfe.example", "main"),
    (b"a." * 127 + b"b", "main"), (b"x" * 255, "main"), (b"' or 1=1\r\n%s", "main")])
def test_a_client_may_ask_for_whatever_it_likes(named, asked, name):
    one = named("shop")
    done = subprocess.run(["openssl", "s_client", "-connect", f"{one.host}:{one.port}", "-starttls", "postgres",
                           "-servername", asked], stdin=subprocess.DEVNULL, capture_output=True, timeout=20)
    assert f"subject=CN = {name}\n" in done.stdout.decode(errors="replace").replace("CN=", "CN = ")
    assert one.serves()


@pytest.mark.parametrize("host", ["localhost", "shop.example", "some.wild.example"])
def test_libpq_verifies_the_name_it_connects_to(named, authority, host):
    one = named("shop", "any")
    options = {"host": host, "hostaddr": one.host, "sslmode": "verify-full", "sslrootcert": str(authority.certificate)}
    assert one.connect(**options).execute("select 1").fetchone() == (1,)
    if host != "localhost":
        told = refused(one, **options, sslsni="0")
        assert f'does not match host name "{host}"' in told


# All else is the same

@pytest.mark.parametrize("version", VERSIONS)
def test_tls_may_begin_with_the_first_byte(named, authority, version):
    one = named("shop")
    raw = encrypted(one, authority, "shop.example", version, directly=True)
    assert (common_name(raw), raw.socket.selected_alpn_protocol()) == ("shop", "postgresql")
    raw.login()
    assert raw.value("select 1") == "1"


@pytest.mark.parametrize("version", VERSIONS)
def test_scram_is_bound_to_the_certificate_that_was_shown(named, authority, pg, version):
    one = named("shop", general={"pg_hba": {"content": SCRAM}},
                users=[{"username": "scram", "password": pg.verifier("scram"), "pool_size": 2}])
    for host in "localhost", "shop.example":
        with one.connect(user="scram", password="scram-secret", host=host, hostaddr=one.host, sslmode="verify-full",
                         sslrootcert=str(authority.certificate), channel_binding="require",
                         ssl_max_protocol_version=f"TLSv{version}") as connection:
            assert connection.execute("select 1").fetchone() == (1,)


@pytest.mark.parametrize("version", VERSIONS)
def test_clients_are_asked_for_their_certificates_with_each(named, authority, clients, version):
    one = named("shop", general={"tls_ca_cert": str(clients.certificate),
                                 "pg_hba": {"content": "hostssl all all 127.0.0.1/32 cert\n"
                                                       "hostnossl pgdoorman admin 127.0.0.1/32 md5\n"}})
    for host in "localhost", "shop.example":
        options = {"host": host, "hostaddr": one.host, "sslmode": "require",
                   "ssl_max_protocol_version": f"TLSv{version}"}
        own, strange = clients.sign("app"), authority.sign("app")
        with one.connect(**options, sslcert=str(own.certificate), sslkey=str(own.key)) as connection:
            assert connection.execute("select 1").fetchone() == (1,)
        assert "alert unknown ca" in refused(one, **options, sslcert=str(strange.certificate), sslkey=str(strange.key))
        assert "requires a valid client certificate" in refused(one, **options)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_session_is_kept_for_another_with_any(named, version):
    one = named("shop")
    command = ["openssl", "s_client", "-connect", f"{one.host}:{one.port}", "-starttls", "postgres",
               "-servername", "shop.example", f"-tls{version.replace('.', '_')}", "-reconnect"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert done.stdout.count("New, TLSv") == 6 and "Reused" not in done.stdout
    assert "session ticket" not in done.stdout.lower()


@pytest.mark.parametrize("version", VERSIONS)
def test_sessions_move_whatever_they_were_shown(named, authority, version):
    one = named("shop", "any")
    raws = [encrypted(one, authority, asked, version) for asked in (None, "shop.example", "some.wild.example")]
    assert [common_name(raw) for raw in raws] == ["main", "shop", "any"]
    for raw in raws:
        raw.login()
        raw.ask(query("begin"))
    for turn in range(2):
        one.upgrade()
        for raw in raws:
            assert raw.value(f"select {turn}") == str(turn)
            assert raw.status == "T"
    # Even to a process that has never heard of that certificate.
    one.config["general"]["tls_certificates"] = []
    one.write()
    one.upgrade()
    assert shown(one, authority, "shop.example") == "main"
    for raw in raws:
        assert raw.value("select 'still'") == "still"
        raw.send(terminate())
        assert raw.read() is None


# What they are changes

def test_a_reload_changes_which_there_are(named, authority, identities):
    one = named("shop")
    raw = encrypted(one, authority, "shop.example")
    raw.login()
    raw.ask(query("begin"))
    one.config["general"]["tls_certificates"] = pairs(identities["any"])
    one.reload()
    wait_until(lambda: shown(one, authority, "shop.example") == "main", what="it is no longer shown")
    assert shown(one, authority, "some.wild.example") == "any"
    assert raw.value("select 1") == "1"
    assert raw.status == "T"


def test_a_renewed_certificate_is_taken_up_from_the_same_path(named, authority, tmp_path):
    certificate, key = tmp_path / "own.crt", tmp_path / "own.key"

    def put(name: str) -> None:
        signed = authority.sign(name, names="DNS:renewed.example")
        certificate.write_text(signed.certificate.read_text())
        key.touch(mode=0o600)
        key.write_text(signed.key.read_text())

    put("first year")
    one = named(general={"tls_certificates": pairs(Identity(certificate, key))})
    assert shown(one, authority, "renewed.example") == "first year"
    put("second year")
    one.reload()
    wait_until(lambda: shown(one, authority, "renewed.example") == "second year", what="the new one is shown")


def test_one_that_cannot_be_used_takes_none_of_the_others_away(named, authority, identities, tmp_path):
    one = named("shop")
    main = identities["main"]
    unfit = Identity(identities["any"].certificate, identities["db"].key)
    nameless = authority.sign("nameless", names="IP:192.0.2.2")
    missing = Identity(tmp_path / "none.crt", main.key)
    for bad, key, reason in [(unfit, "private_key", f'the key in "{unfit.key}" is not that of the certificate in'),
                             (nameless, "certificate", f'the certificate in "{nameless.certificate}" has no DNS name'),
                             (missing, "certificate", f'Could not open "{missing.certificate}"')]:
        one.config["general"]["tls_certificates"] = pairs(bad, identities["any"])
        one.write()
        expected = f"general.tls_certificates.0.{key}: {reason}"
        tested = subprocess.run([binary(), "-t", str(one.path)], capture_output=True, text=True, timeout=20)
        assert tested.returncode != 0
        assert expected in tested.stdout + tested.stderr
        one.reload()
        one.wait_log(expected.replace(".", r"\.").replace('"', r'\\?"'))
        assert [shown(one, authority, asked) for asked in (None, "shop.example", "some.wild.example")] == [
            "main", "shop", "main"]
