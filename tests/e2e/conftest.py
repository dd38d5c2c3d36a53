"""Fixtures: one PostgreSQL per run, one pooler per test, who signs certificates, a time limit for each test."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from certificates import Authority
from doorman import Doorman
from postgres import Postgres
from toml import to_toml
from wait import wait_until


@pytest.fixture(scope="session")
def pg():
    cluster = Postgres()
    try:
        yield cluster.start()
    finally:
        cluster.remove()


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    """Signs the certificates of servers."""
    return Authority(tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="module")
def clients(tmp_path_factory) -> Authority:
    """Signs the certificates of clients."""
    return Authority(tmp_path_factory.mktemp("clients"), name="clients")


@pytest.fixture
def doorman(pg, tmp_path_factory, request):
    """Starts poolers: `doorman(mode=..., size=..., general={...})`; see Doorman."""
    started: list[Doorman] = []

    def start(*arguments: str, terminal: bool = False, environment: dict | None = None, passed: tuple[int, ...] = (),
              **config) -> Doorman:
        one = Doorman(pg, tmp_path_factory.mktemp("doorman"), **config)
        started.append(one)
        return one.start(*arguments, terminal=terminal, environment=environment, passed=passed)

    yield start
    failed = request.node.stash.get(FAILED, False)
    problems = []
    for one in started:
        try:
            one.kill() if failed else one.stop()
        except AssertionError as problem:
            problems.append(problem)
            one.kill()
        if failed or problems:
            print(f"--- configuration\n{to_toml(one.config)}\n--- {one.log_path}\n{one.log()[-20000:]}")
    if failed or problems:
        pg.terminate(*pg.pids(None))
    wait_until(lambda: not pg.pids(None), what="no backend outlives its pooler")
    assert not problems, problems


@pytest.fixture(params=["transaction", "session"])
def mode(request):
    """For what must hold in both pool modes."""
    return request.param


@pytest.fixture
def background():
    """Runs calls in threads: `background(function, *arguments)` returns a future."""
    with ThreadPoolExecutor(max_workers=150) as executor:
        yield executor.submit


FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        item.stash[FAILED] = True


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call(item):
    """No test waits for ever."""
    marker = item.get_closest_marker("limit")
    seconds = marker.args[0] if marker else 60

    def too_long(_signal, _frame):
        raise TimeoutError(f"the test took longer than {seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(seconds)
    yield
    signal.alarm(0)
