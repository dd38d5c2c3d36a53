"""As a service: under a service manager, a supervisor, an init script, cron, as a daemon, as process 1."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

from doorman import CHECKOUT, Successor, alive, binary
from notify import Manager
from test_upgrade import HANGS, IN_EARNEST, REFUSES
from wait import wait_until


# systemd: Type=notify

@pytest.fixture
def manager(tmp_path):
    one = Manager(tmp_path / "notify")
    yield one
    one.close()


def test_ready_reloading_and_stopping(doorman, manager):
    one = doorman(environment=manager.environment)
    pid = one.process.pid
    assert manager.said("READY", "1") == (pid, {"READY": "1"})
    heard = len(manager.all())
    before = time.monotonic_ns() // 1000
    one.reload()
    who, what = manager.said("RELOADING", "1", after=heard)
    assert who == pid and before <= int(what["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.said("READY", "1", after=heard)[0] == pid
    heard = len(manager.all())
    one.signal(signal.SIGTERM)
    assert manager.said("STOPPING", "1", after=heard) == (pid, {"STOPPING": "1"})
    assert one.wait() == 0


def test_an_upgrade_is_a_reload_that_ends_with_another_main_process(doorman, manager):
    """The new process says nothing before the service manager knows it: NotifyAccess=main is enough."""
    one = doorman(environment=manager.environment)
    for _ in range(3):
        manager.said("READY")
        old, heard, before = one.process.pid, len(manager.all()), time.monotonic_ns() // 1000
        one.upgrade()
        manager.said("MAINPID")
        reloading, replaced = manager.all()[heard:]
        assert reloading[0] == old and reloading[1]["RELOADING"] == "1"
        assert before <= int(reloading[1]["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
        assert replaced == (old, {"MAINPID": str(one.process.pid), "READY": "1"})
    heard = len(manager.all())
    one.signal(signal.SIGTERM)
    assert manager.said("STOPPING", after=heard)[0] == one.process.pid
    one.wait()


def test_an_abandoned_upgrade_is_a_reload_that_ends(doorman, manager, tmp_path):
    program = tmp_path / "pg_doorman"
    shutil.copy(binary(), program)
    one = doorman(program=program, environment=manager.environment)
    manager.said("READY")
    heard = len(manager.all())
    program.unlink()
    one.fail_to_upgrade()
    manager.said("READY", after=heard)
    assert [(who, *what) for who, what in manager.all()[heard:]] == [
        (one.process.pid, "RELOADING", "MONOTONIC_USEC"), (one.process.pid, "READY")]


def test_the_unit_is_well_formed(tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not there")
    unit = tmp_path / "pg_doorman.service"
    text = (CHECKOUT / "contrib/systemd/pg_doorman.service").read_text()
    unit.write_text(text.replace("/usr/bin/pg_doorman", binary()))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(unit)], capture_output=True, text=True)
    complaints = [line for line in done.stderr.splitlines() if "pg_doorman" in line]
    assert not complaints, complaints
    # What an upgrade needs, and what the other way round would break it.
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["Type"] == "notify" and settings["NotifyAccess"] == "main"
    assert not {"ProcSubset", "KillMode", "PIDFile", "GuessMainPID"} & set(settings)


# A daemon

class Daemon:
    """A pooler that has gone to the background: its pid file says which process it is."""

    def __init__(self, one, pid_file):
        self.one, self.pid_file = one, pid_file

    def pid(self) -> int:
        return int(self.pid_file.read_text())

    def adopt(self) -> None:
        """From now on the process in the pid file is meant."""
        self.one.process = Successor(self.pid())


@pytest.fixture
def daemon(pg, doorman, tmp_path):
    """A daemon, and the pooler as the other tests know it: doorman's, started in the background."""
    pid_file = tmp_path / "run" / "pg_doorman.pid"
    pid_file.parent.mkdir()

    def start(program=None):
        one = doorman(program=program, upgrade={"timeout": "3s"},
                      general={"daemon_pid_file": str(pid_file), "syslog_prog_name": "pg_doorman-test"})
        one.stop()
        with open(one.log_path, "ab") as log:
            done = subprocess.run([one.program, "-d", str(one.path)], stdout=log, stderr=log, cwd=one.directory)
        assert done.returncode == 0, one.log()
        daemon = Daemon(one, pid_file)
        daemon.adopt()
        return daemon

    return start


def test_a_daemons_pid_file_follows_its_upgrades(daemon):
    it = daemon()
    raw = it.one.raw()
    seen = set()
    watch = subprocess.Popen([sys.executable, "-c", WATCH, str(it.pid_file)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    for _ in range(5):
        old = it.pid()
        os.kill(old, signal.SIGUSR2)
        wait_until(lambda: it.pid() != old and not alive(old))
        assert it.one.processes() == [it.pid()]
        assert raw.value("select 1") == "1"
        seen |= {old, it.pid()}
    it.adopt()
    out, _ = watch.communicate()
    assert set(map(int, out.split())) <= seen, "whoever read the file found a whole number in it at any time"
    it.one.stop()
    assert not it.pid_file.exists() and not list(it.pid_file.parent.iterdir())


WATCH = """
import select, sys
seen = set()
while not select.select([sys.stdin], [], [], 0)[0]:
    seen.add(open(sys.argv[1]).read())
print(*seen)
"""


def test_a_pid_file_of_another_name_takes_the_place_of_the_old_one(daemon):
    it = daemon()
    old, old_file = it.pid(), it.pid_file
    it.pid_file = old_file.with_name("other.pid")
    it.one.config["general"]["daemon_pid_file"] = str(it.pid_file)
    it.one.write()
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: it.pid_file.exists() and not alive(old))
    assert it.one.processes() == [it.pid()] and not old_file.exists()
    it.adopt()
    it.one.stop()
    assert not it.pid_file.exists()


def test_a_pid_file_that_cannot_be_written_is_an_error_of_the_upgrade(daemon):
    it = daemon()
    pid = it.pid()
    shutil.rmtree(it.pid_file.parent)
    done = subprocess.run([binary(), "upgrade", "--pid", str(pid)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "upgrade abandoned" in done.stderr and str(it.pid_file) in done.stderr
    assert it.one.processes() == [pid] and it.one.serves()
    it.pid_file.parent.mkdir()
    done = subprocess.run([binary(), "upgrade", "--pid", str(pid)], capture_output=True, text=True)
    assert done.returncode == 0
    assert it.one.processes() == [it.pid()]
    it.adopt()


def test_a_daemon_is_upgraded_by_its_pid_file(daemon):
    it = daemon()
    old = it.pid()
    done = subprocess.run([binary(), "upgrade", "--pid-file", str(it.pid_file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "upgrade complete" in done.stdout
    assert not alive(old) and alive(it.pid())
    it.adopt()
    assert it.one.serves()


def test_sigint_upgrades_a_daemon(daemon):
    it = daemon()
    old = it.pid()
    os.kill(old, signal.SIGINT)
    wait_until(lambda: it.pid() != old and not alive(old))
    it.adopt()
    assert it.one.serves()


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs root, to be somebody else")
def test_a_daemon_that_cannot_open_its_doors_leaves_no_pid_file(pg, doorman):
    """Whatever thread it is that cannot be started."""
    one = doorman()
    one.stop()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o777)
        shutil.copy(binary(), place / "pg_doorman")
        pid_file = place / "pid"
        one.config["general"].update(daemon_pid_file=str(pid_file), syslog_prog_name="pg_doorman-test")
        one.path = place / "pg_doorman.toml"
        one.write()
        one.path.chmod(0o644)
        statuses = []
        for threads in range(1, 20):
            # Another user each time: who has ended and not been reaped counts too.
            done = subprocess.run(["setpriv", f"--reuid={54000 + threads}", "--clear-groups", "prlimit",
                                   f"--nproc={threads}", place / "pg_doorman", "-d", one.path],
                                  capture_output=True, cwd=place)
            statuses.append(done.returncode)
            if done.returncode == 0:
                break
            wait_until(lambda: not one.processes())
            assert not pid_file.exists(), (threads, done.stderr)
            assert b"fork" in done.stderr or b"no thread can be started" in done.stderr
        assert statuses[-1] == 0 and len(statuses) > 3, (statuses, done.stderr)
        one.process = Successor(int(pid_file.read_text()))
        one.stop()


# Under a supervisor that watches the process it has started, and as process 1

def behind(keeper):
    """Who serves behind this process."""
    return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and parent(pid) == keeper and alive(int(pid))]


def another_behind(keeper, old):
    """Waits until the successor of `old` is behind it, and nobody else."""
    return wait_until(lambda: len(found := behind(keeper)) == 1 and found != old and found, what="another one serves")


def parent(pid):
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_the_keeper_outlives_upgrades(doorman):
    one = doorman("--keep-pid")
    keeper, raw = one.process, one.raw()
    for _ in range(3):
        old = behind(keeper.pid)
        keeper.send_signal(signal.SIGUSR2)
        found = another_behind(keeper.pid, old)
        assert raw.value("select 1") == "1"
        assert found == [pid for pid in one.processes() if pid != keeper.pid]
    done = subprocess.run([binary(), "upgrade", "--pid", str(keeper.pid)], capture_output=True, text=True)
    assert done.returncode == 0 and "1 sessions moved" in done.stdout
    done = subprocess.run([binary(), "upgrade", str(one.path)], capture_output=True, text=True)
    assert done.returncode == 0 and "1 sessions moved" in done.stdout
    keeper.send_signal(signal.SIGHUP)
    wait_until(lambda: "Reloading config" in one.log())
    keeper.send_signal(signal.SIGTERM)
    assert keeper.wait(10) == 0
    assert not one.processes()


def test_the_keeper_ends_as_who_serves(doorman):
    one = doorman("--keep-pid")
    one.expected_status = None
    old = behind(one.process.pid)
    one.signal(signal.SIGUSR2)
    (pid,) = another_behind(one.process.pid, old)
    os.kill(pid, signal.SIGKILL)
    assert one.wait() == 128 + 9
    one.path.write_text("[general\n")
    assert subprocess.run([binary(), "--keep-pid", str(one.path)], capture_output=True).returncode == 78


def test_sigterm_is_never_lost_behind_the_keeper(doorman):
    """Also when it comes while one process takes over from the other."""
    for pause in (0, 0.01, 0.02, 0.03, 0.04, 0.05):
        one = doorman("--keep-pid")
        one.signal(signal.SIGUSR2)
        time.sleep(pause)  # any moment of the upgrade will do
        one.signal(signal.SIGTERM)
        assert one.wait() == 0
        wait_until(lambda: not one.processes())


def test_as_process_1_of_a_container(doorman, tmp_path):
    """The container lives on; kill, ps and `pg_doorman upgrade` inside it work as outside."""
    if subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True).returncode:
        pytest.skip("unshare is not permitted here")
    one = doorman(program=in_a_container(tmp_path))
    one.expected_status = None
    raw, container = one.raw(), one.process
    (first,) = behind(container.pid)
    for _ in range(3):
        old = behind(first)
        os.kill(first, signal.SIGUSR2)
        another_behind(first, old)
        assert raw.value("select 1") == "1" and alive(first)
    inside = ["nsenter", "--target", str(first), "--pid", "--mount"]
    done = subprocess.run([*inside, binary(), "upgrade", str(one.path)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "1 sessions moved" in done.stdout
    done = subprocess.run([*inside, binary(), "upgrade", "--pid", "1"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "1 sessions moved" in done.stdout
    assert raw.value("select 1") == "1" and alive(first)
    # An orphan of somebody else's is nothing to live for.
    subprocess.run([*inside, "sh", "-c", "sleep 60 & exit 0"])
    os.kill(first, signal.SIGTERM)
    assert container.wait(10) == 0
    wait_until(lambda: not one.processes())


def in_a_container(tmp_path):
    program = tmp_path / "contained"
    program.write_text(f'#!/bin/sh\nexec unshare --pid --fork --mount-proc {binary()} "$@"\n')
    program.chmod(0o755)
    return program


# An init script, and cron

@pytest.fixture
def init_script(doorman, tmp_path):
    """contrib/sysv/pg_doorman, as root runs it: a call returns its status and what it printed."""
    if os.getuid() or not shutil.which("start-stop-daemon") or not Path("/lib/lsb/init-functions").exists():
        pytest.skip("needs root, start-stop-daemon and /lib/lsb/init-functions")
    program, pid_file, defaults = tmp_path / "pg_doorman", tmp_path / "run" / "pg_doorman.pid", tmp_path / "defaults"
    shutil.copy(binary(), program)
    one = doorman(program=program, general={"daemon_pid_file": str(pid_file), "syslog_prog_name": "pg_doorman-test"},
                  upgrade={"timeout": "3s", "validate_timeout": "3s"})
    one.stop()
    defaults.write_text(f"PROGRAM={program} CONFIG={one.path} PIDFILE={pid_file} RUN_AS=root PATIENCE=10\n")

    class Script:
        def __init__(self):
            self.one, self.program, self.pid_file = one, program, pid_file

        def __call__(self, *arguments):
            done = subprocess.run([CHECKOUT / "contrib/sysv/pg_doorman", *arguments], capture_output=True, text=True,
                                  env={"DEFAULTS": str(defaults), "DAEMON": "/a/path"}, cwd="/")
            return done.returncode, done.stdout + done.stderr

        def pid(self):
            """Who runs, which is who is in the pid file."""
            wait_until(lambda: len(one.processes()) == 1)
            assert one.processes() == [int(pid_file.read_text())]
            return one.processes()[0]

        def set(self, **settings):
            with open(defaults, "a") as out:
                out.writelines(f"{name}={value}\n" for name, value in settings.items())

    script = Script()
    yield script
    script.set(PROGRAM=program, RUN_AS="root")
    script("stop")


def test_the_init_script(init_script):
    one = init_script.one
    assert init_script("status")[0] == 3
    assert init_script("start")[0] == 0
    assert one.serves()
    pid = init_script.pid()
    assert init_script("start")[0] == 0 and init_script.pid() == pid, "it runs already"
    assert init_script("status")[0] == 0
    raw = one.raw()

    one.config["pools"]["shop"]["users"][0]["pool_size"] = 2
    one.write()
    assert init_script("reload")[0] == 0
    wait_until(lambda: int(one.pool()["pool_size"]) == 2)
    assert init_script.pid() == pid

    status, said = init_script("upgrade")
    assert status == 0 and "upgrade complete" in said
    assert init_script.pid() != pid and raw.value("select 1") == "1"

    # The package was updated: the file is another one than the process runs.
    shutil.copy(binary(), init_script.program.with_name("new"))
    init_script.program.with_name("new").replace(init_script.program)
    pid = init_script.pid()
    assert init_script("status")[0] == 0
    assert init_script("start")[0] == 0 and init_script.pid() == pid
    assert init_script("upgrade")[0] == 0
    pid = init_script.pid()

    one.path.write_text("[general\n")
    status, said = init_script("upgrade")
    assert status == 1 and "upgrade abandoned" in said and init_script.pid() == pid
    assert init_script("restart")[0] == 6 and init_script.pid() == pid, "it would not have come back"
    one.write()
    assert raw.value("select 1") == "1"

    assert init_script("restart")[0] == 0
    assert init_script.pid() != pid
    assert init_script("try-restart")[0] == 0
    assert one.serves()
    assert init_script("stop")[0] == 0
    assert init_script("stop")[0] == 0
    assert not one.processes() and not init_script.pid_file.exists()
    for command, expected in ("status", 3), ("try-restart", 0), ("upgrade", 1), ("reload", 1), ("frobnicate", 2):
        assert init_script(command)[0] == expected, command


def test_the_init_script_says_where_the_pid_file_is(init_script):
    """So that the configuration need not, and both cannot differ."""
    for other in (None, str(init_script.pid_file.with_name("other.pid"))):
        init_script.one.config["general"]["daemon_pid_file"] = other
        if other is None:
            del init_script.one.config["general"]["daemon_pid_file"]
        init_script.one.write()
        assert init_script("start")[0] == 0 and init_script("status")[0] == 0
        pid = init_script.pid()
        assert init_script("reload")[0] == 0 and init_script("upgrade")[0] == 0
        assert init_script.pid() != pid
        assert init_script("stop")[0] == 0
        assert not init_script.one.processes() and not list(init_script.pid_file.parent.iterdir())


def test_the_init_script_fails_where_no_pid_file_appears(init_script):
    program = init_script.program.with_name("no_pid_file")
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    init_script.set(PROGRAM=program)
    status, said = init_script("start")
    assert status == 1 and f"no pid file {init_script.pid_file}" in said


def test_the_init_script_tests_before_it_reloads_or_restarts(init_script):
    one = init_script.one
    assert init_script("start")[0] == 0
    pid = init_script.pid()
    good = one.path.read_text()
    one.path.write_text(good.replace("port = ", "port = x"))
    for command in ("reload", "force-reload", "restart"):
        status, said = init_script(command)
        assert status == 6 and f"{one.path}:" in said, (command, said)
    assert "Reloading" not in one.log()
    one.path.write_text(good)
    # The file is good, but the pooler's user cannot read it.
    init_script.set(RUN_AS="nobody")
    for command in ("reload", "restart"):
        status, said = init_script(command)
        assert status == 6 and "ermission denied" in said, (command, said)
    assert init_script.pid() == pid and one.serves()


def test_the_init_script_stops_what_has_no_program_any_more(init_script):
    assert init_script("start")[0] == 0
    pid = init_script.pid()
    init_script.program.unlink()
    for command in ("start", "restart", "reload", "upgrade"):
        status, said = init_script(command)
        assert status == 5 and str(init_script.program) in said, (command, said)
    assert init_script("status")[0] == 0 and init_script.pid() == pid
    assert init_script("stop")[0] == 0 and not init_script.one.processes()
    assert init_script("status")[0] == 3


# Supervisors

class Runit:
    """contrib/runit, under runsv."""

    files, log, tool = "runit", "log/main/current", "runsv"

    def __init__(self, service):
        self.service = service

    def command(self):
        return ["runsv", self.service]

    def pid(self):
        return int((self.service / "supervise/pid").read_text() or 0)

    def control(self, signal):
        word = {"HUP": "hup", "USR2": "2", "TERM": "down"}[signal]
        return subprocess.run(["sv", word, self.service], capture_output=True, text=True)

    def is_down(self):
        return (self.service / "supervise/stat").read_text().startswith("down")


class S6(Runit):
    """contrib/s6, under s6-svscan, which starts the log's writer too."""

    files, log, tool = "s6", "log/main/current", "s6-svscan"

    def command(self):
        return ["s6-svscan", self.service.parent]

    def _status(self, field):
        done = subprocess.run(["s6-svstat", "-o", field, self.service], capture_output=True, text=True)
        return done.stdout.strip()

    def pid(self):
        return max(int(self._status("pid") or 0), 0)

    def control(self, signal):
        option = {"HUP": "-h", "USR2": "-2", "TERM": "-d"}[signal]
        return subprocess.run(["s6-svc", option, self.service], capture_output=True, text=True)

    def is_down(self):
        return self._status("up") == "false"


@pytest.mark.parametrize("kind", [Runit, S6])
def test_under_a_supervisor(kind, doorman, tmp_path):
    """Its own tools start, reload, upgrade and stop the pooler, whose process id stays."""
    if os.getuid() or not shutil.which(kind.tool):
        pytest.skip(f"needs root and {kind.tool}")
    program = tmp_path / "pg_doorman"
    shutil.copy(binary(), program)
    one = doorman(program=program, upgrade={"timeout": "3s", "validate_timeout": "3s"})
    one.stop()
    service = tmp_path / "services" / "pg_doorman"
    shutil.copytree(CHECKOUT / "contrib" / kind.files, service)
    (service / "log/main").mkdir()
    (service / "conf").write_text(f"PROGRAM={program} CONFIG={one.path} RUN_AS=root DIRECTORY={tmp_path} LOGS=./main\n")
    it, log = kind(service), service / kind.log
    supervisor = subprocess.Popen(it.command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: log.exists() and "Accepting connections" in log.read_text())
        keeper, raw = it.pid(), one.raw()
        assert alive(keeper)
        for _ in range(2):
            old = behind(keeper)
            assert it.control("USR2").returncode == 0
            another_behind(keeper, old)
            assert raw.value("select 1") == "1" and it.pid() == keeper
        done = subprocess.run([program, "upgrade", "--pid", str(it.pid())], capture_output=True, text=True)
        assert done.returncode == 0 and "upgrade complete" in done.stdout
        one.config["pools"]["shop"]["users"][0]["pool_size"] = 2
        one.write()
        assert it.control("HUP").returncode == 0
        wait_until(lambda: int(one.pool()["pool_size"]) == 2)
        serves = behind(keeper)
        program.unlink()
        assert it.control("USR2").returncode == 0
        wait_until(lambda: "UPGRADE ABANDONED" in log.read_text())
        assert behind(keeper) == serves and raw.value("select 1") == "1"
        assert it.control("TERM").returncode == 0
        wait_until(lambda: it.is_down() and not one.processes())
    finally:
        it.control("TERM")
        wait_until(lambda: not one.processes(), what="nobody serves")
        # It ends what it supervises, and the log's writer with it.
        supervisor.terminate()
        supervisor.wait(10)


# The log of a daemon

def test_a_log_file_is_opened_anew_at_a_reload_and_by_a_successor(daemon, tmp_path):
    it = daemon()
    log = tmp_path / "logs" / "pg_doorman.log"
    log.parent.mkdir()
    it.one.config["general"] |= {"log_file": str(log)}
    del it.one.config["general"]["syslog_prog_name"]
    it.one.write()
    old = it.pid()
    os.kill(old, signal.SIGUSR2)
    wait_until(lambda: it.pid() != old and not alive(old))
    it.adopt()
    wait_until(lambda: log.exists() and "Accepting connections" in log.read_text())
    assert log.stat().st_mode & 0o777 == 0o640
    rotated = log.with_name("pg_doorman.log.1")
    log.rename(rotated)
    os.kill(it.pid(), signal.SIGHUP)
    wait_until(lambda: log.exists() and "Reloading config" in log.read_text())
    assert "Reloading config" not in rotated.read_text()
    it.one.stop()
    assert "Stopped" in log.read_text()


def test_a_daemon_without_a_log_says_where_it_logs(daemon):
    it = daemon()
    it.one.stop()
    del it.one.config["general"]["syslog_prog_name"]
    it.one.write()
    done = subprocess.run([binary(), "-d", str(it.one.path)], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    it.adopt()
    told = re.search("neither log_file nor syslog_prog_name is set, so the log goes to (.*)", done.stderr)
    assert told, done.stderr
    if told[1] != "syslog":
        assert "Accepting connections" in Path(told[1]).read_text()
    tested = subprocess.run([binary(), "-t", "-d", str(it.one.path)], capture_output=True, text=True, cwd="/")
    assert tested.returncode == 0 and told[0] in tested.stderr


def cron_job(**settings):
    """Runs the one line of contrib/cron/pg_doorman-upgrade as cron does, with other settings."""
    lines = [line for line in (CHECKOUT / "contrib/cron/pg_doorman-upgrade").read_text().splitlines()
             if line and not line.startswith("#")]
    *assignments, job = lines
    environment = {"PATH": "/usr/bin:/bin", **dict(line.split("=", 1) for line in assignments), **settings}
    words = re.fullmatch(r"(\S+ ){5}pg_doorman (.*)", job)
    assert words and "%" not in job
    return subprocess.Popen([environment["SHELL"], "-c", words.group(2)], env=environment, stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, cwd="/")


def ran(job):
    out, err = job.communicate(timeout=30)
    return job.returncode, out, err


def test_the_cron_job(daemon, tmp_path):
    if not shutil.which("flock"):
        pytest.skip("needs flock")
    program = tmp_path / "pg_doorman"
    shutil.copy(binary(), program)
    it = daemon(program)
    settings = {"PROGRAM": str(program), "PIDFILE": str(it.pid_file), "LOCK": str(tmp_path / "lock")}
    pid = it.pid()
    assert ran(cron_job(**settings)) == (0, "", "")
    assert it.pid() == pid, "nothing has changed"

    def install(text=None):
        new = tmp_path / "new"
        new.write_text(text) if text else shutil.copy(binary(), new)
        new.chmod(0o755)
        new.replace(program)

    install()
    status, out, err = ran(cron_job(**settings))
    assert (status, err) == (0, "") and len(out.splitlines()) == 1 and "upgrade complete" in out
    assert it.pid() != pid and not alive(pid)
    pid = it.pid()
    assert ran(cron_job(**settings)) == (0, "", "")

    # The command is the new binary too: one that does not work cannot say why, but its status is told.
    settings["PROGRAM"] = binary()
    install(f"#!/bin/sh\n{REFUSES}\n")
    status, out, err = ran(cron_job(**settings))
    assert (status, out) == (1, "") and len(err.splitlines()) == 1 and "upgrade abandoned" in err
    install(f"#!/bin/sh\n{IN_EARNEST + HANGS}\n")
    first, second = cron_job(**settings), cron_job(**settings)
    ended = [ran(job) for job in (first, second)]
    assert sorted(status for status, _, _ in ended) == [0, 1], "the second one found the lock taken"
    assert it.pid() == pid and it.one.serves()

    it.adopt()
    it.one.stop()
    assert ran(cron_job(**settings)) == (0, "", ""), "nothing runs"
