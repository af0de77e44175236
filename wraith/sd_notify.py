"""Tells the service manager that started the process how it is, as sd_notify(3) describes."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, MutableMapping

SEND_TIMEOUT_S = 0.5  # a manager whose queue is full is slow, and then loses a line rather than hold us up
MAX_STATUS = 256  # characters; `systemctl status` shows one line
USEC = 1_000_000

_SOCKET = "NOTIFY_SOCKET"
_WATCHDOG = "WATCHDOG_USEC"
_WATCHDOG_PID = "WATCHDOG_PID"


class ServiceManager:
    """The manager to tell, or nobody. Nothing here raises: a manager that is gone is no reason to stop."""

    def __init__(
        self, address: str = "", *, watchdog_usec: int = 0, clock_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        """Prepare to send to a unix socket: a path, or @ and an abstract name. None is connected to yet."""
        # An abstract name begins with a null byte, which the environment cannot hold.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog_usec = watchdog_usec
        self._clock_ns = clock_ns
        self._status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str], pid: int) -> ServiceManager:
        """Take NOTIFY_SOCKET and the watchdog's variables out of an environment, so that no child speaks for us."""
        address = environment.pop(_SOCKET, "")
        usec, watched = environment.pop(_WATCHDOG, ""), environment.pop(_WATCHDOG_PID, "")
        if not address.startswith(("/", "@")):  # vsock: and what may come; all else is not ours to guess
            return cls()
        meant = watched in ("", str(pid)) and usec.isascii() and usec.isdigit()
        return cls(address, watchdog_usec=int(usec[:18]) if meant else 0)

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._address)

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often `alive` has to be called: at half the time the manager waits, as it recommends; None: never."""
        return self._watchdog_usec / USEC / 2 if self._watchdog_usec and self.listens else None

    def ready(self, status: str = "") -> None:
        """Say that the start, or a reload, is over."""
        self._send("READY=1", status=status)

    def reloading(self) -> None:
        """Say that the configuration is being read again; `ready` ends it."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={self._clock_ns() // 1000}")

    def stopping(self) -> None:
        """Say that the process is about to end."""
        self._send("STOPPING=1", status="stopping")

    def status(self, text: str) -> None:
        """Show a line of text to whoever asks for the status; sent when it is another than the last."""
        self._send(status=text)

    def alive(self) -> None:
        """Keep the manager from taking the process for hung."""
        self._send("WATCHDOG=1")

    def _send(self, *assignments: str, status: str = "") -> None:
        # A line end would begin another assignment.
        line = "".join(each if each.isprintable() else "?" for each in status[:MAX_STATUS])
        if line and line != self._status:
            assignments += (f"STATUS={line}",)
        if not (self._address and assignments):
            return
        # A socket for each datagram: the manager may be started anew, and its socket with it.
        with contextlib.suppress(OSError, ValueError), _datagram_socket() as sock:
            sock.settimeout(SEND_TIMEOUT_S)
            sock.sendto("\n".join(assignments).encode("utf-8", "replace"), os.fsencode(self._address))
            if line:
                self._status = line  # one that a full queue turned away is said again


def _datagram_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | getattr(socket, "SOCK_CLOEXEC", 0))
