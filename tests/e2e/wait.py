"""Waiting for conditions.

The one place where a test sleeps: everything else names the condition it is
waiting for and a limit.
"""

import time
from typing import Callable, TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], timeout: float = 20.0, what: str = "") -> T:
    """Polls until the condition is true and returns its value; AssertionError after the limit."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what or condition} (last: {value!r})")
        time.sleep(0.01)


def stays(condition: Callable[[], object], seconds: float) -> bool:
    """Whether the condition stays true for that long: for what must not happen."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not condition():
            return False
        time.sleep(0.01)
    return True
