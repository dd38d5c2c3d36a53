"""What can befall the two processes of a hand-over, at every one of its steps."""

import re
import signal
from pathlib import Path

import pytest

import handover
from doorman import Successor, binary
from handover import Steps
from wait import wait_until
from wire import query, rows


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return handover.build(tmp_path_factory.mktemp("handover"))


@pytest.fixture
def watched(doorman, library, tmp_path):
    """A pooler whose hand-overs are watched: `one, steps = watched(...)`."""
    def start(**config):
        steps = Steps(library, tmp_path)
        return doorman(environment=steps.environment, **config), steps
    return start


def served(raw):
    """Whether this client gets an answer. Otherwise its connection has ended."""
    try:
        raw.send(query("select 1"))
        return rows(raw.read_until("Z")) == [[b"1"]]
    except (ConnectionError, AssertionError):
        return False


# What a successor says before it has acknowledged a session: Ready, and that it has the one idle server connection.
BEFORE = 2


def test_the_successor_stops_half_way(watched):
    """Those it had not taken go on, on the old process, and the log says how many are lost."""
    one, steps = watched(upgrade={"timeout": "500ms"})
    crowd = [one.raw() for _ in range(300)]
    steps.stop("successor", "send", BEFORE + 100)
    said = one.fail_to_upgrade()
    assert "did not acknowledge" in said
    lost = int(re.search(r"(\d+) sessions had moved to it and have ended with it, (\d+) go on", said)[1])
    assert lost == 100
    assert sorted(map(served, crowd)) == [False] * lost + [True] * (300 - lost)
    assert one.serves()
    wait_until(lambda: len(one.console("show clients")) == 300 - lost + 1)
    steps.strike()
    one.upgrade()
    assert one.serves()


def test_no_thread_for_a_session_in_the_new_process(watched, pg):
    """It is served by the old one until there is one."""
    one, steps = watched()
    crowd = [one.raw() for _ in range(20)]
    backends = pg.pids()
    steps.strike("successor thread 8 7")
    one.upgrade()
    assert len(re.findall("cannot move: .*could not start a thread", one.log())) == 7
    assert all(map(served, crowd))
    assert pg.pids() == backends


def test_no_thread_for_a_session_that_comes_back(watched):
    one, steps = watched(upgrade={"timeout": "500ms"})
    crowd = [one.raw() for _ in range(100)]
    # Some of their old threads wait for work, for the others new ones are needed.
    steps.strike("successor send 1 19", "predecessor thread 1 20")
    one.fail_to_upgrade()
    assert all(map(served, crowd))
    assert "could not start a thread for a client" in one.log()


def script(doorman_binary, text):
    doorman_binary.unlink(missing_ok=True)
    doorman_binary.write_text(f"#!/bin/sh\ncase \"$*\" in *-t) exit 0;; esac\n{text}\n")
    doorman_binary.chmod(0o755)


def test_the_program_is_a_script_that_stays(watched, tmp_path):
    """The process that takes over is a child of the one that was started."""
    program = tmp_path / "pg_doorman"
    program.symlink_to(binary())
    one, steps = watched(program=program, upgrade={"timeout": "500ms"})
    crowd = [one.raw() for _ in range(10)]
    script(program, f'{binary()} "$@"\nexit $?')
    # Nothing of it is left if it fails ...
    steps.stop("successor", "send", BEFORE + 2)
    assert "2 sessions had moved" in one.fail_to_upgrade()
    assert list(map(served, crowd)).count(True) == 8
    # ... and it is the one that serves if it does not.
    steps.strike()
    old = one.process.pid
    one.signal(signal.SIGUSR2)
    one.wait_log("upgrade complete", 10)
    one.process.wait()
    assert one.serves()
    pids = set(one.processes())
    assert old not in pids and len(pids) == 2
    (pid,) = [pid for pid in pids if Path(f"/proc/{pid}/exe").resolve() == Path(binary()).resolve()]
    one.process = Successor(pid)
    one.signal(signal.SIGTERM)
    wait_until(lambda: not one.processes(), what="the script ends with what it started")


def test_the_end_of_the_new_process_is_told(watched, tmp_path):
    program = tmp_path / "pg_doorman"
    program.symlink_to(binary())
    one, _ = watched(program=program)
    script(program, "exit 3")
    assert "exit status: 3" in one.fail_to_upgrade()
    script(program, "kill -9 $$")
    assert "signal: 9" in one.fail_to_upgrade()
