"""pgbench through the pooler: no error, and nothing left over."""

import os
import re
import subprocess

import pytest

from postgres import bin_dir
from wait import wait_until

SECONDS = int(os.environ.get("LOAD_SECONDS", "15"))


@pytest.fixture(scope="module")
def scale(pg):
    """pgbench's tables, in place."""
    pgbench(pg.host, pg.port, "-i", "-s", "1", "-q")
    yield
    pg.admin("drop table pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history", database="shop")


def pgbench(host, port, *arguments):
    """Runs pgbench; any error or aborted client fails."""
    program = os.path.join(bin_dir(), "pgbench")
    done = subprocess.run([program, "-h", host, "-p", str(port), "-U", "app", *arguments, "shop"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "aborted" not in done.stderr and "ERROR" not in done.stderr, done.stderr[-3000:]
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    assert failed is None or failed[1] == "0", done.stdout
    return done.stdout


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_forty_clients_on_four_backends(doorman, pg, scale, protocol):
    one = doorman(size=4, general={"query_wait_timeout": "30s"})
    # pgbench waits for each PREPARE with its whole thread, so clients of one thread that are in the middle
    # of a transaction would wait for each other: each gets a thread of its own.
    threads = "40" if protocol == "prepared" else "2"
    for script in ("-S", "-N"):
        pgbench(one.host, one.port, "-n", script, "-M", protocol, "-c", "40", "-j", threads, "-T", "2")
    assert len(pg.pids()) <= 4


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
def test_session_mode_with_a_backend_each(doorman, scale, protocol):
    one = doorman(mode="session", size=40)
    pgbench(one.host, one.port, "-n", "-S", "-M", protocol, "-c", "40", "-j", "2", "-T", "2")


def test_session_mode_takes_turns(doorman, pg, scale):
    """More clients than backends: who leaves makes room."""
    one = doorman(mode="session", size=4, general={"query_wait_timeout": "60s"})
    pgbench(one.host, one.port, "-n", "-S", "-c", "12", "-t", "50")
    assert len(pg.pids()) <= 4


@pytest.mark.parametrize("protocol", ["simple", "extended"])
def test_a_new_connection_for_each_transaction(doorman, scale, mode, protocol):
    one = doorman(mode=mode, size=8, general={"query_wait_timeout": "30s"})
    pgbench(one.host, one.port, "-n", "-S", "-C", "-M", protocol, "-c", "8", "-T", "2")


@pytest.mark.limit(200)
def test_120_clients_on_10_backends(doorman, pg, scale):
    """LOAD_SECONDS=60 for the full length. Afterwards all is as it was after the first second."""
    one = doorman(size=10, general={"query_wait_timeout": "30s"})

    def load(seconds):
        pgbench(one.host, one.port, "-n", "-b", "select-only@8", "-b", "simple-update@2", "-M", "extended", "-c",
                "120", "-j", "2", "-T", str(seconds))
        wait_until(lambda: int(one.pool()["cl_idle"]) + int(one.pool()["cl_active"]) == 0, what="all have left")
        wait_until(lambda: not one.open_transactions())
        wait_until(lambda: not pg.admin("select 1 from pg_stat_activity where usename = 'app' and state <> 'idle'"))
        return one.threads(), one.descriptors(), one.resident_kib()

    threads, descriptors, memory = load(2)
    *_, memory_after = load(SECONDS)
    assert len(pg.pids()) <= 10
    # Who has left is on its way out for a moment, the console's clients of this test too.
    wait_until(lambda: one.threads() <= threads + 2, what="there are as many threads as before")
    wait_until(lambda: one.descriptors() <= descriptors + 2, what="there are as many descriptors as before")
    assert memory_after <= memory + 8 * 1024
    assert "ERROR" not in one.log()


@pytest.mark.limit(120)
def test_clients_that_come_and_go_leave_nothing(doorman, scale, mode):
    one = doorman(mode=mode, size=8, general={"query_wait_timeout": "30s"})

    def churn(count):
        pgbench(one.host, one.port, "-n", "-S", "-C", "-c", "8", "-t", str(count))
        wait_until(lambda: int(one.pool()["cl_idle"]) + int(one.pool()["cl_active"]) == 0, what="all have left")
        return one.threads(), one.descriptors(), one.resident_kib()

    threads, descriptors, memory = churn(50)
    *_, memory_after = churn(300)
    # Threads wait a while for the next client; there is one for each of the eight that were here at once,
    # and one or two for those whose predecessor was still on its way out.
    wait_until(lambda: one.threads() <= threads + 2 * 8, what="threads have ended or are parked")
    # The pool may have grown to its full size in the meantime.
    wait_until(lambda: one.descriptors() <= descriptors + 8, what="descriptors are given back")
    assert memory_after <= memory + 4 * 1024
