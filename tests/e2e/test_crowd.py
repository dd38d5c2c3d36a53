"""Hundreds of silent clients in the moments after an upgrade, when the new process has not got a thread for each."""

import signal
from pathlib import Path

import pytest

from wait import wait_until
from wire import error, query, rows, terminate

MANY = 400


@pytest.fixture
def crowded(doorman):
    """A pooler that has just been upgraded: `one, crowd = crowded()`."""
    def start(**config):
        one = doorman(**config)
        crowd = [one.raw() for _ in range(MANY)]
        one.upgrade()
        return one, crowd
    return start


def threads(one):
    return [comm.read_text().strip() for comm in Path(f"/proc/{one.process.pid}/task").glob("*/comm")]


def all_are_told(crowd, code):
    return {error(raw.read_until("Z")).code for raw in crowd} == {code} and all(raw.at_end() for raw in crowd)


def test_all_speak_at_once(crowded, mode):
    one, crowd = crowded(mode=mode, user={"min_pool_size": 1})
    for n, raw in enumerate(crowd):
        raw.send(query(f"select {n}"))
        if mode == "session":
            assert rows(raw.read_until("Z")) == [[b"%d" % n]]
            raw.close()
    if mode == "transaction":
        assert [rows(raw.read_until("Z")) for raw in crowd] == [[[b"%d" % n]] for n in range(MANY)]
        assert [raw.value(f"select {n} + 1") for n, raw in enumerate(crowd)] == [str(n + 1) for n in range(MANY)]


def test_those_who_say_nothing_have_no_thread(crowded):
    one, crowd = crowded()
    assert not any(name.endswith(" app@shop") for name in threads(one))
    assert {row["thread"] for row in one.console("show clients") if row["database"] == "shop"} == {"clients 1"}
    assert all(raw.value("select 1") == "1" for raw in crowd)


def test_the_next_upgrade_comes_at_once(crowded):
    one, crowd = crowded()
    for _ in range(3):
        one.upgrade()
    assert all(raw.value("select 1") == "1" for raw in crowd)


def test_they_are_told_that_the_pooler_stops(crowded):
    one, crowd = crowded()
    one.signal(signal.SIGTERM)
    assert all_are_told(crowd, "57P01")
    assert one.wait() == 0


def test_they_are_told_that_their_pool_is_gone(crowded):
    one, crowd = crowded()
    one.config["pools"] = {"other": one.config["pools"]["shop"]}
    one.reload()
    assert all_are_told(crowd, "58006")


def test_they_leave(crowded):
    one, crowd = crowded()
    for raw in crowd[1:]:
        raw.close()
    wait_until(lambda: len(one.console("show clients")) == 2)
    assert crowd[0].value("select 1") == "1"


def test_a_question_may_take_longer_to_ask_than_to_wait(crowded):
    """How long a client waits for a server is counted from its question, not from its first word."""
    one, crowd = crowded(general={"query_wait_timeout": "2s"}, user={"pool_size": 1})
    question, other = query("select 1"), crowd[1]
    crowd[0].send(question[:3])
    other.ask(query("begin"))
    other.value("select pg_sleep(2.2)::text")
    crowd[0].send(question[3:])
    wait_until(lambda: one.waiting() == 1)
    other.ask(query("commit"))
    assert rows(crowd[0].read_until("Z")) == [[b"1"]]


def test_no_server_connection_is_lost_or_held_whatever_they_ask(crowded, pg):
    """A thread that has one answer takes the server connection along to the next question. (In a smaller pool others
    with a thread, who came before, wait for it.)
    """
    one, crowd = crowded(user={"pool_size": 8})
    begins, halves, errs, leaves = crowd[0:2], crowd[2:40], crowd[40:80], crowd[80:120]
    question = query("select 1")
    for raw in begins:
        raw.send(query("begin"))
    for raw in halves:
        raw.send(question[:7])
    for raw in errs:
        raw.send(query("select 1/0"))
    for raw in leaves:
        raw.send(question, terminate())
    for raw in crowd[120:]:
        raw.send(question)
    assert all(rows(raw.read_until("Z")) == [[b"1"]] for raw in crowd[120:])
    assert {error(raw.read_until("Z")).code for raw in errs} == {"22012"}
    for raw in begins:
        raw.read_until("Z")
    wait_until(lambda: int(one.pool()["sv_active"]) == 2)
    for raw in halves:
        raw.send(question[7:])
    assert all(rows(raw.read_until("Z")) == [[b"1"]] for raw in halves)
    for raw in begins:
        raw.ask(query("commit"))
    wait_until(lambda: int(one.pool()["sv_active"]) == 0)
    assert len(pg.pids()) == int(one.pool()["sv_idle"]) <= 8


def test_some_hang_up_before_it_is_their_turn(crowded, pg):
    one, crowd = crowded(user={"pool_size": 8})
    stay, vanish = crowd[0::2], crowd[1::2]
    for one_stays, one_vanishes in zip(stay, vanish):
        one_stays.send(query("select 1"))
        one_vanishes.send(query("select 1"))
        one_vanishes.close()
    assert all(rows(raw.read_until("Z")) == [[b"1"]] for raw in stay)
    wait_until(lambda: len(one.console("show clients")) == len(stay) + 1)
    wait_until(lambda: int(one.pool()["sv_active"]) == 0)
    assert len(pg.pids()) <= 8


def test_who_waited_before_they_asked_is_served_before_them(crowded, pg):
    one, crowd = crowded(user={"pool_size": 1})
    pg.admin("drop sequence if exists turns", database="shop")
    pg.admin("create sequence turns", database="shop")
    pg.admin("grant all on sequence turns to public", database="shop")
    turn = query("select nextval('turns')")
    holder, waits = one.raw(), one.raw()
    holder.ask(query("begin"))
    waits.send(turn)
    wait_until(lambda: one.waiting() == 1)
    for raw in crowd:
        raw.send(turn)
    wait_until(lambda: one.waiting() > 20)
    holder.ask(query("commit"))
    assert rows(waits.read_until("Z")) == [[b"1"]]
    assert sorted(int(rows(raw.read_until("Z"))[0][0]) for raw in crowd) == list(range(2, MANY + 2))
