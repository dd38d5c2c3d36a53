"""A service manager, as far as a service can tell: the socket that NOTIFY_SOCKET names."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

from wait import wait_until


class Manager:
    """Hears what is said and by which process."""

    def __init__(self, path: Path):
        self.path = path
        self.heard: list[tuple[int, dict[str, str]]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._socket.bind(str(path))

    @property
    def environment(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}

    def _listen(self) -> None:
        while True:
            try:
                text, ancillary, _, _ = self._socket.recvmsg(4096, socket.CMSG_SPACE(12))
            except BlockingIOError:
                return
            (pid,) = (struct.unpack("iII", data)[0] for level, kind, data in ancillary
                      if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS))
            self.heard.append((pid, dict(line.split("=", 1) for line in text.decode().splitlines())))

    def said(self, name: str, value: str | None = None, after: int = 0) -> tuple[int, dict[str, str]]:
        """Waits until this was said, not counting the first `after` messages; who said it, with what else."""
        def look():
            self._listen()
            return next((message for message in self.heard[after:]
                         if name in message[1] and value in (None, message[1][name])), None)
        return wait_until(look, 10, f"{name} is said (heard: {self.heard})")

    def all(self) -> list[tuple[int, dict[str, str]]]:
        self._listen()
        return self.heard

    def close(self) -> None:
        self._socket.close()
