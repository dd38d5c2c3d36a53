"""Real drivers do their ordinary work through the pooler, in both pool modes, and see what they see directly.

Each is a small program under tests/drivers/. It finds its server in PGHOST, PGPORT, PGUSER, PGPASSWORD and
PGDATABASE, a table name of its own in PGTABLE, and in POOL_MODE what it is connected to: "transaction",
"session" or "direct". It asserts what it can, prints what it saw, and "done" at the end. It is run against
PostgreSQL itself first: what it prints through the pooler must be the same, but for lines that begin with
"session:", for which transaction mode has no counterpart.

The drivers are as they come: their named statements are in use in both modes. Forty clients work at once at the
end, on four server connections.
"""

import os
import subprocess
from pathlib import Path

import pytest

from postgres import bin_dir

DRIVERS = Path(__file__).resolve().parents[1] / "drivers"
STATE = DRIVERS.parent / ".state"

# Python's drivers: Debian's, and the newest that there are.
VERSIONS = {"debian": {}, "newest": {"PYTHONPATH": str(STATE / "python")}}


def run(command, host, port, mode, environment) -> list[str]:
    """Runs a program and returns what it printed."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=100,
        env={**os.environ, "PGHOST": host, "PGPORT": str(port), "PGUSER": "scram", "PGPASSWORD": "scram-secret",
             "PGDATABASE": "shop", "POOL_MODE": mode, "PGTABLE": "driven",
             **environment})
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and lines[-1:] == ["done"], f"{mode}:\n{done.stdout[-5000:]}{done.stderr[-5000:]}"
    return lines


@pytest.fixture(scope="module")
def directly(pg):
    """What a program prints when it talks to PostgreSQL itself; each is run once."""
    seen: dict[tuple, list[str]] = {}

    def look(command, environment):
        key = tuple(map(str, command)), tuple(sorted(environment.items()))
        if key not in seen:
            seen[key] = run(command, pg.host, pg.port, "direct", environment)
            clear(pg)
        return seen[key]
    return look


def clear(pg):
    pg.admin("drop owned by scram", database="shop")


@pytest.fixture
def drive(doorman, pg, mode, directly):
    """Runs a program directly and through a pooler with a SCRAM user and four backends."""
    def through_both(*command, **environment):
        wanted = directly(command, environment)
        one = doorman(
            mode=mode,
            users=[{"username": "scram", "password": pg.verifier("scram"), "pool_size": 4}],
            general={"pg_hba": {"content": "host all all 127.0.0.1/32 scram-sha-256\n"}, "query_wait_timeout": "20s"})
        seen = run(command, one.host, one.port, mode, environment)
        assert seen == [line for line in wanted if mode == "session" or not line.startswith("session:")]
        assert len(pg.pids("scram")) <= 4
    clear(pg)
    yield through_both
    clear(pg)


@pytest.fixture(scope="module")
def go():
    """Compiles a Go program, once; the packages are Debian's."""
    programs: dict[str, list[Path]] = {}

    def build(name):
        if name not in programs:
            STATE.mkdir(exist_ok=True)
            program = STATE / f"go-{name}"
            environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
                           "GOCACHE": str(STATE / "go-cache")}
            done = subprocess.run(["go", "build", "-o", program, DRIVERS / name / "main.go"], env=environment,
                                  capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            programs[name] = [program]
        return programs[name]
    return build


@pytest.fixture(scope="module")
def java():
    """The Java program, compiled once."""
    classes = STATE / "java"
    classes.mkdir(parents=True, exist_ok=True)
    jar = "/usr/share/java/postgresql.jar"
    done = subprocess.run(["javac", "-cp", jar, "-d", classes, DRIVERS / "java/Main.java"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", f"{classes}:{jar}", "Main"]


@pytest.mark.limit(120)
@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_pgbench(drive, protocol):
    drive(DRIVERS / "pgbench/main.sh", PROTOCOL=protocol, PATH=f"{bin_dir()}:{os.environ['PATH']}")


@pytest.mark.limit(120)
@pytest.mark.parametrize("threshold", [{}, {"PREPARE_THRESHOLD": "0"}], ids=["default", "prepared-at-once"])
@pytest.mark.parametrize("version", VERSIONS)
def test_psycopg(drive, threshold, version):
    drive("/usr/bin/python3", DRIVERS / "psycopg/main.py", **threshold, **VERSIONS[version])


@pytest.mark.limit(120)
@pytest.mark.parametrize("version", VERSIONS)
def test_asyncpg(drive, version):
    drive("/usr/bin/python3", DRIVERS / "asyncpg/main.py", **VERSIONS[version])


@pytest.mark.limit(120)
@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_sqlalchemy(drive, driver):
    drive("/usr/bin/python3", DRIVERS / "sqlalchemy/main.py", DRIVER=driver, **VERSIONS["newest"])


@pytest.mark.limit(120)
def test_node_postgres(drive):
    drive("node", DRIVERS / "node/main.js", NODE_PATH=str(STATE / "node/node_modules"))


@pytest.mark.limit(120)
@pytest.mark.parametrize("properties", [
    "", "prepareThreshold=1 autosave=always",
    "prepareThreshold=1 adaptiveFetch=true defaultRowFetchSize=10 reWriteBatchedInserts=true",
], ids=lambda properties: properties or "default")
def test_jdbc(drive, java, properties):
    drive(*java, *properties.split())


@pytest.mark.limit(180)
@pytest.mark.parametrize("binary", ["no", "yes"], ids=["default", "one-batch"])
def test_go_pq(drive, go, binary):
    drive(*go("pq"), BINARY_PARAMETERS=binary)


@pytest.mark.limit(120)
@pytest.mark.parametrize("way", ["", "describe", "uncached", "exec", "simple"], ids=lambda way: way or "default")
def test_pgx(drive, go, way):
    drive(*go("pgx"), PGX=way)


@pytest.mark.limit(120)
def test_ruby_pg(drive):
    drive("ruby", DRIVERS / "ruby/main.rb")


@pytest.mark.limit(120)
@pytest.mark.parametrize("prepare", [{}, {"SERVER_PREPARE": "0"}, {"SERVER_PREPARE": "2"}], ids=["default", "never", "if-it-can"])
def test_perl_dbd_pg(drive, prepare):
    drive("perl", DRIVERS / "perl/main.pl", **prepare)


@pytest.mark.limit(120)
@pytest.mark.parametrize("emulate", [{}, {"EMULATE": "1"}], ids=["default", "emulated"])
def test_php_pdo(drive, emulate):
    drive("php", DRIVERS / "php/main.php", **emulate)
