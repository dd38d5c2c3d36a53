"""What is asked of the pooler while an upgrade is under way is carried out by whoever serves afterwards."""

import os
import signal
import socket

import pytest

from doorman import ADMIN_PASSWORD, Successor, binary
from wait import wait_until
from wire import error, kinds, query, rows

HOLD = "begin; create temp table mine (n int) on commit drop"


def holder(one):
    """A session that cannot be passed: while it is in a transaction, the upgrade lasts."""
    raw = one.raw()
    raw.prepare_more_than_passes()
    return raw


@pytest.fixture
def half_way(doorman):
    """A pooler in the middle of an upgrade: itself, who holds that up, and somebody who has moved."""
    def start(**config):
        config["general"] = {"shutdown_timeout": "60s", "client_prepared_statements_max": 0, **config.get("general", {})}
        one = doorman(**config)
        holds, moved = holder(one), one.raw()
        holds.ask(query(HOLD))
        moved.value("select 1")
        begin(one)
        return one, holds, moved
    return start


def begin(one):
    one.signal(signal.SIGUSR2)
    one.wait_log("cannot move")
    wait_until(lambda: len(one.processes()) == 2)


def successor(one):
    (pid,) = set(one.processes()) - {one.process.pid}
    return pid


def complete(one, holds):
    holds.send(query("commit"))
    assert kinds(holds.read_until("Z")) == "CZ"
    assert error(holds.read_until("E")).code == "58006"
    one.wait_log("upgrade complete")
    one.succeeded()


def fail(one):
    os.kill(successor(one), signal.SIGKILL)
    one.abandoned()


def reload_differently(one):
    one.config["general"]["log_client_connections"] = False
    one.config["pools"]["shop"]["users"][0]["pool_size"] = 7
    one.write()
    one.signal(signal.SIGHUP)
    one.wait_log("Config changed, reloading")


@pytest.mark.parametrize("ends", [complete, fail])
def test_a_reload(half_way, ends):
    one, holds, moved = half_way()
    reload_differently(one)
    ends(one, *([holds] if ends is complete else []))
    assert one.pool()["pool_size"] == 7


@pytest.mark.parametrize("ends", [complete, fail])
def test_a_shutdown(half_way, ends):
    """It is the new process that is asked: it takes the new connections."""
    one, holds, moved = half_way()
    one.console("shutdown")
    old = one.process
    if ends is fail:
        os.kill(successor(one), signal.SIGKILL)
        one.wait_log("UPGRADE ABANDONED")
    assert kinds(holds.ask(query("commit"))) == "CZ"
    assert error(holds.read_until("E")).code == "58006"
    if ends is complete:
        assert error(moved.read_until("E")).code == "58006"
    assert old.wait() == 0
    wait_until(lambda: not one.processes())


@pytest.mark.parametrize("command", ["pause", "set log_level = 'debug'"])
def test_a_command_to_the_new_process_is_not_lost_with_it(half_way, command):
    one, holds, moved = half_way()
    if command == "pause":
        # It is answered when every server connection is closed, and the old process has one.
        asks = one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
        asks.send(query(command))
        one.wait_log("Got PAUSE")
    else:
        one.console(command)
    fail(one)
    if command == "pause":
        assert one.pool()["paused"] == "1"
    else:
        assert one.console("show log_level")[0]["log_level"] == "debug"


def test_a_resume_reaches_both(doorman):
    """Who waits in the old process because of a pause that has moved is served as well."""
    one = doorman(general={"client_prepared_statements_max": 0})
    stays, moves = holder(one), one.raw()
    one.console("pause")
    for raw in stays, moves:
        raw.send(query("select 1"))
    wait_until(lambda: one.waiting() == 2)
    begin(one)
    wait_until(lambda: one.waiting() == 1 and one.pool()["paused"] == "1")
    one.console("resume")
    for raw in stays, moves:
        seen = raw.read_until("Z")
        assert rows(seen) == [[b"1"]], seen
    assert error(stays.read_until("E")).code == "58006"
    one.wait_log("upgrade complete")
    one.succeeded()
    assert one.serves()


@pytest.mark.parametrize("who", ["old", "new", "both"])
def test_sigterm_ends_everything_at_once(half_way, who):
    """Each client is told so by the process that has it."""
    one, holds, moved = half_way()
    pids = {"old": [one.process.pid], "new": [successor(one)]}
    for pid in pids["old"] + pids["new"] if who == "both" else pids[who]:
        os.kill(pid, signal.SIGTERM)
    for raw in holds, moved:
        assert error(raw.read_until("E")).code == "57P01"
    assert one.process.wait(4) == 0
    wait_until(lambda: not one.processes())


def test_sigterm_does_not_wait_for_the_test_of_the_new_binary(doorman, tmp_path):
    program = tmp_path / "pg_doorman"
    program.symlink_to(binary())
    one = doorman(program=program)
    raw = one.raw()
    program.unlink()
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    program.chmod(0o755)
    one.signal(signal.SIGUSR2)
    one.wait_log("upgrading to")
    one.signal(signal.SIGTERM)
    assert error(raw.read_until("E")).code == "57P01"
    assert one.process.wait(4) == 0


def test_sigterm_ends_although_nobody_closes(doorman):
    """A client that does not read, as psql at its prompt, hears of it when it does."""
    one = doorman()
    crowd = [one.raw() for _ in range(20)]
    at_console = one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
    one.signal(signal.SIGTERM)
    assert one.process.wait(4) == 0
    for raw in *crowd, at_console:
        assert error(raw.read_until("E")).code == "57P01"


def test_who_is_logging_in_does_not_hold_an_upgrade_up(doorman):
    """Somebody in the middle of it has two seconds; whoever is faster moves, the others are told to come again."""
    one = doorman(general={"pg_hba": {"content": "host all all 0.0.0.0/0 scram-sha-256"}})
    slow, quick = one.raw(login=False), one.raw(login=False)
    for raw in slow, quick:
        raw.startup(user="app", database="shop")
        assert raw.socket.recv(1, socket.MSG_PEEK) == b"R"
    old = one.process
    one.signal(signal.SIGUSR2)
    one.wait_log("upgrade complete")
    assert old.poll() is None
    assert one.raw(password="app-secret").value("select 1") == "1"
    said = quick.authenticate("app", "app-secret")
    assert said[-1].kind == "Z" and quick.value("select 2") == "2"
    assert error(slow.read_until("E")).code == "58006"
    assert old.wait() == 0
    (pid,) = one.processes()
    one.process = Successor(pid)
    assert quick.value("select 3") == "3"


def test_an_upgrade_asked_of_the_next_process_begins_when_this_one_has_ended(half_way):
    one, holds, moved = half_way()
    second = successor(one)
    os.kill(second, signal.SIGUSR2)
    one.wait_log("as soon as the predecessor has ended")
    holds.send(query("commit"))
    assert error(holds.read_until("E")).code == "58006"
    first = one.process.pid
    wait_until(lambda: len(alone := set(one.processes())) == 1 and not alone & {first, second},
               what="a third process serves alone")
    one.process = Successor(*one.processes())
    assert moved.value("select 1") == "1"
    assert one.serves()
