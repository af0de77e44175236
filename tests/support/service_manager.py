"""A service manager's side of NOTIFY_SOCKET."""

from __future__ import annotations

import itertools
import os
import select
import socket
import time
from pathlib import Path
from typing import Self

from tests.support.polling import LIMIT_S

_numbers = itertools.count(1)


class ManagerSocket:
    """Hears what a service tells its manager, each datagram as its lines."""

    def __init__(self, folder: Path | None = None) -> None:
        """Listen on a path in `folder`, or on an abstract name."""
        name = f"wraith-notify-{os.getpid()}-{next(_numbers)}"
        self.address = f"@{name}" if folder is None else str(folder / name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + name if folder is None else self.address)
        self._socket.setblocking(False)
        self.heard: list[list[str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def next(self, limit_s: float = LIMIT_S) -> list[str]:
        """Wait for the next datagram."""
        assert select.select([self._socket], [], [], max(0.0, limit_s))[0], f"nothing more after {self.heard}"
        self.heard.append(self._socket.recv(4096).decode().split("\n"))
        return self.heard[-1]

    def wait_for(self, line: str) -> list[str]:
        """Wait for a datagram with a line that begins so."""
        deadline = time.monotonic() + LIMIT_S
        while not any(each.startswith(line) for each in self.next(deadline - time.monotonic())):
            pass
        return self.heard[-1]

    def rest(self) -> list[list[str]]:
        """Take what has arrived since."""
        before = len(self.heard)
        while select.select([self._socket], [], [], 0)[0]:
            self.next()
        return self.heard[before:]
