"""pgbench through this pooler, its peers, and directly: one table.

Starts a throw-away PostgreSQL, this pooler and Debian's pgbouncer with the
same pool size and the same authentication, and runs pgbench's select-only
script through each in turn, round after round, so that a change in the
machine's mood hits all of them. Prints medians. It does not judge.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(CHECKOUT / "tests/e2e"))
sys.dont_write_bytecode = True

from certificates import Authority  # noqa: E402
from doorman import listening  # noqa: E402
from postgres import Postgres, bin_dir, free_port  # noqa: E402
from toml import to_toml  # noqa: E402
from wait import wait_until  # noqa: E402
from wire import Raw, kinds, query  # noqa: E402

USERS = {"trust": ("app", "app-secret"), "scram": ("scram", "scram-secret")}
LARGE = Path(__file__).with_name("large.sql")
PGBENCH = {"simple": ["-S", "-M", "simple"], "extended": ["-S", "-M", "extended"], "prepared": ["-S", "-M", "prepared"],
           "connect": ["-S", "-C"], "large": ["-f", str(LARGE)]}


class Direct:
    """PostgreSQL itself."""

    name = "direct"
    pid = 0

    def __init__(self, pg: Postgres):
        self.port = pg.port

    def cannot(self, mode: str) -> str:
        return ""

    def stop(self) -> None:
        pass


class Pooler:
    """A pooler's process. A subclass writes its configuration and says how to start it."""

    name = ""

    def __init__(self, pg: Postgres, options, pool_size: int):
        self.directory = Path(tempfile.mkdtemp(prefix=f"bench-{self.name}-"))
        self.directory.chmod(0o755)
        self.port = free_port()
        self.identity = {}
        if options.tls:
            for name, source in options.identity._asdict().items():
                self.identity[name] = shutil.copy(source, self.directory)
                if os.geteuid() == 0:
                    shutil.chown(self.identity[name], "postgres", "postgres")
        command, started = self.prepare(pg, options, pool_size)
        with open(self.directory / "stderr", "wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **started)
        self.pid = self.process.pid
        try:
            wait_until(lambda: self.process.poll() is not None or listening(self.port), 10, f"{self.name} listens")
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} did not start:\n{(self.directory / 'stderr').read_text()}")
        except BaseException:
            self.stop()
            raise

    def prepare(self, pg: Postgres, options, pool_size: int) -> tuple[list, dict]:
        raise NotImplementedError

    def cannot(self, mode: str) -> str:
        """Why this mode cannot be measured with it; empty if it can."""
        return ""

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Doorman(Pooler):
    name = "pg_doorman"

    def prepare(self, pg, options, pool_size):
        user, _ = USERS[options.auth]
        method = "trust" if options.auth == "trust" else "scram-sha-256"
        tls = {"tls_mode": "require", "tls_certificate": self.identity["certificate"],
               "tls_private_key": self.identity["key"]} if options.tls else {}
        config = self.directory / "pg_doorman.toml"
        config.write_text(to_toml({
            "general": {"host": "127.0.0.1", "port": self.port, "admin_username": "admin", "admin_password": "admin",
                        "query_wait_timeout": "60s", "pg_hba": {"content": f"host all all 127.0.0.1/32 {method}\n"},
                        "server_tls_mode": "require" if options.server_tls else "disable", **tls},
            "pools": {"shop": {"server_host": pg.host, "server_port": pg.port, "pool_mode": "transaction", "users": [
                {"username": user, "password": pg.verifier(user), "pool_size": pool_size}]}}}))
        program = os.environ.get("PG_DOORMAN") or str(CHECKOUT / "target/release/pg_doorman")
        return [program, "-l", "warn", str(config)], {}


class Pgbouncer(Pooler):
    name = "pgbouncer"

    @staticmethod
    def version() -> tuple[int, int]:
        said = subprocess.run(["pgbouncer", "--version"], capture_output=True, text=True).stdout
        major, minor = re.search(r"(\d+)\.(\d+)", said).groups()
        return int(major), int(minor)

    def cannot(self, mode):
        if mode == "prepared" and self.version() < (1, 21):
            return "pgbouncer %d.%d has no prepared statements in transaction mode (1.21 has)" % self.version()
        return ""

    def prepare(self, pg, options, pool_size):
        user, _ = USERS[options.auth]
        (self.directory / "users").write_text(f'"{user}" "{pg.verifier(user)}"\n')
        extra = "max_prepared_statements = 200\n" if self.version() >= (1, 21) else ""
        extra += f"server_tls_sslmode = {'require' if options.server_tls else 'disable'}\n"
        if options.tls:
            extra += (f"client_tls_sslmode = require\nclient_tls_protocols = secure\n"
                      f"client_tls_cert_file = {self.identity['certificate']}\n"
                      f"client_tls_key_file = {self.identity['key']}\n")
        config = self.directory / "pgbouncer.ini"
        config.write_text(f"""[databases]
shop = host={pg.host} port={pg.port} dbname=shop
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {self.port}
unix_socket_dir =
auth_type = {"trust" if options.auth == "trust" else "scram-sha-256"}
auth_file = {self.directory}/users
pool_mode = transaction
default_pool_size = {pool_size}
max_client_conn = 5000
query_wait_timeout = 60
log_connections = 0
log_disconnections = 0
log_stats = 0
{extra}""")
        # It refuses to run as root.
        started = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        return ["pgbouncer", "-q", str(config)], started


def processor_seconds(pid: int) -> float:
    """User and system time of a process, its ended threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise KeyError("Pss")


class Run:
    """One run of pgbench through one target: transactions per second, processor time per transaction."""

    def __init__(self, target, options, mode: str, clients: int):
        user, password = USERS[options.auth]
        tls = {"PGSSLMODE": "require", "PGSSLMAXPROTOCOLVERSION": f"TLSv{options.tls}"} if options.tls else \
            {"PGSSLMODE": "disable"}
        before = processor_seconds(target.pid) if target.pid else 0.0
        done = subprocess.run(
            [os.path.join(bin_dir(), "pgbench"), "-n", *PGBENCH[mode], "-c", str(clients), "-j",
             str(min(clients, 2)), "-T", str(options.seconds), "-h", "127.0.0.1", "-p", str(target.port), "-U", user, "shop"],
            capture_output=True, text=True, env={**os.environ, "PGPASSWORD": password, **tls})
        if done.returncode != 0:
            raise RuntimeError(f"{target.name}, {mode}, {clients} clients: {done.stderr.strip()[-300:]}")
        count = int(re.search(r"transactions actually processed: (\d+)", done.stdout)[1])
        self.tps = float(re.search(r"tps = ([\d.]+)", done.stdout)[1])
        self.microseconds = (processor_seconds(target.pid) - before) * 1e6 / count if target.pid else 0.0


def memory_per_client(target, auth: str, clients: int) -> float:
    """KiB more for each idle client that has logged in and asked once."""
    user, password = USERS[auth]

    def arrive():
        raw = Raw(("127.0.0.1", target.port))
        raw.login(user=user, password=password, database="shop")
        assert kinds(raw.ask(query("select 1"))) == "TDCZ"
        return raw

    crowd = [arrive() for _ in range(50)]
    before = resident_kib(target.pid)
    crowd += [arrive() for _ in range(clients)]
    after = resident_kib(target.pid)
    for raw in crowd:
        raw.close()
    return (after - before) / clients


def compare(options, pg: Postgres) -> None:
    peers = [Pgbouncer] if shutil.which("pgbouncer") and not options.no_peers else []
    poolers = [Doorman, *peers]
    head = f"{'pool':>4} {'mode':>8} {'clients':>7} {'direct':>8}"
    for pooler in poolers:
        head += f" {pooler.name:>10} {'us/tx':>6}"
    for peer in peers:
        head += f" {'/' + peer.name:>10}"
    head += f" {'/direct':>8}"
    print(head)
    remarks = []
    for pool_size in options.pool_sizes:
        targets = [Direct(pg)]
        try:
            for pooler in poolers:
                targets.append(pooler(pg, options, pool_size))
            for mode in options.modes:
                for clients in options.clients:
                    results = measure(options, targets, mode, clients, remarks)
                    print_line(pool_size, mode, clients, targets, results)
        finally:
            for target in targets:
                target.stop()
    if options.idle and not options.tls:
        print()
        for pooler in poolers:
            target = pooler(pg, options, 8)
            try:
                kib = memory_per_client(target, options.auth, options.idle)
                print(f"{pooler.name}: {kib:.1f} KiB resident (Pss) per idle client, over {options.idle} clients")
            finally:
                target.stop()
    for remark in dict.fromkeys(remarks):
        print(f"note: {remark}")


def measure(options, targets, mode: str, clients: int, remarks: list[str]) -> dict[str, list[Run]]:
    results: dict[str, list[Run]] = {target.name: [] for target in targets}
    able = []
    for target in targets:
        why = target.cannot(mode)
        remarks.append(why) if why else able.append(target)
    for number in range(options.rounds):
        # Every other round the other way around: who comes first has no advantage.
        for target in able if number % 2 == 0 else able[::-1]:
            try:
                results[target.name].append(Run(target, options, mode, clients))
            except RuntimeError as problem:
                remarks.append(str(problem))
    return results


def print_line(pool_size: int, mode: str, clients: int, targets, results: dict[str, list[Run]]) -> None:
    def tps(name: str) -> float:
        return statistics.median(run.tps for run in results[name]) if results[name] else 0.0

    def ratio(name: str) -> str:
        return f"{tps('pg_doorman') / tps(name):.3f}" if tps(name) and tps("pg_doorman") else "-"

    line = f"{pool_size:>4} {mode:>8} {clients:>7} {tps('direct'):>8.0f}"
    poolers = [target for target in targets if target.pid]
    for target in poolers:
        runs = results[target.name]
        cost = f"{statistics.median(run.microseconds for run in runs):.1f}" if runs else "-"
        line += f" {tps(target.name):>10.0f} {cost:>6}" if runs else f" {'-':>10} {'-':>6}"
    for target in poolers[1:]:
        line += f" {ratio(target.name):>10}"
    print(line + f" {ratio('direct'):>8}", flush=True)


def numbers(value: str) -> list[int]:
    return [int(part) for part in value.split(",")]


def modes(value: str) -> list[str]:
    chosen = value.split(",")
    for mode in chosen:
        if mode not in PGBENCH:
            raise argparse.ArgumentTypeError(f"{mode}: one of {', '.join(PGBENCH)}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], prog="bench/run")
    parser.add_argument("--clients", type=numbers, default=[1, 8, 40, 120], help="e.g. 1,8,40,120")
    parser.add_argument("--modes", type=modes, default=[mode for mode in PGBENCH if mode != "large"], help=",".join(PGBENCH) + " (connect is -C, large a result of 50 MB)")
    parser.add_argument("--pool-sizes", type=numbers, default=[40, 8], help="e.g. 40,8")
    parser.add_argument("--seconds", type=int, default=5, help="per run")
    parser.add_argument("--rounds", type=int, default=3, help="runs per cell; medians are printed")
    parser.add_argument("--auth", choices=USERS, default="trust")
    parser.add_argument("--tls", choices=["1.2", "1.3"], help="clients use TLS of this version")
    parser.add_argument("--server-tls", action="store_true", help="the poolers use TLS to PostgreSQL")
    parser.add_argument("--idle", type=int, default=1000, help="idle clients for the memory figure, 0 for none")
    parser.add_argument("--scale", type=int, default=10, help="pgbench's scale")
    parser.add_argument("--no-peers", action="store_true", help="without pgbouncer")
    options = parser.parse_args()

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    pg = Postgres({"shared_buffers": "256MB"})
    try:
        pg.start()
        subprocess.run([os.path.join(bin_dir(), "pgbench"), "-i", "-q", "-s", str(options.scale), "-h", pg.directory,
                        "-p", str(pg.port), "-U", "postgres", "shop"], check=True, capture_output=True)
        pg.admin("grant all on all tables in schema public to public", database="shop")
        if options.tls or options.server_tls:
            authority = Authority(Path(pg.directory) / "tls")
            options.identity = authority.sign("localhost")
            pg.speak_tls(options.identity.certificate, options.identity.key)
        print(f"$ bench/run {shlex.join(sys.argv[1:])}")
        print(f"{os.cpu_count()} processors; {version(pg)}; pgbouncer "
              f"{'.'.join(map(str, Pgbouncer.version())) if shutil.which('pgbouncer') else 'absent'}; "
              f"auth {options.auth}; {options.rounds} x {options.seconds} s, medians")
        compare(options, pg)
    finally:
        pg.remove()


def version(pg: Postgres) -> str:
    return "PostgreSQL " + pg.admin("show server_version")[0]["server_version"].split()[0]


if __name__ == "__main__":
    main()
