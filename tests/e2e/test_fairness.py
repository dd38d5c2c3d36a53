"""Users of one database who share its connections (max_db_connections) and are busy at the same time."""

from __future__ import annotations

import threading

import psycopg
import pytest

from wait import wait_until


@pytest.fixture
def busy(doorman, pg, background, mode):
    """Twelve clients of one user, who leave no connection unused, and no room for another user."""
    users = [{"username": name, "password": pg.verifier(name), "pool_size": 4, "server_username": name,
              "server_password": f"{name}-secret"} for name in ("app", "scram")]
    one = doorman(mode=mode, users=users, pool={"max_db_connections": 4},
                  general={"query_wait_timeout": "20s"})
    stop, errors, done = threading.Event(), [], [0]

    def work():
        try:
            while not stop.is_set():
                with one.connect() as client:
                    for _ in range(2):
                        client.execute("select pg_sleep(0.005)")
                        done[0] += 1
        except psycopg.Error as error:
            errors.append(error)

    workers = [background(work) for _ in range(12)]
    wait_until(lambda: one.waiting() > 0 and len(pg.pids("app")) == 4)
    yield one, done
    stop.set()
    for worker in workers:
        worker.result(20)
    assert errors == []
    assert len(pg.pids(None)) <= 4


def test_another_users_client_is_served_while_the_first_is_busy(busy):
    one, done = busy
    for _ in range(5):
        with one.connect(user="scram") as client:
            assert client.execute("select current_user").fetchone() == ("scram",)
    before = done[0]
    wait_until(lambda: done[0] > before + 50)
    (row,) = one.console("show pool_coordinator")
    assert row["evictions"] > 0 and row["exhaustions"] == 0
    assert row["current"] <= 4


def test_an_idle_connection_is_not_too_young_for_who_has_waited(doorman, pg):
    users = [{"username": name, "password": pg.verifier(name), "pool_size": 1, "server_username": name,
              "server_password": f"{name}-secret"} for name in ("app", "scram")]
    one = doorman(users=users, pool={"max_db_connections": 1, "min_connection_lifetime": "1h"})
    for user in ("app", "scram", "app"):
        assert one.connect(user=user).execute("select current_user").fetchone() == (user,)
