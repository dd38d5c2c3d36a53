"""What an operator is told of an upgrade, by whatever way it was asked for."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from doorman import ADMIN_PASSWORD, Successor, binary
from handover import preloaded
from test_upgrade import DIES, HANGS, IN_EARNEST, REFUSES, scene  # noqa: F401
from wait import wait_until
from wire import error, kinds, query, rows


def at_console(one):
    return one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)


# UPGRADE on the console

def test_the_console_tells_how_the_upgrade_went(doorman):
    one = doorman()
    crowd = [one.raw() for _ in range(7)]
    asker, bystander = at_console(one), at_console(one)
    asker.send(query("upgrade"))
    seen = asker.read_until("Z")
    assert kinds(seen) == "TDCZ" and seen[2].tag == "UPGRADE"
    ((success, moved, longest),) = rows(seen)
    assert (success, moved) == (b"t", b"9") and 0 < float(longest) < 10_000
    one.succeeded()
    said = one.wait_log("upgrade complete: 9 sessions moved, the longest was held for (.*)").group(1)
    assert f"took over from the predecessor: 9 sessions moved, the longest was held for {said}" in one.log()
    for raw in crowd:
        assert raw.value("select 1") == "1"
    for console in asker, bystander:
        assert kinds(console.ask(query("show version"))) == "TDCZ"


def test_what_is_asked_behind_upgrade_is_answered_by_the_new_process(doorman):
    one = doorman()
    asker = at_console(one)
    for n in range(3):
        asker.send(query("upgrade"), query("show version"))
        assert kinds(asker.read_until("Z")) == "TDCZ"
        one.succeeded()
        assert kinds(asker.read_until("Z")) == "TDCZ"


@pytest.mark.parametrize("script, why", [
    (REFUSES, "-t ended with"), (HANGS, "did not finish"), (IN_EARNEST + DIES, "closed the hand-over"),
    (IN_EARNEST + HANGS, "was not ready"),
])
def test_the_console_tells_why_the_upgrade_was_abandoned(scene, script, why):  # noqa: F811
    scene.install(script)
    asker = at_console(scene.one)
    for n in range(2):
        said = error(asker.ask(query("upgrade")))
        assert said.code == "58000" and why in said.text, said.text
        assert why in scene.one.abandoned(n + 1)
    scene.check()
    scene.restore()
    assert rows(asker.ask(query("upgrade")))
    scene.one.succeeded()


def test_a_second_upgrade_on_the_console_is_refused(scene):  # noqa: F811
    scene.install(IN_EARNEST + HANGS)
    first, second = at_console(scene.one), at_console(scene.one)
    first.send(query("upgrade"))
    scene.one.wait_log("upgrading to")
    said = error(second.ask(query("upgrade")))
    assert said.code == "55000" and "under way" in said.text
    assert error(first.read_until("Z")).code == "58000"
    scene.check()


def test_the_asker_leaves_before_it_is_answered(scene):  # noqa: F811
    scene.install(IN_EARNEST + HANGS)
    asker = at_console(scene.one)
    asker.send(query("upgrade"))
    scene.one.wait_log("upgrading to")
    asker.close()
    scene.one.abandoned()
    scene.check()
    wait_until(lambda: len([row for row in scene.one.console("show clients") if row["database"] == "pgdoorman"]) == 1)


def test_no_upgrade_during_a_shutdown(doorman):
    one = doorman(terminal=True)
    holder, asker = one.raw(), at_console(one)
    holder.ask(query("begin"))
    one.signal(signal.SIGINT)
    one.wait_log("shutting down")
    said = error(asker.ask(query("upgrade")))
    assert said.code == "55000" and "shutting down" in said.text
    holder.ask(query("commit"))
    assert one.wait() == 0


# pg_doorman upgrade

def upgrade(*arguments, program=None, **options):
    """Runs the command: its exit status and what it prints."""
    done = subprocess.run([program or binary(), "upgrade", *map(str, arguments)], capture_output=True, text=True,
                          timeout=30, **options)
    return done.returncode, done.stdout, done.stderr


def succeeds(one, *arguments, **options):
    status, out, err = upgrade(*arguments, **options)
    assert (status, err) == (0, ""), err
    one.succeeded()
    return out


def test_the_command_upgrades_and_says_how_it_went(doorman):
    one = doorman()
    crowd = [one.raw() for _ in range(5)]
    for arguments in lambda: [one.path], lambda: ["--pid", one.process.pid], lambda: ["--wait", one.path]:
        said = succeeds(one, *arguments())
        assert said.startswith("upgrade complete: 5 sessions moved, the longest was held for ")
        assert said.strip() in one.log()
    for raw in crowd:
        assert raw.value("select 1") == "1"


def test_the_configuration_may_be_named_as_for_serving(doorman):
    one = doorman()
    assert subprocess.run([binary(), str(one.path), "upgrade"]).returncode == 0
    one.succeeded()
    assert subprocess.run([binary(), "upgrade"], env={**os.environ, "CONFIG_FILE": str(one.path)}).returncode == 0
    one.succeeded()
    assert subprocess.run([binary(), "upgrade", one.path.name], cwd=one.directory).returncode == 0
    one.succeeded()


@pytest.mark.parametrize("script, why", [
    (REFUSES, "-t ended with"), (HANGS, "did not finish"), (IN_EARNEST + DIES, "closed the hand-over"),
])
def test_the_command_says_why_the_upgrade_was_abandoned(scene, script, why):  # noqa: F811
    scene.install(script)
    for n in range(2):
        status, out, err = upgrade(scene.one.path)
        assert (status, out) == (1, "") and len(err.splitlines()) == 1
        assert "upgrade abandoned, process" in err and why in err
        scene.one.abandoned(n + 1)
    scene.check()
    scene.restore()
    succeeds(scene.one, scene.one.path)


def test_two_at_a_time(scene, background):  # noqa: F811
    scene.install(IN_EARNEST + HANGS)
    one = scene.one
    first = background(upgrade, one.path)
    one.wait_log("upgrading to")
    status, _, err = upgrade(one.path)
    assert status == 1 and "being upgraded already" in err
    waiting = background(upgrade, "--wait", one.path)
    assert first.result(30)[0] == 1
    assert waiting.result(30)[0] == 1, "it has tried for itself"
    assert one.log().count("upgrading to") == 2
    scene.check()


def test_everybody_who_waits_gets_an_upgrade(doorman, background):
    one = doorman(size=2)
    crowd = [one.raw() for _ in range(20)]
    for status, out, err in [asked.result(30) for asked in [background(upgrade, "--wait", one.path) for _ in range(4)]]:
        assert (status, err) == (0, "") and "upgrade complete: 20 sessions" in out
    wait_until(lambda: len(one.processes()) == 1)
    (pid,) = one.processes()
    one.process.wait()
    one.process = Successor(pid)
    for raw in crowd:
        assert raw.value("select 1") == "1"


@pytest.fixture(scope="session")
def halting(tmp_path_factory):
    """Makes the command stop once before it does a thing; see halted.c."""
    library = preloaded("halted", tmp_path_factory.mktemp("halted"))
    return lambda what: {**os.environ, "LD_PRELOAD": str(library), "HALTED_BEFORE": what}


@pytest.mark.parametrize("what", ["looks", "signals"])
def test_an_upgrade_begins_and_ends_before_the_command(doorman, halting, what):
    """The one it means is gone, and the one that serves is younger than all it has seen."""
    one = doorman()
    raw, first = one.raw(), one.process.pid
    environment = halting(f"/proc/{first}/fd" if what == "looks" else "signal")
    asked = subprocess.Popen([binary(), "upgrade", "--wait", one.path], env=environment, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
    wait_until(lambda: "T" == Path(f"/proc/{asked.pid}/stat").read_text().rsplit(")")[1].split()[0])
    one.upgrade()
    asked.send_signal(signal.SIGCONT)
    out, err = asked.communicate(timeout=20)
    assert (asked.returncode, err) == (0, "") and "upgrade complete: 1 sessions" in out
    if what == "looks":
        one.succeeded()
    assert raw.value("select 1") == "1" and one.log().count("upgrading to") == (2 if what == "looks" else 1)


def test_what_is_no_pooler_is_not_signalled(doorman, tmp_path):
    one = doorman()
    other = subprocess.Popen(["sleep", "60"])
    try:
        pid_file = tmp_path / "pid"
        pid_file.write_text(f"{other.pid}\n")
        for arguments in ["--pid", other.pid], ["--pid-file", pid_file]:
            status, out, err = upgrade(*arguments)
            assert (status, out) == (1, "") and f"process {other.pid} (sleep) is not a pg_doorman" in err
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    status, _, err = upgrade("--pid", other.pid)
    assert status == 1 and f"there is no process {other.pid}" in err
    for content, why in ("", "holds no process id"), ("-1", "holds no process id"), (None, "there is no pid file"):
        pid_file.unlink() if content is None else pid_file.write_text(content)
        status, _, err = upgrade("--pid-file", pid_file)
        assert status == 1 and why in err
    status, _, err = upgrade(tmp_path / "none.toml")
    assert status == 1 and "can be seen" in err
    assert "upgrading" not in one.log()


@pytest.fixture
def readable():
    """A copy of the program that any user may run."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        copy = Path(directory, "pg_doorman")
        shutil.copy(binary(), copy)
        copy.chmod(0o755)
        yield copy


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_another_users_pooler(doorman, readable):
    one = doorman()
    for arguments in ["--pid", one.process.pid], [one.path]:
        status, out, err = upgrade(*arguments, user="nobody", group="nogroup", extra_groups=[], cwd="/",
                                   program=readable)
        assert (status, out) == (1, ""), err
        assert "may not be looked into" in err or "can be seen by this user" in err
    if shutil.which("capsh"):
        # Root as it is in a container, and a process of another user's.
        other = subprocess.Popen(["sleep", "60"], user="nobody", group="nogroup", extra_groups=[])
        done = subprocess.run(["capsh", "--drop=cap_sys_ptrace", "--", "-c",
                               f"{readable} upgrade --pid {other.pid}"], capture_output=True, text=True)
        other.kill()
        other.wait()
        assert done.returncode == 1 and "may not be looked into" in done.stderr
    assert "upgrading" not in one.log()


def test_a_process_that_does_not_answer(doorman):
    """It is killed while the command waits."""
    one = doorman()
    one.expected_status = None
    one.signal(signal.SIGSTOP)
    asked = subprocess.Popen([binary(), "upgrade", str(one.path)], stderr=subprocess.PIPE, text=True)
    wait_until(lambda: pending(one.process.pid, signal.SIGUSR2))
    one.signal(signal.SIGKILL)
    one.wait()
    _, err = asked.communicate(timeout=30)
    assert asked.returncode == 1 and "ended before its upgrade was over" in err


def pending(pid, number):
    """Whether this signal waits to be taken."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("ShdPnd"))
    return mask >> (number - 1) & 1


# --if-changed

def test_if_changed_does_nothing_when_nothing_has(doorman, tmp_path):
    program = tmp_path / "pg_doorman"
    shutil.copy(binary(), program)
    one = doorman(program=program)
    raw, pid = one.raw(), one.process.pid
    for n in range(3):
        assert upgrade("--if-changed", one.path) == (0, "", "")
    assert one.processes() == [pid] and "upgrading" not in one.log()
    shutil.copy(binary(), tmp_path / "new")
    (tmp_path / "new").replace(program)
    assert "1 sessions moved" in succeeds(one, "--if-changed", one.path)
    assert upgrade("--if-changed", one.path) == (0, "", "")
    # Not gone, but under another name.
    program.rename(tmp_path / "old")
    assert upgrade("--if-changed", one.path) == (0, "", ""), "there is nothing to upgrade to"
    shutil.copy(binary(), program)
    succeeds(one, "--if-changed", one.path)
    assert upgrade("--if-changed", one.path) == (0, "", "")
    assert raw.value("select 1") == "1"


def test_if_changed_sees_a_library(doorman, tmp_path):
    libraries = tmp_path / "lib"
    libraries.mkdir()
    linked = subprocess.run(["ldd", binary()], capture_output=True, text=True).stdout
    (source,) = [words[2] for words in map(str.split, linked.splitlines()) if words[0].startswith("libcrypto")]
    library = libraries / Path(source).name
    shutil.copy(source, library)
    one = doorman(environment={"LD_LIBRARY_PATH": str(libraries)})
    assert str(library) in Path(f"/proc/{one.process.pid}/maps").read_text()
    assert upgrade("--if-changed", one.path) == (0, "", "")
    shutil.copy(source, libraries / "new")
    (libraries / "new").replace(library)
    succeeds(one, "--if-changed", one.path)
    assert upgrade("--if-changed", one.path) == (0, "", "")
