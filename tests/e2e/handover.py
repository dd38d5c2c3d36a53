"""The steps of a hand-over, seen from outside, and a blow at one of them; see handover.c."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

SIDES = ("predecessor", "successor")


def preloaded(name: str, directory: Path) -> Path:
    """Compiles what is to be preloaded, from the file of this name beside this one."""
    library = directory / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    return library


class Steps:
    """What one pooler and its successors do, and what is to happen to them."""

    def __init__(self, library: Path, directory: Path):
        self.plan = directory / "plan"
        self.record = directory / "steps"
        self.recording = directory / "recording"
        self.environment = {"LD_PRELOAD": str(library), "HANDOVER_PLAN": str(self.plan),
                            "HANDOVER_STEPS": str(self.record), "HANDOVER_RECORD": str(self.recording)}

    def strike(self, *lines: str) -> None:
        """From now on this happens; nothing if nothing is said."""
        new = self.plan.with_suffix(".new")
        new.write_text("".join(line + "\n" for line in lines))
        new.rename(self.plan)

    def kill(self, side: str, call: str, number: int) -> None:
        """Kills that side after its step with this number."""
        self.strike(f"{side} {call} {number} {int(signal.SIGKILL)}")

    def stop(self, side: str, call: str, number: int) -> None:
        """Stops that side there; it does not end by itself."""
        self.strike(f"{side} {call} {number} {int(signal.SIGSTOP)}")

    def taken(self) -> list[str]:
        """All steps taken so far, as "SIDE CALL"."""
        return self.record.read_text().splitlines() if self.record.exists() else []

    def write_down(self) -> None:
        """From now on what both sides send is recorded."""
        self.recording.mkdir()

    def forget(self) -> None:
        self.record.unlink(missing_ok=True)
