"""What an operator is told of an upgrade, by whatever way it was asked for."""

import signal

import pytest

from doorman import ADMIN_PASSWORD
from test_upgrade import DIES, HANGS, IN_EARNEST, REFUSES, scene  # noqa: F401
from wait import wait_until
from wire import error, kinds, query, rows


def at_console(one):
    return one.raw(user="admin", database="pgdoorman", password=ADMIN_PASSWORD)


# UPGRADE on the console

def test_the_console_tells_how_the_upgrade_went(doorman):
    one = doorman()
    crowd = [one.raw() for _ in range(7)]
    asker, bystander = at_console(one), at_console(one)
    asker.send(query("upgrade"))
    seen = asker.read_until("Z")
    assert kinds(seen) == "TDCZ" and seen[2].tag == "UPGRADE"
    ((success, moved, longest),) = rows(seen)
    assert (success, moved) == (b"t", b"9") and 0 < float(longest) < 10_000
    one.succeeded()
    said = one.wait_log("upgrade complete: 9 sessions moved, the longest was held for (.*)").group(1)
    assert f"took over from the predecessor: 9 sessions moved, the longest was held for {said}" in one.log()
    for raw in crowd:
        assert raw.value("select 1") == "1"
    for console in asker, bystander:
        assert kinds(console.ask(query("show version"))) == "TDCZ"


def test_what_is_asked_behind_upgrade_is_answered_by_the_new_process(doorman):
    one = doorman()
    asker = at_console(one)
    for n in range(3):
        asker.send(query("upgrade"), query("show version"))
        assert kinds(asker.read_until("Z")) == "TDCZ"
        one.succeeded()
        assert kinds(asker.read_until("Z")) == "TDCZ"


@pytest.mark.parametrize("script, why", [
    (REFUSES, "-t ended with"), (HANGS, "did not finish"), (IN_EARNEST + DIES, "signal: 9"),
    (IN_EARNEST + HANGS, "was not ready"),
])
def test_the_console_tells_why_the_upgrade_was_abandoned(scene, script, why):  # noqa: F811
    scene.install(script)
    asker = at_console(scene.one)
    for n in range(2):
        said = error(asker.ask(query("upgrade")))
        assert said.code == "58000" and why in said.text, said.text
        assert why in scene.one.abandoned(n + 1)
    scene.check()
    scene.restore()
    assert rows(asker.ask(query("upgrade")))
    scene.one.succeeded()


def test_a_second_upgrade_on_the_console_is_refused(scene):  # noqa: F811
    scene.install(IN_EARNEST + HANGS)
    first, second = at_console(scene.one), at_console(scene.one)
    first.send(query("upgrade"))
    scene.one.wait_log("upgrading to")
    said = error(second.ask(query("upgrade")))
    assert said.code == "55000" and "under way" in said.text
    assert error(first.read_until("Z")).code == "58000"
    scene.check()


def test_the_asker_leaves_before_it_is_answered(scene):  # noqa: F811
    scene.install(IN_EARNEST + HANGS)
    asker = at_console(scene.one)
    asker.send(query("upgrade"))
    scene.one.wait_log("upgrading to")
    asker.close()
    scene.one.abandoned()
    scene.check()
    wait_until(lambda: len([row for row in scene.one.console("show clients") if row["database"] == "pgdoorman"]) == 1)


def test_no_upgrade_during_a_shutdown(doorman):
    one = doorman(terminal=True)
    holder, asker = one.raw(), at_console(one)
    holder.ask(query("begin"))
    one.signal(signal.SIGINT)
    one.wait_log("shutting down")
    said = error(asker.ask(query("upgrade")))
    assert said.code == "55000" and "shutting down" in said.text
    holder.ask(query("commit"))
    assert one.wait() == 0
