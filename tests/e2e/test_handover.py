"""What can befall the two processes of a hand-over, at every one of its steps."""

import os
import re
import resource
import signal
import threading
from pathlib import Path

import pytest

from doorman import ADMIN_PASSWORD, CHECKOUT, Successor, binary
from handover import SIDES, Steps, preloaded
from test_load import pgbench, scale  # noqa: F401
from test_operator import upgrade
from wait import stays, wait_until
from wire import (Raw, bind, cancel_request, copy_data, copy_done, error, execute, flush, kinds, parse, query,
                  rows, sync)


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    return preloaded("handover", tmp_path_factory.mktemp("handover"))


@pytest.fixture
def watched(doorman, library, tmp_path):
    """A pooler whose hand-overs are watched: `one, steps = watched(...)`."""
    def start(**config):
        steps = Steps(library, tmp_path)
        return doorman(environment=steps.environment, **config), steps
    return start


def rest(raw):
    """The rows of the reply that is outstanding, or None if the connection has ended without an error."""
    try:
        seen = raw.read_until("Z")
    except ConnectionError:
        return None
    assert not [m for m in seen if m.kind == "E"], seen
    return rows(seen) if seen and seen[-1].kind == "Z" else None


def answer(raw, sql):
    """The one value of the reply, or None if the connection has ended without an error."""
    try:
        raw.send(query(sql))
    except ConnectionError:
        return None
    found = rest(raw)
    return found[0][0].decode() if found else None


def served(raw):
    """Whether this client gets an answer. Otherwise its connection has ended."""
    return answer(raw, "select 1") == "1"


# What a successor says before it has acknowledged a session: Ready, Seated, and that it has the one idle server
# connection.
BEFORE = 3


def test_the_successor_stops_half_way(watched):
    """Those it had not taken go on, on the old process, and the log says how many are lost."""
    one, steps = watched(upgrade={"timeout": "2s"})
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


def test_no_thread_for_sessions_in_the_new_process(watched, pg):
    """They need none of their own there."""
    one, steps = watched(size=20)
    crowd = [one.raw() for _ in range(20)]
    for raw in crowd:
        raw.ask(query("begin"))
    backends = pg.pids()
    steps.strike("successor thread 8 60")
    one.upgrade()
    assert "cannot move" not in one.log()
    assert all(map(served, crowd))
    assert pg.pids() == backends


def test_silent_sessions_move_without_threads(watched):
    one, steps = watched()
    crowd = [one.raw() for _ in range(20)]
    steps.strike("successor thread 8 60")
    one.upgrade()
    assert "cannot move" not in one.log()
    for raw in crowd:
        raw.send(query("select 1"))
    assert all(rest(raw) == [[b"1"]] for raw in crowd)


def test_sessions_that_come_back_need_no_new_threads(watched):
    one, steps = watched(upgrade={"timeout": "2s"})
    crowd = [one.raw() for _ in range(100)]
    # It has the threads, and has not taken the idle server connection.
    steps.strike(f"successor send {BEFORE - 1} {int(signal.SIGSTOP)}", "predecessor thread 1 60")
    assert "did not acknowledge" in one.fail_to_upgrade()
    assert all(map(served, crowd))


def script(doorman_binary, text):
    doorman_binary.unlink(missing_ok=True)
    doorman_binary.write_text(f"#!/bin/sh\ncase \"$*\" in *-t) exit 0;; esac\n{text}\n")
    doorman_binary.chmod(0o755)


def test_the_program_is_a_script_that_stays(watched, tmp_path):
    """The process that takes over is a child of the one that was started."""
    program = tmp_path / "pg_doorman"
    program.symlink_to(binary())
    one, steps = watched(program=program, upgrade={"timeout": "2s"})
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


def test_nothing_is_given_to_a_version_that_speaks_otherwise(watched, tmp_path):
    program = tmp_path / "pg_doorman"
    program.symlink_to(binary())
    one, _ = watched(program=program)
    raw = one.raw()
    speaker = tmp_path / "speaker.py"
    # The message Ready of version 99, in a frame without descriptors.
    ready = b"\xa1\x65Ready\xa1\x67version\x18\x63"
    speaker.write_text("import os, socket\n"
                       "peer = socket.socket(fileno=int(os.environ['PG_DOORMAN_HANDOVER_FD']))\n"
                       f"peer.sendall({len(ready).to_bytes(4) + bytes(1) + ready!r})\n"
                       "assert peer.recv(1) == b''\n")
    script(program, f"exec /usr/bin/python3 {speaker}")
    assert "its hand-over has version 99, this one's is " in one.fail_to_upgrade()
    assert served(raw) and one.serves()


# Killed after every step

class Knocking:
    """Somebody who comes again and again: nobody ever refuses to open, whoever it is that does."""

    def __init__(self, one):
        self.one, self.over, self.refused = one, threading.Event(), []
        self.thread = threading.Thread(target=self.knock)

    def knock(self):
        while not self.over.is_set():
            try:
                raw = Raw((self.one.host, self.one.port))
            except OSError as problem:
                self.refused.append(problem)
                continue
            try:
                raw.login()
                raw.value("select 1")
            except (ConnectionError, AssertionError, IndexError, ValueError):
                pass  # whoever let it in was killed
            finally:
                raw.close()

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Crowd:
    """Clients in several states."""

    def __init__(self, one, pg):
        self.one, self.pg, self.lost = one, pg, 0
        self.idle = [one.raw() for _ in range(4)]
        self.inside, self.busy = one.raw(), one.raw()
        self.enter(), self.work()

    def enter(self):
        self.inside.ask(query("begin"))
        self.backend = self.inside.value("select pg_backend_pid()")

    def work(self):
        self.busy.send(query("select 'done' from pg_sleep(0.2)"))

    def look(self):
        """How many have lost their connection. The others have noticed nothing; those have come back."""
        lost = 0
        for n, raw in enumerate(self.idle):
            if not served(raw):
                lost, self.idle[n] = lost + 1, self.one.raw()
        backend = answer(self.inside, "select pg_backend_pid()")
        if backend is None:
            lost, self.inside = lost + 1, self.one.raw()
            self.enter()
        else:
            assert backend == self.backend and self.inside.status == "T"
        # The reply may have come just before the connection ended.
        if rest(self.busy) != [[b"done"]] or not served(self.busy):
            lost, self.busy = lost + 1, self.one.raw()
        self.work()
        return lost


@pytest.mark.limit(120)
@pytest.mark.parametrize("call", ["send", "recv"])
def test_the_new_process_is_killed_after_each_step(watched, pg, call):
    one, steps = watched(size=6)
    old = one.process.pid
    crowd = Crowd(one, pg)
    with Knocking(one) as knocking:
        for number in range(1, 100):
            assert not knocking.refused
            steps.kill("successor", call, number)
            before = one.log().count("UPGRADE ABANDONED"), one.log().count("upgrade complete")
            one.signal(signal.SIGUSR2)
            wait_until(lambda: (one.log().count("UPGRADE ABANDONED"), one.log().count("upgrade complete")) != before)
            if one.log().count("upgrade complete"):
                # Its last word came just before its end, if it had one to come.
                one.process.wait()
                pids = one.processes()
                one.process = Successor(pids[0] if pids else old)
                break
            said = one.abandoned(before[0] + 1)
            assert "signal: 9" in said
            lost = re.search(r"(\d+) sessions had moved", said)
            # Who knocked may have been among them.
            assert crowd.look() <= int(lost[1] if lost else 0)
            assert one.process.pid == old and one.process.poll() is None and one.serves()
    assert number > 8 if call == "send" else number > 2


@pytest.mark.limit(120)
@pytest.mark.parametrize("call", ["send", "recv"])
def test_the_old_process_is_killed_after_each_step(watched, pg, call):
    """Whoever has moved stays. From the moment the new process has the listening socket it serves everybody."""
    for number in range(1, 100):
        one, steps = watched(size=6)
        crowd = Crowd(one, pg)
        steps.kill("predecessor", call, number)
        one.signal(signal.SIGUSR2)
        ended = one.process.wait()
        steps.strike()
        if ended == 0:
            one.process = Successor(wait_until(one.processes)[0])
            one.disconnect_all()
            break
        assert ended == -signal.SIGKILL
        one.expected_status = None
        # It has heard Ready, said Hello, and given its one listening socket.
        if (call, number) in [("recv", 1), ("send", 1)]:
            wait_until(lambda: not one.processes())
            assert "the hand-over was broken off" in one.log()
            one.disconnect_all()
            continue
        (pid,) = wait_until(one.processes)
        one.process = Successor(pid)
        # Behind the last of the six it says that it has taken all, if that still reaches the old one.
        accepted = min(steps.taken().count("successor send") - BEFORE, 6)
        assert one.serves()
        assert crowd.look() <= 6 - accepted
        one.upgrade()
        assert crowd.look() == 0 and one.serves()
        one.disconnect_all()
        one.stop()
        steps.forget()
    assert number > 8 if call == "send" else number > 2


# Nothing left to do it with

def test_a_new_process_that_does_not_read(watched):
    """The socket between the two is full."""
    one, steps = watched(upgrade={"timeout": "2s"})
    raw = one.raw()
    for n in range(60):
        raw.send(parse(f"select {n}, '{'x' * 15_000}'", f"s{n}"))
    raw.send(sync())
    raw.read_until("Z")
    steps.stop("successor", "send", 1)
    assert "did not listen within upgrade.timeout" in one.fail_to_upgrade()
    assert served(raw)
    steps.strike()
    one.upgrade()
    assert served(raw)


def test_no_descriptors_left(watched):
    """The upgrade is abandoned before anybody has moved, or everybody moves."""
    one, _ = watched()
    crowd = [one.raw() for _ in range(20)]
    limits = resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE)
    # Enough for the sockets between the two and the pipe to the new binary, but never for all that is to be given.
    for spare in range(0, 20):
        resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, (one.descriptors() + spare, limits[1]))
        one.signal(signal.SIGUSR2)
        over = wait_until(lambda: one.log().count("UPGRADE ABANDONED") > spare and "abandoned"
                          or one.log().count("upgrade complete") and "complete")
        if over == "complete":
            one.process.wait()
            one.process = Successor(one.processes()[0])
        else:
            assert "Too many open files" in one.abandoned(spare + 1)
            resource.prlimit(one.process.pid, resource.RLIMIT_NOFILE, limits)
        assert all(map(served, crowd)) and one.serves()
        if over == "complete":
            break
    assert 0 < spare < 19


def test_no_threads_left(watched):
    one, steps = watched()
    crowd = [one.raw() for _ in range(20)]
    steps.strike("predecessor thread 1 60")
    assert "no thread for it" in one.fail_to_upgrade()
    assert all(map(served, crowd))
    # The new process needs some before it can serve anybody.
    for first in range(1, 10):
        steps.strike(f"successor thread {first} 1000")
        one.signal(signal.SIGUSR2)
        wait_until(lambda: one.log().count("UPGRADE ABANDONED") > first or "upgrade complete" in one.log())
        assert all(map(served, crowd))
        if "upgrade complete" in one.log():
            break
        assert one.serves()
    # It needs none for the sessions that move.
    steps.strike()
    one.process.wait()
    one.process = Successor(one.processes()[0])
    assert all(map(served, crowd)) and one.serves()


# The classic way

def test_without_migration_transactions_finish_first(watched, pg):
    one, _ = watched(upgrade={"migrate": False}, general={"shutdown_timeout": "60s"})
    idle, inside, at_console = one.raw(), one.raw(), one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
    inside.ask(query("begin"))
    old = one.process
    one.signal(signal.SIGUSR2)
    # Who has nothing to finish is told at once; a new client is served by the new process meanwhile.
    assert error(idle.read_until("E")).code == "58006"
    wait_until(lambda: one.log().count("Accepting connections") == 2)
    assert one.serves() and old.poll() is None
    assert inside.value("select 1") == "1"
    assert inside.status == "T"
    inside.send(query("commit"))
    assert kinds(inside.read_until("Z")) == "CZ"
    assert error(inside.read_until("E")).code == "58006"
    assert old.wait() == 0
    (pid,) = one.processes()
    one.process = Successor(pid)
    assert len(rows(at_console.ask(query("show version")))) == 1
    assert one.serves()


def test_without_migration_the_time_to_finish_is_limited(watched):
    one, _ = watched(upgrade={"migrate": False}, general={"shutdown_timeout": "300ms"})
    inside = one.raw()
    inside.ask(query("begin"))
    one.signal(signal.SIGUSR2)
    assert error(inside.read_until("E")).code == "58006"
    assert one.wait() == 0
    (pid,) = one.processes()
    one.process = Successor(pid)
    assert one.serves()


def test_without_migration_the_new_process_is_killed(watched):
    """Whoever is still there stays, and the old process takes new clients again."""
    one, _ = watched(upgrade={"migrate": False}, general={"shutdown_timeout": "60s"})
    inside = one.raw()
    inside.ask(query("begin"))
    one.signal(signal.SIGUSR2)
    wait_until(lambda: one.log().count("Accepting connections") == 2)
    os.kill(next(pid for pid in one.processes() if pid != one.process.pid), signal.SIGKILL)
    assert "signal: 9" in one.abandoned()
    inside.ask(query("commit"))
    assert served(inside) and one.serves()


# What is written down of it

def test_a_hand_over_is_recorded(watched, pg):
    """With HANDOVER_RECORDING=DIRECTORY it is kept there, for later versions to read; see src/upgrade/tests.rs."""
    one, steps = watched(size=8)
    plain, named, set_up = one.raw(), one.raw(), one.raw(application_name="till", DateStyle="German, DMY")
    plain.value("select 1")
    named.send(parse("select $1::int + 1", "sum"), parse("select 'text'", "text"), sync())
    named.read_until("Z")
    named.send(bind(["1"], "sum"), execute(), sync())
    named.read_until("Z")
    set_up.ask(query("set timezone = 'Asia/Tokyo'; set enable_seqscan = off"))
    inside, failed, running, copying, batch, portal, half = (one.raw() for _ in range(7))
    inside.ask(query("begin; create temp table mine (n int) on commit drop"))
    failed.ask(query("begin"))
    failed.ask(query("select 1/0"))
    running.send(query("select 1 from pg_sleep(3)"), query("select 2"))
    copying.ask(query("begin; create temp table goods (n int) on commit drop"))
    copying.send(query("copy goods from stdin"))
    copying.read_until("G")
    copying.send(copy_data(b"1\n"), copy_data(b"2\n")[:6])
    batch.send(parse("select $1::int"), bind(["5"]), execute(), flush())
    batch.read_until("C")
    portal.ask(query("begin"))
    portal.send(parse("select generate_series(1, 10)"), bind((), "", "p"), execute("p", 4), sync())
    portal.read_until("Z")
    half.send(query("select 'half'")[:9])
    # Larger than what goes with its session: it goes in pieces, and so does a statement.
    large, text = one.raw(), "x" * 70_000
    large.send(parse("select $1::text", text[:2000]), parse(f"select '{text[:2000]}'", "stated"), sync())
    large.read_until("Z")
    large.send(parse(f"select '{text}'", "large")[:-10])
    at_console = one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)
    at_console.ask(query("show version"))
    at_console.send(query("show version")[:5])
    new = one.raw(login=False)
    new.send(b"\0\0\0")
    holders = [one.raw() for _ in range(2)]
    for raw in holders:
        raw.ask(query("begin"))
    waiting = one.raw()
    waiting.send(query("select 'waited'"))
    wait_until(lambda: one.waiting() == 1)
    steps.write_down()
    one.upgrade()
    for raw in holders:
        raw.ask(query("commit"))
    assert rows(waiting.read_until("Z")) == [[b"waited"]]
    half.send(query("select 'half'")[9:])
    assert rows(half.read_until("Z")) == [[b"half"]]
    copying.send(copy_data(b"2\n")[6:], copy_done())
    copying.read_until("Z")
    assert copying.value("select sum(n) from goods") == "3"
    large.send(parse(f"select '{text}'", "large")[-10:], bind((), "large"), execute(), bind((), "stated"), execute(), sync())
    assert rows(large.read_until("Z")) == [[text.encode()], [text[:2000].encode()]]
    written = {side: (steps.recording / side).read_bytes() for side in SIDES}
    assert all(written.values())
    if wanted := os.environ.get("HANDOVER_RECORDING"):
        kept = CHECKOUT / wanted
        kept.mkdir(parents=True)  # never into one that is there
        for side, stream in written.items():
            (kept / side).write_bytes(stream)


# Who asks at its end

def test_an_upgrade_is_asked_for_while_both_processes_serve(watched, background):
    """The new one has everything, and the old one has not said yet that it is done."""
    one, steps = watched(size=1)
    raw = one.raw()
    raw.ask(query("begin"))
    # Ready, Seated, the session is accepted with the only server connection, all is taken.
    steps.stop("predecessor", "recv", 4)
    one.signal(signal.SIGUSR2)
    one.wait_log("took over from the predecessor")
    wait_until(lambda: steps.taken().count("predecessor recv") == 4)
    asked = background(upgrade, "--wait", one.path)
    assert stays(lambda: not asked.done(), 0.3)
    steps.strike()
    one.signal(signal.SIGCONT)
    status, out, err = asked.result(20)
    assert (status, err) == (0, "") and "upgrade complete: 1 sessions" in out
    one.process.wait()
    (pid,) = wait_until(lambda: len(one.processes()) == 1 and one.processes())
    one.process = Successor(pid)
    assert served(raw)


# CancelRequests

def test_a_cancel_finds_its_session_in_either_process(watched, pg):
    """Before the session has moved, on its way, and after it has, and at whichever process it arrives."""
    one, _ = watched(size=30, general={"query_wait_timeout": "60s"})
    crowd = [one.raw() for _ in range(30)]
    waiting = [one.raw() for _ in range(5)]
    slow = one.raw(login=False)
    slow.send(b"\0")
    for n, raw in enumerate(crowd):
        raw.send(query(f"select pg_sleep(120), {n}"))
    wait_until(lambda: len(pg.admin("select pid from pg_stat_activity where query like 'select pg_sleep(120)%'")) == 30)
    for raw in waiting:
        raw.send(query("select pg_sleep(120)"))
    wait_until(lambda: one.waiting() == 5)
    # These are accepted by the old process and say what they want while it has given some of its sessions away.
    early = [Raw((one.host, one.port)) for _ in range(12)]
    for messenger, raw in zip(early, crowd):
        messenger.send(cancel_request(raw.pid, raw.secret)[:-1])
    one.signal(signal.SIGUSR2)

    def cancel_late(some):
        for raw in some:
            messenger = Raw((one.host, one.port))
            messenger.send(cancel_request(raw.pid, raw.secret))
            messenger.rest()
            messenger.close()

    threads = [threading.Thread(target=cancel_late, args=(crowd[n::3][4:],)) for n in range(3)]
    threads.append(threading.Thread(target=cancel_late, args=(waiting,)))
    for thread in threads:
        thread.start()
    wait_until(lambda: one.log().count("Accepting connections") == 2)
    for messenger, raw in zip(early, crowd):
        messenger.send(cancel_request(raw.pid, raw.secret)[-1:])
        messenger.rest()
        messenger.close()
    for thread in threads:
        thread.join()
    for raw in crowd + waiting:
        assert error(raw.read_until("Z")).code == "57014"
        assert answer(raw, "select 1") == "1"
    slow.close()
    one.wait_log("upgrade complete", 20)
    one.process.wait()
    one.process = Successor(one.processes()[0])
    assert all(map(served, crowd + waiting))


# Under load

@pytest.mark.limit(120)
def test_pgbench_does_not_notice_that_new_processes_are_killed(watched, pg, scale, background):  # noqa: F811
    """Again and again, before they have taken anybody."""
    one, steps = watched(size=4, general={"query_wait_timeout": "60s"})
    pid = one.process.pid
    load = background(pgbench, one.host, one.port, "-n", "-S", "-M", "prepared", "-c", "20", "-j", "20", "-T", "5")
    wait_until(lambda: len(pg.pids()) == 4)
    backends = pg.pids()
    blows = [("recv", 1), ("send", 1)]
    for number in range(1000):
        steps.kill("successor", *blows[number % len(blows)])
        assert "signal: 9" in one.fail_to_upgrade()
        if load.done():
            break
    load.result(30)
    assert one.process.pid == pid and pg.pids() == backends
    assert "had moved" not in one.log()
    steps.strike()
    one.upgrade()
    assert one.serves()
