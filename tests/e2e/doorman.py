"""The program under test, as an operator sees it.

Writes a configuration, starts the binary in the foreground on a free port,
talks to it, signals it, reads its log, stops it. What is asserted about it is
the tests' business, except what holds for every run: it ends when told to,
with status 0, without a panic, and leaves no transaction open in PostgreSQL.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from postgres import Postgres, free_port
from toml import to_toml
from wait import wait_until
from wire import Raw

CHECKOUT = Path(__file__).resolve().parents[2]
ADMIN_PASSWORD = "admin-secret"
TRUST = "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust\nlocal all all trust\n"


def binary() -> str:
    """The program: $PG_DOORMAN, or what `cargo build --release` made."""
    return os.environ.get("PG_DOORMAN") or str(CHECKOUT / "target/release/pg_doorman")


class Successor:
    """A process that is not our child: what took over from one that was.

    As much of `subprocess.Popen` as is used here. Its exit status goes to
    whoever has adopted it, so it is never known.
    """

    returncode = None

    def __init__(self, pid: int):
        self.pid = pid

    def poll(self) -> int | None:
        return None if alive(self.pid) else 0

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float = 20.0) -> int:
        try:
            wait_until(lambda: not alive(self.pid), timeout)
        except AssertionError:
            raise subprocess.TimeoutExpired("pg_doorman", timeout) from None
        return 0


class Doorman:
    """One pooler, with pool `shop` and user `app` unless told otherwise.

    mode, size: pool mode and size for that user. general, pool, user: more keys
    for these tables. users: replaces the list of users. pools: further pools.
    upgrade, web: keys for these tables. program: another binary than the usual one.
    """

    def __init__(self, pg: Postgres, directory: Path, *, mode: str = "transaction", size: int = 4,
                 general: dict | None = None, pool: dict | None = None, user: dict | None = None,
                 users: list[dict] | None = None, pools: dict | None = None,
                 upgrade: dict | None = None, web: dict | None = None, program: str | Path | None = None):
        self.pg = pg
        self.program = str(program or binary())
        self.directory = directory
        self.port = (general or {}).get("port") or free_port()
        self.host = "127.0.0.1"
        self.path = directory / "pg_doorman.toml"
        self.log_path = directory / "pg_doorman.log"
        self.process: subprocess.Popen | Successor | None = None
        self.terminal = -1
        self.expected_status: int | None = 0
        self._open: list = []
        self.config = {
            "general": {
                "host": "127.0.0.1",
                "port": self.port,
                "admin_username": "admin",
                "admin_password": ADMIN_PASSWORD,
                # On a busy machine PostgreSQL takes its time; no test is about that unless it says so.
                "connect_timeout": "20s",
                "pg_hba": {"content": TRUST},
                **(general or {}),
            },
            **({"upgrade": upgrade} if upgrade else {}),
            **({"web": web} if web else {}),
            "pools": {
                "shop": {
                    "server_host": pg.host,
                    "server_port": pg.port,
                    "pool_mode": mode,
                    **(pool or {}),
                    "users": users or [
                        {"username": "app", "password": pg.verifier("app"), "pool_size": size, **(user or {})},
                    ],
                },
                **(pools or {}),
            },
        }

    # Life

    def write(self) -> None:
        self.path.touch(mode=0o600)
        self.path.write_text(to_toml(self.config))

    def start(self, *arguments: str, terminal: bool = False, environment: dict | None = None,
              passed: tuple[int, ...] = ()) -> "Doorman":
        """Starts it and returns once it listens. `terminal`: with a TTY as its standard input."""
        self.write()
        standard_input: int = subprocess.DEVNULL
        if terminal:
            self.terminal, standard_input = pty.openpty()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [self.program, *arguments, str(self.path)], stdin=standard_input, stdout=log, stderr=log,
                cwd=self.directory, pass_fds=passed, env={**os.environ, **(environment or {})})
        if terminal:
            os.close(standard_input)
        wait_until(self._listens, what="the pooler listens")
        return self

    def _listens(self) -> bool:
        assert self.process.poll() is None, f"exited with {self.process.returncode} at start:\n{self.log()}"
        directory = self.config["general"].get("unix_socket_dir")
        return listening(self.port) and (not directory or listening_at(f"{directory}/.s.PGSQL.{self.port}"))

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def reload(self) -> None:
        """Writes `self.config` and sends SIGHUP. The effect is for the test to await."""
        self.write()
        self.signal(signal.SIGHUP)

    def wait(self, timeout: float = 20.0) -> int:
        """Its exit status, once it has ended."""
        return self.process.wait(timeout)

    def kill(self) -> None:
        """Ends it whatever state it is in; for the end of a test that failed."""
        self.disconnect_all()
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.processes():
            Successor(pid).kill()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def stop(self) -> None:
        """Ends it and checks what must hold for every run."""
        self.disconnect_all()
        if self.process and self.process.poll() is None:
            self.signal(signal.SIGTERM)
            try:
                self.wait()
            except subprocess.TimeoutExpired:
                self.kill()
                raise AssertionError("did not end within 20 s of SIGTERM") from None
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1
        assert "panicked at" not in self.log(), "a thread panicked"
        if self.process and self.expected_status is not None and not isinstance(self.process, Successor):
            assert self.process.returncode == self.expected_status
        assert not self.processes(), "a process is left over"
        wait_until(lambda: not self.open_transactions(), what="no backend is left idle in transaction")

    # Another process takes its place

    def upgrade(self, timeout: float = 20.0) -> None:
        """SIGUSR2, until the old process is gone; from then on the new one is meant by `process`."""
        done = self.log().count("upgrade complete")
        given_up = self.log().count("UPGRADE ABANDONED")
        self.signal(signal.SIGUSR2)

        def over() -> bool:
            assert self.log().count("UPGRADE ABANDONED") == given_up, self.log()[-3000:]
            return self.log().count("upgrade complete") > done

        wait_until(over, timeout, "the upgrade is complete")
        self.succeeded(timeout)

    def succeeded(self, timeout: float = 20.0) -> None:
        """An upgrade is complete: the old process ends, and the new one is meant by `process`."""
        old = self.process
        status = old.wait(timeout)
        assert status == 0, f"the predecessor ended with status {status}"
        (pid,) = self.processes()
        assert pid != old.pid
        self.process = Successor(pid)

    def fail_to_upgrade(self, timeout: float = 20.0) -> str:
        """SIGUSR2, until the log says why nothing came of it; returns that."""
        before = self.log().count("UPGRADE ABANDONED")
        self.signal(signal.SIGUSR2)
        return self.abandoned(before + 1, timeout)

    def abandoned(self, times: int = 1, timeout: float = 20.0) -> str:
        """Waits until that many upgrades have been abandoned; returns why the last one was."""
        said = wait_until(lambda: (found := re.findall("UPGRADE ABANDONED.*", self.log())) and len(found) >= times
                          and found, timeout, "the upgrade is abandoned")
        wait_until(lambda: self.processes() == [self.process.pid], what="nothing is left of the successor")
        return said[-1]

    def processes(self) -> list[int]:
        """Those that serve with this configuration."""
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if (words := command(pid)) and str(self.path) in words
                and not {"-t", "upgrade"} & set(words) and alive(pid)]

    def successor(self) -> int | None:
        """The process that is about to take over, if there is one."""
        return next((pid for pid in self.processes() if pid != self.process.pid and inherits(pid)), None)

    # Talking to it

    def connect(self, user: str = "app", database: str = "shop", **options) -> psycopg.Connection:
        """A psycopg connection in autocommit mode which prepares nothing by itself."""
        options.setdefault("autocommit", True)
        options.setdefault("prepare_threshold", None)
        options.setdefault("host", self.host)
        options.setdefault("connect_timeout", 10)
        connection = psycopg.connect(port=self.port, user=user, dbname=database, **options)
        self._open.append(connection)
        return connection

    def raw(self, login: bool = True, address: tuple[str, int] | str | None = None, receive_buffer: int = 0,
            **parameters) -> Raw:
        """A bare protocol connection, logged in as app unless told otherwise."""
        raw = Raw(address or (self.host, self.port), receive_buffer)
        self._open.append(raw)
        if login:
            seen = raw.login(**parameters)
            assert raw.status == "I", seen
        return raw

    def console(self, sql: str) -> list[dict]:
        """Runs one command on the admin console and returns its rows."""
        with psycopg.connect(host=self.host, port=self.port, user="admin", password=ADMIN_PASSWORD,
                             dbname="pgdoorman", autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def pool(self, database: str = "shop", user: str = "app") -> dict:
        """The row of SHOW POOLS for one pool."""
        return next(row for row in self.console("show pools")
                    if row["database"] == database and row["user"] == user)

    def waiting(self) -> int:
        """How many clients wait for a server connection."""
        return int(self.pool()["cl_waiting"])

    def serves(self) -> bool:
        """Whether a new client gets an answer."""
        with self.connect() as connection:
            return connection.execute("select 1").fetchone() == (1,)

    def disconnect_all(self) -> None:
        for connection in self._open:
            connection.close()
        self._open.clear()

    # Looking at it

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, pattern: str, timeout: float = 20.0) -> re.Match:
        return wait_until(lambda: re.search(pattern, self.log()), timeout, f"log matches {pattern!r}")

    def open_transactions(self) -> list[dict]:
        return [b for b in self.pg.backends(None) if (b["state"] or "").startswith("idle in transaction")]

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise KeyError(field)

    def resident_kib(self) -> int:
        return self._status("VmRSS")

    def forget_peak(self) -> None:
        """Starts the measurement of `peak_kib` anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_kib(self) -> int:
        return self._status("VmHWM")

    def threads(self) -> int:
        return self._status("Threads")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


def command(pid: int) -> list[str]:
    """A process's command line; empty if it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    return []


def inherits(pid: int) -> bool:
    """Whether this process was started to take over from another."""
    with suppress(OSError):
        return b"PG_DOORMAN_HANDOVER_FD=" in Path(f"/proc/{pid}/environ").read_bytes()
    return False


def alive(pid: int) -> bool:
    """Whether this process runs. Whoever adopted it may be slow to notice its end."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def listening(port: int) -> bool:
    """Whether somebody listens on this TCP port, found out without connecting."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        if not os.path.exists(table):
            continue
        with open(table) as lines:
            next(lines)
            for line in lines:
                words = line.split()
                if words[3] == "0A" and words[1].endswith(wanted):
                    return True
    return False


def listening_at(path: str) -> bool:
    """Whether somebody listens on this Unix socket: a file alone may be stale."""
    with open("/proc/net/unix") as lines:
        next(lines)
        return any(words[3] == "00010000" and words[-1] == path for words in map(str.split, lines))
