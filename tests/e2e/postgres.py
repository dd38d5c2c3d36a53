"""A throw-away PostgreSQL.

Creates a cluster in a temporary directory, runs it on a free port, and removes
it. PostgreSQL refuses to run as root: then user postgres runs it. It knows
nothing of the pooler.

Who can log in, and how (over TCP; the superuser uses the Unix socket):
  app      trust (its password "app-secret" is kept as a SCRAM verifier)
  scram    scram-sha-256, "scram-secret"
  hashed   md5, "hashed-secret"
  clear    cleartext password, "clear-secret"
  jürgen   trust
  certified  a client certificate in its name (hostssl)
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.rows import dict_row

from wait import wait_until

DATABASES = ["shop", "second", "données"]

HBA = """
local all postgres trust
local all all trust
hostssl all certified 127.0.0.1/32 cert
host all app,jürgen 127.0.0.1/32 trust
host all hashed 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host all all 127.0.0.1/32 scram-sha-256
"""

ROLES = """
set password_encryption = 'scram-sha-256';
create role team;
create role app login password 'app-secret' in role team;
create role scram login password 'scram-secret';
create role certified login;
create role clear login password 'clear-secret';
create role "jürgen" login password 'jürgen-secret';
set password_encryption = 'md5';
create role hashed login password 'hashed-secret';
"""

SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "300",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "jit": "off",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "lc_messages": "C",
}


def bin_dir() -> str:
    """Where initdb and pg_ctl are; on Debian that is outside PATH."""
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    if found:
        return os.path.dirname(max(found, key=lambda path: float(path.split("/")[4])))
    path = shutil.which("initdb")
    assert path, "PostgreSQL is not installed"
    return os.path.dirname(path)


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Postgres:
    """One cluster. `start()` creates and starts it; `remove()` ends and deletes it."""

    def __init__(self, settings: dict[str, str] | None = None) -> None:
        self.settings = {**SETTINGS, **(settings or {})}
        self.directory = tempfile.mkdtemp(prefix="doorman-pg-")
        self.data = os.path.join(self.directory, "data")
        self.log = os.path.join(self.directory, "postgresql.log")
        self.port = free_port()
        self.host = "127.0.0.1"
        self._connections: dict[str, psycopg.Connection] = {}

    def start(self) -> "Postgres":
        os.chmod(self.directory, 0o755)
        if os.geteuid() == 0:
            shutil.chown(self.directory, "postgres", "postgres")
        self._run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8",
                  "--locale=C.UTF-8", "--no-sync", "--no-instructions")
        with open(os.path.join(self.data, "pg_hba.conf"), "w") as hba:
            hba.write(HBA)
        with open(os.path.join(self.data, "postgresql.conf"), "a") as conf:
            for name, value in self.settings.items():
                conf.write(f"{name} = '{value}'\n")
            conf.write(f"port = {self.port}\nunix_socket_directories = '{self.directory}'\n")
        self._control("start")
        self.admin(ROLES)
        for name in DATABASES:
            self.admin(f'create database "{name}"')
            self.admin("grant all on schema public to public", database=name)
        return self

    def stop(self) -> None:
        self._forget_connections()
        self._control("stop", "-m", "fast")

    def start_again(self) -> None:
        self._control("start")

    def restart(self) -> None:
        """Ends every session (57P01) and comes back on the same port."""
        self._forget_connections()
        self._control("restart", "-m", "fast")

    def remove(self) -> None:
        self._forget_connections()
        try:
            self._control("stop", "-m", "immediate")
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)

    def speak_tls(self, certificate: str | Path | None = None, key: str | Path | None = None,
                  authority: str | Path | None = None) -> None:
        """Offers TLS with this certificate to whoever connects from now on; without one, no more."""
        files = {"server.crt": certificate, "server.key": key, "root.crt": authority}
        for name, source in files.items():
            if source:
                file = os.path.join(self.data, name)
                shutil.copyfile(source, file)
                os.chmod(file, 0o600)
                if os.geteuid() == 0:
                    shutil.chown(file, "postgres", "postgres")
        self.admin(f"alter system set ssl_ca_file = '{'root.crt' if authority else ''}'")
        self.admin(f"alter system set ssl = {'on' if certificate else 'off'}")
        self.admin("select pg_reload_conf()")
        wanted = "S" if certificate else "N"
        wait_until(lambda: self._answers_ssl_request(wanted), what="PostgreSQL has reloaded its certificates")

    def _answers_ssl_request(self, wanted: str) -> bool:
        with socket.create_connection((self.host, self.port), timeout=5) as probe:
            probe.sendall(b"\0\0\0\x08\x04\xd2\x16\x2f")
            return probe.recv(1) == wanted.encode()

    @contextmanager
    def rules(self, rules: str):
        """For a while these rules decide about clients over TCP."""
        path = os.path.join(self.data, "pg_hba.conf")

        def take(text: str) -> None:
            with open(path, "w") as hba:
                hba.write(text)
            loaded = self.admin("select pg_conf_load_time() as at")
            self.admin("select pg_reload_conf()")
            wait_until(lambda: self.admin("select pg_conf_load_time() as at") != loaded,
                       what="PostgreSQL has reloaded its rules")

        take("local all all trust\n" + rules)
        try:
            yield
        finally:
            take(HBA)

    def admin(self, sql: str, *parameters: object, database: str = "postgres") -> list[dict]:
        """Runs SQL as superuser and returns the rows, if there are any."""
        connection = self._connections.get(database)
        if connection is None or connection.closed:
            connection = psycopg.connect(
                host=self.directory, port=self.port, user="postgres", dbname=database,
                autocommit=True, row_factory=dict_row, application_name="test")
            self._connections[database] = connection
        cursor = connection.execute(sql, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def connect(self, user: str = "app", database: str = "shop", **options) -> psycopg.Connection:
        """A direct connection, to compare with."""
        options.setdefault("autocommit", True)
        return psycopg.connect(host=self.host, port=self.port, user=user, dbname=database, **options)

    def verifier(self, user: str) -> str:
        """What pg_authid keeps for this role: the form a pooler's configuration takes."""
        return self.admin("select rolpassword from pg_authid where rolname = %s", user)[0]["rolpassword"]

    @contextmanager
    def gate(self, database: str = "shop"):
        """A place where queries stop until it is opened; see Gate."""
        with psycopg.connect(host=self.directory, port=self.port, user="postgres", dbname=database,
                             autocommit=True) as keeper:
            yield Gate(self, keeper, database)

    def backends(self, user: str | None = "app", database: str | None = None) -> list[dict]:
        """Client sessions as pg_stat_activity shows them, the superuser's left out."""
        return self.admin(
            "select pid, usename, datname, application_name, state, query, wait_event "
            "from pg_stat_activity where backend_type = 'client backend' and usename <> 'postgres' "
            "and (%s::text is null or usename = %s) and (%s::text is null or datname = %s)",
            user, user, database, database)

    def pids(self, user: str | None = "app") -> set[int]:
        return {backend["pid"] for backend in self.backends(user)}

    def terminate(self, *pids: int) -> None:
        """Ends these sessions as an administrator would, and waits until they are gone."""
        for pid in pids:
            self.admin("select pg_terminate_backend(%s)", pid)
        wait_until(lambda: not self.pids(None) & set(pids), what="terminated backends are gone")

    def _forget_connections(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _control(self, *arguments: str) -> None:
        self._run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-s", *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        command = [os.path.join(bin_dir(), program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        # Output to a file: a pipe would be kept open by the server it starts.
        with tempfile.TemporaryFile() as output:
            status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                    cwd="/").returncode
            if status != 0:
                output.seek(0)
                raise RuntimeError(f"{' '.join(command)}: {output.read().decode(errors='replace')}")


class Gate:
    """A place where queries stop, for as long as a test wants them to run: an advisory lock.

    `select 1 from {gate.passage}` stops there; the transaction's end undoes all that it leaves.
    """

    passage = "pg_advisory_xact_lock_shared(20240)"

    def __init__(self, pg: Postgres, keeper: psycopg.Connection, database: str):
        self._pg, self._keeper, self._database = pg, keeper, database
        keeper.execute("select pg_advisory_lock(20240)")

    def stopped(self) -> int:
        """How many queries stand at the gate."""
        return self._pg.admin("select count(*) from pg_locks where locktype = 'advisory' and objid = 20240 "
                              "and not granted", database=self._database)[0]["count"]

    def open(self) -> None:
        self._keeper.execute("select pg_advisory_unlock(20240)")
