"""Certificates for tests: an authority, and whatever it signs.

Made by the openssl program, with the keys readable by their owner only. They
are for localhost and 127.0.0.1 unless told otherwise; the name asked for is the
common name.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

RSA = ("rsa:2048",)
EC = ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")
ED25519 = ("ed25519",)


class Identity(NamedTuple):
    """A certificate and its key, as files."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates with a key of this kind, in this way. `certificate` is its own."""

    def __init__(self, directory: Path, name: str = "test authority", *, kind: tuple[str, ...] = EC,
                 signature: tuple[str, ...] = ("-sha256",)):
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.certificate = directory / "ca.crt"
        self._key = directory / "ca.key"
        self._signature = signature
        openssl("req", "-x509", "-newkey", *kind, "-nodes", "-days", "2", "-subj", f"/CN={name}",
                "-addext", "keyUsage=critical,keyCertSign,cRLSign", "-keyout", self._key, "-out", self.certificate)

    def sign(self, name: str, *, kind: tuple[str, ...] = RSA, subject: str | None = None,
             names: str = "DNS:localhost,IP:127.0.0.1") -> Identity:
        """A certificate with this common name, or another `subject` (/O=shop/CN=app), for these `names`."""
        stem = self.directory / name.replace("/", "_")
        identity = Identity(stem.with_suffix(".crt"), stem.with_suffix(".key"))
        request, extensions = stem.with_suffix(".csr"), stem.with_suffix(".ext")
        openssl("req", "-newkey", *kind, "-nodes", "-subj", subject or f"/CN={name}", "-utf8",
                "-keyout", identity.key, "-out", request)
        extensions.write_text(f"subjectAltName={names}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial",
                *self._signature, "-days", "2", "-extfile", extensions, "-out", identity.certificate)
        identity.key.chmod(0o600)
        return identity

    def revoke(self, *identities: Identity) -> Path:
        """Revokes certificates; the list of all that are (CRL)."""
        config, revoked = self.directory / "ca.cnf", self.directory / "ca.crl"
        config.write_text(f"[ca]\ndefault_ca = it\n[it]\ndatabase = {self.directory}/index.txt\n"
                          "default_md = sha256\ndefault_crl_days = 2\n")
        (self.directory / "index.txt").touch()
        itself = "-config", config, "-cert", self.certificate, "-keyfile", self._key
        for identity in identities:
            openssl("ca", *itself, "-revoke", identity.certificate)
        openssl("ca", *itself, "-gencrl", "-out", revoked)
        return revoked


def openssl(*arguments: object) -> None:
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"openssl {arguments}: {done.stderr}"
