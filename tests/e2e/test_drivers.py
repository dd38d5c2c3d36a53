"""Real drivers do their ordinary work through the pooler, in both pool modes.

Each is a small program under tests/drivers/. It finds the pooler in PGHOST,
PGPORT, PGUSER, PGPASSWORD and PGDATABASE, the pool mode in POOL_MODE and a
table name of its own in PGTABLE; it prints what it did and "done" at the end.
Their named statements are in use in both modes.
"""

import os
import subprocess
from pathlib import Path

import pytest

DRIVERS = Path(__file__).resolve().parents[1] / "drivers"
STATE = DRIVERS.parent / ".state"


@pytest.fixture(scope="module")
def go_program():
    """The Go program, compiled once; its packages are Debian's."""
    STATE.mkdir(exist_ok=True)
    program = STATE / "go-driver"
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOFLAGS": "",
                   "GOCACHE": str(STATE / "go-cache")}
    done = subprocess.run(["go", "build", "-o", program, DRIVERS / "go/main.go"], env=environment,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [program]


@pytest.fixture(scope="module")
def java_program():
    """The Java program, compiled once."""
    classes = STATE / "java"
    classes.mkdir(parents=True, exist_ok=True)
    jar = "/usr/share/java/postgresql.jar"
    done = subprocess.run(["javac", "-cp", jar, "-d", classes, DRIVERS / "java/Main.java"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{classes}:{jar}", "Main"]


@pytest.fixture
def drive(doorman, pg, mode):
    """Runs a program through a pooler with a SCRAM user and four backends."""
    def run(*command, **environment):
        one = doorman(
            mode=mode,
            users=[{"username": "scram", "password": pg.verifier("scram"), "pool_size": 4}],
            general={"pg_hba": {"content": "host all all 127.0.0.1/32 scram-sha-256\n"}, "query_wait_timeout": "20s"})
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=100,
            env={**os.environ, "PGHOST": one.host, "PGPORT": str(one.port), "PGUSER": "scram",
                 "PGPASSWORD": "scram-secret", "PGDATABASE": "shop", "POOL_MODE": mode, "PGTABLE": "driven",
                 **environment})
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.splitlines()[-1] == "done"
        assert len(pg.pids("scram")) <= 4
    pg.admin("drop table if exists driven", database="shop")
    return run


@pytest.mark.limit(120)
def test_psycopg(drive):
    drive("/usr/bin/python3", DRIVERS / "psycopg/main.py")


@pytest.mark.limit(120)
def test_psycopg_with_more_statements_than_it_keeps(drive):
    drive("/usr/bin/python3", DRIVERS / "psycopg/many_statements.py")


@pytest.mark.limit(120)
def test_asyncpg(drive):
    drive("/usr/bin/python3", DRIVERS / "asyncpg/main.py")


@pytest.mark.limit(120)
def test_node_postgres(drive):
    drive("node", DRIVERS / "node/main.js", NODE_PATH=str(STATE / "node/node_modules"))


@pytest.mark.limit(120)
@pytest.mark.parametrize("threshold", [None, "1"], ids=["default", "prepared-at-once"])
def test_jdbc(drive, java_program, threshold):
    drive(*java_program, **({"PREPARE_THRESHOLD": threshold} if threshold else {}))


@pytest.mark.limit(180)
@pytest.mark.parametrize("binary", ["no", "yes"], ids=["default", "one-batch"])
def test_go_pq(drive, go_program, binary):
    drive(*go_program, BINARY_PARAMETERS=binary)
