"""What would give connections or the pooler away is not in a core dump.

The client writes its secrets down (as SSLKEYLOGFILE does it), and the pooler's memory is searched for them: what the
kernel would put into a core dump, what it would leave out, and a core dump that it really wrote.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import resource
import signal
import socket
import ssl
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from certificates import EC, Identity
from wire import SSL_REQUEST, Raw

# How long its keys are, and the hash they are derived with.
SUITES = {"TLS_AES_128_GCM_SHA256": (16, "sha256"), "TLS_AES_256_GCM_SHA384": (32, "sha384"),
          "TLS_CHACHA20_POLY1305_SHA256": (32, "sha256")}


@pytest.fixture(scope="module")
def identity(authority) -> Identity:
    return authority.sign("localhost", kind=EC)


class Memory(NamedTuple):
    """A process's memory, as the kernel parts it for a core dump (VmFlags in proc_pid_smaps(5))."""

    dumped: bytes
    left_out: bytes


def memory(pid: int) -> Memory:
    parts: dict[bool, list[bytes]] = {True: [], False: []}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as content:
        for area in re.finditer(r"^(\w+)-(\w+) rw.*?^VmFlags: (.*?)$", Path(f"/proc/{pid}/smaps").read_text(), re.M | re.S):
            start, end = int(area[1], 16), int(area[2], 16)
            content.seek(start)
            parts["dd" in area[3].split()].append(content.read(end - start))
    return Memory(b"\n".join(parts[False]), b"\n".join(parts[True]))


def core(one) -> bytes | None:
    """The core dump of a pooler that is aborted; None where the kernel writes none into its directory."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if not pattern or pattern.startswith("|") or "/" in pattern:
        return None
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(one.process.pid, resource.RLIMIT_CORE, unlimited)
    before = set(one.directory.iterdir())
    one.expected_status = -signal.SIGABRT
    one.signal(signal.SIGABRT)
    one.wait(60)
    (written,) = set(one.directory.iterdir()) - before
    content = written.read_bytes()
    written.unlink()
    return content


def expand(secret: bytes, label: str, length: int, hash_: str) -> bytes:
    """HKDF-Expand-Label (RFC 8446, section 7.1), one block of it."""
    name = b"tls13 " + label.encode()
    return hmac.digest(secret, length.to_bytes(2, "big") + bytes([len(name)]) + name + b"\0\x01", hash_)[:length]


def connection_secrets(key_log: Path, suite: str) -> dict[str, bytes]:
    """The traffic secrets that a client has noted, and the keys that come of them."""
    length, hash_ = SUITES[suite]
    found = {}
    for side, digits in re.findall(r"^(CLIENT|SERVER)_TRAFFIC_SECRET_0 \w+ (\w+)$", key_log.read_text(), re.M):
        secret = bytes.fromhex(digits)
        found |= {f"{side} secret": secret, f"{side} key": expand(secret, "key", length, hash_)}
    assert len(found) == 4
    return found


def own_secrets(identity: Identity) -> dict[str, bytes]:
    """The pooler's private key, as it is written and as OpenSSL computes with it."""
    der = subprocess.run(["openssl", "ec", "-in", identity.key, "-outform", "DER"], capture_output=True, check=True).stdout
    # ECPrivateKey (RFC 5915): a SEQUENCE, the version, and 32 bytes.
    assert der[2:7] == b"\x02\x01\x01\x04\x20"
    return {"PEM": identity.key.read_bytes().splitlines()[1], "number": der[7:39][::-1]}


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("upgrades", [0, 2])
def test_keys_are_left_out_of_core_dumps(doorman, authority, identity, tmp_path, suite, upgrades):
    one = doorman(general={"tls_certificate": str(identity.certificate), "tls_private_key": str(identity.key),
                           "tls_cipher_suites": [suite], "tls_min_version": "TLSv1.3"})
    context = ssl.create_default_context(cafile=authority.certificate)
    context.keylog_filename = tmp_path / "keys"
    plain = socket.create_connection((one.host, one.port), timeout=20)
    plain.sendall(SSL_REQUEST)
    assert plain.recv(1) == b"S"
    raw = Raw(context.wrap_socket(plain, server_hostname="localhost"), timeout=20)
    one._open.append(raw)
    raw.login()
    for _ in range(upgrades):
        assert raw.value("select 1") == "1"
        # Nothing is said after the last: the session may lie where silent ones do.
        one.upgrade()
    assert raw.socket.cipher()[0] == suite
    secrets = connection_secrets(tmp_path / "keys", suite) | own_secrets(identity)
    now = memory(one.process.pid)
    assert [name for name, secret in secrets.items() if secret not in now.left_out] == []
    assert [name for name, secret in secrets.items() if secret in now.dumped] == []
    written = core(one)
    if written is not None:
        # It is one of this process: what has no secret is there.
        assert str(one.path).encode() in written
        assert [name for name, secret in secrets.items() if secret in written] == []
