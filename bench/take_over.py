"""Upgrades of this pooler and of pgbouncer (-R), under load and with silent clients: one table.

Both get the same PostgreSQL, pool size, load and silent clients. The load is
pgbench, whose log tells how long each transaction of each client took. Prints
what it saw; it does not judge.
"""

from __future__ import annotations

import argparse
import glob
import os
import re
import resource
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(CHECKOUT / "tests/e2e"), str(CHECKOUT / "bench")]
sys.dont_write_bytecode = True

import compare  # noqa: E402
from doorman import alive, command  # noqa: E402
from postgres import Postgres, bin_dir  # noqa: E402
from wait import wait_until  # noqa: E402
from wire import Raw, query  # noqa: E402

# Between two upgrades the load runs undisturbed for at least this long, and the same is looked at as a quiet time.
REST = 0.4


class Doorman(compare.Doorman):
    def prepare(self, pg, auth, pool_size):
        command, options = super().prepare(pg, auth, pool_size)
        self.config = Path(command[-1])
        text = self.config.read_text().replace("[general]", "[general]\nmax_connections = 5000", 1)
        self.config.write_text(text)
        self.log = self.directory / "stderr"
        return [command[0], "-l", "info", str(self.config)], options

    def upgrade(self) -> None:
        """Returns when the new process has everything; the old one may still be on its way out."""
        done, failed = b"upgrade complete", b"UPGRADE ABANDONED"
        before, old = self.log.stat().st_size, self.pid
        os.kill(old, signal.SIGUSR2)
        with open(self.log, "rb") as log:
            log.seek(before)
            said = b""
            while done not in said:
                ended = not alive(old)
                said += log.read()
                if failed in said or ended and done not in said:
                    raise RuntimeError(f"the upgrade failed: {said.decode()[-1000:]}")
                time.sleep(0.0005)

    def settle(self) -> None:
        """Finds out which process it is now."""
        old = self.pid
        if isinstance(self.process, subprocess.Popen):
            self.process.wait(10)
        wait_until(lambda: not alive(old), 10, "the old process ends")
        (self.pid,) = self.processes()

    def processes(self) -> list[int]:
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
                if str(self.config) in command(pid) and alive(pid)]

    def stop(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.processes(), 10, "it ends")
        super().stop()


class Pgbouncer(compare.Pgbouncer):
    def prepare(self, pg, auth, pool_size):
        command, self.options = super().prepare(pg, auth, pool_size)
        config = Path(command[-1])
        # It finds the process it takes over from by its Unix socket.
        config.write_text(config.read_text().replace("unix_socket_dir =", f"unix_socket_dir = {self.directory}"))
        if self.options:
            shutil.chown(self.directory, "postgres")
        self.command = command
        return command, self.options

    def upgrade(self) -> None:
        """Returns when the old process is gone: it ends as soon as the new one has everything."""
        old = self.process
        with open(self.directory / "stderr", "ab") as log:
            self.process = subprocess.Popen([*self.command[:-1], "-R", self.command[-1]], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, **self.options)
        while old.poll() is None:
            if self.process.poll() is not None:
                raise RuntimeError(f"the new pgbouncer ended: {(self.directory / 'stderr').read_text()[-1000:]}")
            time.sleep(0.0005)

    def settle(self) -> None:
        self.pid = self.process.pid


class Load:
    """pgbench, with a log of every transaction."""

    def __init__(self, target, clients: int):
        self.directory = tempfile.mkdtemp(prefix="bench-load-")
        # Ended by `stop`; the time is only for the case that it is not.
        self.process = subprocess.Popen(
            [os.path.join(bin_dir(), "pgbench"), "-n", "-S", "-M", "simple", "-c", str(clients), "-j", "2",
             "-T", "86400", "-l", "--log-prefix", f"{self.directory}/log",
             "-h", "127.0.0.1", "-p", str(target.port), "-U", "app", "shop"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env={**os.environ, "PGSSLMODE": "disable"})

    def stop(self) -> tuple[list[tuple[float, float]], int]:
        """When each transaction began and ended, and how many errors there were."""
        if not os.path.exists(self.directory):
            return [], 0
        died = self.process.poll() is not None
        self.process.send_signal(signal.SIGINT)
        _, said = self.process.communicate(timeout=30)
        errors = max(int(died), len(re.findall("aborted|error:|ERROR|FATAL", said)))
        if errors:
            print(said[-500:], file=sys.stderr)
        transactions = []
        for path in glob.glob(f"{self.directory}/log*"):
            for line in open(path):
                words = line.split()
                if len(words) >= 6 and words[2].isdigit():
                    end = int(words[4]) + int(words[5]) / 1e6
                    transactions.append((end - int(words[2]) / 1e6, end))
        shutil.rmtree(self.directory)
        return transactions, errors


class NoLoad:
    """Nobody but the silent ones."""

    def stop(self) -> tuple[list[tuple[float, float]], int]:
        return [], 0


def longest(transactions, begin: float, end: float) -> float:
    """The longest transaction that ran at any time between the two, in milliseconds."""
    return max(((t[1] - t[0]) * 1000 for t in transactions if t[0] <= end and t[1] >= begin), default=0.0)


class Crowd:
    """Clients that have asked once and then say nothing."""

    def __init__(self, target, count: int):
        self.raws = []
        for _ in range(count):
            raw = Raw(("127.0.0.1", target.port))
            raw.login(user="app", database="shop")
            self.raws.append(raw)
        self.ask()

    def ask(self) -> int:
        """All ask at once; returns when all have their answers. How many were disappointed."""
        if not self.raws:
            return 0
        chosen, wrong = selectors.DefaultSelector(), 0
        question, answers = query("select 1"), {}
        for raw in self.raws:
            raw.socket.setblocking(False)
            chosen.register(raw.socket, selectors.EVENT_READ)
            answers[raw.socket] = b""
        for raw in self.raws:
            try:
                raw.socket.send(question)
            except OSError:
                pass
        left = len(self.raws)
        while left:
            ready = chosen.select(20)
            if not ready:
                return wrong + left
            for key, _ in ready:
                try:
                    piece = key.fileobj.recv(4096)
                except OSError:
                    piece = b""
                answers[key.fileobj] += piece
                # ReadyForQuery, idle, is the last thing an answer has.
                if not piece or answers[key.fileobj].endswith(b"Z\0\0\0\5I"):
                    wrong += not piece or b"D\0\0\0" not in answers[key.fileobj]
                    chosen.unregister(key.fileobj)
                    left -= 1
        chosen.close()
        return wrong

    def close(self) -> None:
        for raw in self.raws:
            raw.close()


def holdings(pid: int) -> tuple[int, int, int]:
    """Memory in KiB (Pss), threads and descriptors of a process."""
    threads = len(os.listdir(f"/proc/{pid}/task"))
    return compare.resident_kib(pid), threads, len(os.listdir(f"/proc/{pid}/fd"))


def measure(kind, pg: Postgres, silent: int, options) -> None:
    with ExitStack() as at_the_end:
        target = kind(pg, options, options.pool_size)
        at_the_end.callback(target.stop)
        crowd = Crowd(target, silent)
        load = Load(target, options.clients) if options.clients else NoLoad()
        at_the_end.callback(load.stop)
        wait_until(lambda: len(pg.pids()) >= min(options.pool_size, options.clients), 10, "the load runs")
        time.sleep(REST)
        backends, new_backends, disappointed = pg.pids(), 0, 0
        taken, served, windows, early, late = [], [], [], None, None
        for n in range(1, options.upgrades + 1):
            quiet, begin, clock = time.time(), time.time() + REST, time.monotonic
            time.sleep(REST)
            start = clock()
            target.upgrade()
            taken.append((clock() - start) * 1000)
            # In the two that are compared in the end all have asked.
            asks = n % options.ask_every == 0 or n in (2, options.upgrades)
            if asks:
                disappointed += crowd.ask()
                served.append((clock() - start) * 1000)
            else:
                # The answers would be a load of their own.
                windows.append((quiet, begin, time.time()))
            target.settle()
            new_backends += len(pg.pids() - backends)
            backends = pg.pids()
            if n in (2, options.upgrades):
                early, late = early or holdings(target.pid), holdings(target.pid)
        transactions, errors = load.stop()
        disappointed += crowd.ask()
        crowd.close()

    def row(values):
        return f"{statistics.median(values):9.1f} {max(values):9.1f}" if values else f"{'-':>9} {'-':>9}"

    stalls = [longest(transactions, begin, end) for _, begin, end in windows]
    quiet = [longest([t for t in transactions if t[1] <= middle], begin, middle) for begin, middle, _ in windows]
    print(f"{silent:>6} {target.name:>10} {options.upgrades:>8} {row(taken)} {row(served)} {row(stalls)} {row(quiet)} "
          f"{errors + disappointed:>6} {new_backends:>8}", flush=True)
    if early and late:
        words = " -> ".join("{} KiB {} threads {} fds".format(*found) for found in (early, late))
        print(f"{'':>17} after 2 upgrades and after {options.upgrades}: {words}", flush=True)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--silent", type=numbers, default=[1000, 4000], help="silent clients (1000,4000)")
    parser.add_argument("--clients", type=int, default=40, help="clients of the load (40), 0 for none")
    parser.add_argument("--upgrades", type=int, default=100, help="upgrades of each pooler, at least 2 (100)")
    parser.add_argument("--ask-every", type=int, default=5, help="in every how manieth all silent clients ask (5)")
    parser.add_argument("--pool-size", type=int, default=8, help="server connections (8)")
    parser.add_argument("--no-peers", action="store_true", help="without pgbouncer")
    parser.set_defaults(auth="trust", tls=None, server_tls=False)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pg = Postgres({"max_connections": "200", "fsync": "off"})
    try:
        pg.start()
        subprocess.run([os.path.join(bin_dir(), "pgbench"), "-i", "-q", "-s", "2", "-h", pg.host, "-p", str(pg.port),
                        "-U", "app", "shop"], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        print(f"{'':>26} {'taken, ms':>19} {'served, ms':>19} {'stall, ms':>19} {'quiet, ms':>19} {'':>6} {'new':>8}")
        print(f"{'silent':>6} {'pooler':>10} {'upgrades':>8} " + f"{'median':>9} {'max':>9} " * 4
              + f"{'errors':>6} {'backends':>8}")
        for silent in options.silent:
            for kind in [Doorman] if options.no_peers or not shutil.which("pgbouncer") else [Doorman, Pgbouncer]:
                measure(kind, pg, silent, options)
    finally:
        pg.remove()


if __name__ == "__main__":
    main()
