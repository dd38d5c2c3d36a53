"""Metrics over HTTP, also through an upgrade."""

import re
import socket
import subprocess
import urllib.error
import urllib.request

import pytest

from doorman import Doorman
from postgres import free_port
from test_handover import BEFORE, library, watched  # noqa: F401

TRANSACTIONS = 'pools_transactions_total{user="app",database="shop"}'


@pytest.fixture
def web(doorman):
    return doorman(web={"enabled": True, "host": "127.0.0.1", "port": free_port()})


def address(one: Doorman) -> tuple[str, int]:
    return "127.0.0.1", one.config["web"]["port"]


def get(one: Doorman, path: str = "/metrics") -> str:
    host, port = address(one)
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=20) as answer:
        return answer.read().decode()


def value(text: str, name: str) -> int:
    return int(re.search(rf"^pg_doorman_{re.escape(name)} (\d+)$", text, re.M)[1])


def raw(one: Doorman, request: bytes) -> bytes:
    with socket.create_connection(address(one), 20) as peer:
        peer.sendall(request)
        answer = b""
        while piece := peer.recv(4096):
            answer += piece
        return answer


def test_counts_are_served_and_go_on_after_an_upgrade(web):
    client = web.connect()
    for _ in range(5):
        client.execute("select 1")
        client.commit()
    before = value(get(web), TRANSACTIONS)
    assert before >= 5
    first = web.process.pid
    # It waits in the kernel's queue or is answered by either process: it is never refused.
    web.upgrade()
    assert web.process.pid != first
    assert value(get(web), TRANSACTIONS) >= before
    client.execute("select 1")
    client.commit()
    assert value(get(web), TRANSACTIONS) > before
    assert "Serving metrics on" in web.log()


def test_metrics_are_served_again_after_a_failed_upgrade(watched):  # noqa: F811
    """The successor had got the listening socket."""
    web, steps = watched(upgrade={"timeout": "2s"}, web={"enabled": True, "host": "127.0.0.1", "port": free_port()})
    crowd = [web.raw() for _ in range(10)]
    steps.stop("successor", "send", BEFORE - 1)
    web.fail_to_upgrade()
    assert value(get(web), 'pool_size{user="app",database="shop"}') == 4
    assert get(web, "/healthz") == get(web, "/readyz") == "ok\n"
    assert len(crowd) == 10


def test_bad_requests_and_slow_peers_keep_nobody_out(web):
    with pytest.raises(urllib.error.HTTPError) as error:
        get(web, "/nothing")
    assert error.value.code == 404
    assert b" 405 " in raw(web, b"POST /metrics HTTP/1.1\r\n\r\n")
    assert b" 400 " in raw(web, b"\x00\x01\r\n\r\n")
    assert b" 431 " in raw(web, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 65)
    silent = [socket.create_connection(address(web), 20) for _ in range(40)]
    assert value(get(web), 'pools_paused{user="app",database="shop"}') == 0
    for peer in silent:
        peer.close()


def test_a_test_of_the_configuration_names_a_port_in_use(web, tmp_path):
    other = tmp_path / "other.toml"
    text = web.path.read_text().replace(f"port = {web.port}", f"port = {free_port()}")
    other.write_text(text)
    other.chmod(0o600)
    told = subprocess.run([web.program, "-t", other], capture_output=True, text=True, check=True)
    assert f"127.0.0.1:{address(web)[1]} (web.port)" in told.stdout + told.stderr
