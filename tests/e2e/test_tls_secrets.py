"""The TLS secrets that the pooler keeps are not in a core dump; what OpenSSL has made of them may be.

The client writes its secrets down (as SSLKEYLOGFILE does it), and the pooler's memory is searched for them: what the
kernel would put into a core dump, what it would leave out, and a core dump that it really wrote.
"""

from __future__ import annotations

import re
import resource
import signal
import socket
import ssl
from pathlib import Path
from typing import NamedTuple

import pytest

from certificates import EC, Identity
from wire import SSL_REQUEST, Raw

SUITES = ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256")


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


def connection_secrets(key_log: Path) -> dict[str, bytes]:
    """The traffic secrets that a client has noted."""
    found = {f"{side} secret": bytes.fromhex(digits) for side, digits in
             re.findall(r"^(CLIENT|SERVER)_TRAFFIC_SECRET_0 \w+ (\w+)$", key_log.read_text(), re.M)}
    assert len(found) == 2
    return found


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize("upgrades", [0, 2])
def test_secrets_are_left_out_of_core_dumps(doorman, authority, identity, tmp_path, suite, upgrades):
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
    secrets = connection_secrets(tmp_path / "keys") | {"PEM": identity.key.read_bytes().splitlines()[1]}
    now = memory(one.process.pid)
    assert [name for name, secret in secrets.items() if secret not in now.left_out] == []
    assert [name for name, secret in secrets.items() if secret in now.dumped] == []
    written = core(one)
    if written is not None:
        # It is one of this process: what has no secret is there.
        assert str(one.path).encode() in written
        assert [name for name, secret in secrets.items() if secret in written] == []
