"""JSON Web Tokens in place of passwords: users of the file with `jwt-pkey-fpath:`."""

import base64
import json
import os
import subprocess
import time

import psycopg
import pytest

from wait import wait_until

RULES = {"content": "host all all 127.0.0.1/32 scram-sha-256\n"}
REFUSED = 'password authentication failed for user "app"'


class Issuer:
    """Signs tokens with a key of its own; `public` is what checks them."""

    def __init__(self, directory, algorithm="RS256"):
        directory.mkdir(exist_ok=True)
        self.algorithm = algorithm
        self.private, self.public = directory / "key.pem", directory / "key.pub"
        kind = {"RS256": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"], "EdDSA": ["ED25519"],
                "ES256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"]}[algorithm]
        openssl("genpkey", "-algorithm", *kind, "-out", self.private)
        openssl("pkey", "-in", self.private, "-pubout", "-out", self.public)
        self.private.chmod(0o600)

    def token(self, user="app", *, lasts=60, header=None, **claims) -> str:
        claims = {"preferred_username": user, "exp": time.time() + lasts, **claims}
        content = ".".join(encode(json.dumps(part).encode())
                           for part in ({"alg": self.algorithm, **(header or {})}, claims))
        file = self.private.with_suffix(".content")
        file.write_text(content)
        way = ["-rawin"] if self.algorithm == "EdDSA" else ["-rawin", "-digest", "sha256"]
        signature = openssl("pkeyutl", "-sign", "-inkey", self.private, *way, "-in", file)
        if self.algorithm == "ES256":
            signature = raw(signature)
        return f"{content}.{encode(signature)}"


def raw(der: bytes) -> bytes:
    """The two numbers of an ECDSA signature, 32 bytes each."""
    first = der[4:4 + der[3]]
    second = der[4 + der[3] + 2:]
    return b"".join(number.lstrip(b"\0").rjust(32, b"\0") for number in (first, second))


def encode(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def openssl(*arguments) -> bytes:
    return subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def issuer(tmp_path_factory):
    return Issuer(tmp_path_factory.mktemp("issuer"))


def user(issuer, **more):
    return {"password": f"jwt-pkey-fpath:{issuer.public}", **more}


def login(doorman, password, user="app", **options):
    return doorman.connect(user, password=password, **options).execute("select current_user").fetchone()[0]


def refused(doorman, password):
    with pytest.raises(psycopg.OperationalError) as failed:
        login(doorman, password)
    return str(failed.value)


def by_psql(doorman, password, **environment):
    done = subprocess.run(["psql", "-XAt", "-h", doorman.host, "-p", str(doorman.port), "-U", "app", "shop",
                           "-c", "select current_user"], capture_output=True, text=True,
                          env={**os.environ, "PGPASSWORD": password, **environment})
    return done.stdout.strip() or done.stderr


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_token_logs_its_user_in(doorman, tmp_path, algorithm):
    issuer, stranger = Issuer(tmp_path / "own", algorithm), Issuer(tmp_path / "stranger", algorithm)
    one = doorman(general={"pg_hba": RULES}, user=user(issuer))
    assert login(one, issuer.token()) == "app"
    assert by_psql(one, issuer.token()) == "app"
    for wrong, why in [
        (stranger.token(), "signature"),
        (issuer.token("jim"), "another user"),
        (issuer.token(lasts=-1), "expired"),
        (issuer.token(nbf=time.time() + 60), "not valid yet"),
        (issuer.token(exp=None), '"exp"'),
        (issuer.token(header={"alg": "none"}), "not signed with " + algorithm),
        (issuer.token(header={"alg": "HS256"}), "not signed with " + algorithm),
        ("app-secret", "not a JSON Web Token"),
    ]:
        text = refused(one, wrong)
        assert REFUSED in text and why not in text
        one.wait_log(rf"app\".*{why}.*\(28P01\)")
        assert wrong not in one.log()
    assert REFUSED in by_psql(one, stranger.token())


def test_audience_and_claim(doorman, issuer):
    one = doorman(general={"pg_hba": RULES, "jwt_audience": "db", "jwt_username_claim": "sub"}, user=user(issuer))
    assert login(one, issuer.token("nobody", sub="app", aud=["web", "db"])) == "app"
    assert REFUSED in refused(one, issuer.token("app", sub="nobody", aud="db"))
    assert REFUSED in refused(one, issuer.token(sub="app"))
    assert REFUSED in refused(one, issuer.token(sub="app", aud="web"))


def test_the_key_is_read_again_at_reload(doorman, tmp_path):
    issuer = Issuer(tmp_path / "issuer")
    one = doorman(general={"pg_hba": RULES}, user=user(issuer))
    before = issuer.token()
    session = one.connect("app", password=before)
    Issuer(tmp_path / "issuer")
    after = issuer.token()
    assert REFUSED in refused(one, after)
    one.reload()
    wait_until(lambda: by_psql(one, after) == "app", what="the new key counts")
    assert REFUSED in refused(one, before)
    assert session.execute("select 1").fetchone() == (1,)
    # A file that is no key leaves the old one in force.
    issuer.public.write_text("no key")
    one.reload()
    one.wait_log("no public key")
    assert login(one, issuer.token()) == "app"


def test_logins_before_and_after_an_upgrade(doorman, issuer):
    one = doorman(general={"pg_hba": RULES}, user=user(issuer))
    session = one.connect("app", password=issuer.token())
    one.upgrade()
    assert session.execute("select current_user").fetchone() == ("app",)
    assert login(one, issuer.token()) == "app"
    assert by_psql(one, issuer.token()) == "app"


def test_the_pooler_signs_a_token_for_the_server(doorman, issuer, tmp_path):
    """The server is another pooler that takes tokens: PostgreSQL itself knows no way to ask for one."""
    inner = doorman(general={"pg_hba": RULES}, user=user(issuer))
    own = {"server_username": "app", "server_password": f"jwt-priv-key-fpath:{issuer.private}"}
    outer = doorman(pool={"server_host": inner.host, "server_port": inner.port}, user=own)
    assert login(outer, None) == "app"


def test_a_token_without_tls_is_told(doorman, issuer, authority):
    told = "user 'app' sends a token in clear text"
    rules = {"content": "host all all all scram-sha-256\n"}
    everywhere = {"host": "0.0.0.0", "pg_hba": rules}
    assert told in doorman(general=everywhere, user=user(issuer)).log()
    server = authority.sign("doorman")
    tls = {"tls_certificate": str(server.certificate), "tls_private_key": str(server.key)}
    rules = {"content": "hostssl all all all scram-sha-256\nhost all all 127.0.0.1/32 trust\n"}
    one = doorman(general={**everywhere, **tls, "pg_hba": rules}, user=user(issuer))
    assert told not in one.log()
    assert login(one, issuer.token(), sslmode="require") == "app"
    assert by_psql(one, issuer.token(), PGSSLMODE="require") == "app"
