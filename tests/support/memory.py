"""What a process holds in memory, and a long path to let it hold as much as it ever may."""

from __future__ import annotations

import collections
import contextlib
import socket
import threading
import time
from pathlib import Path
from typing import Self

from tests.support.polling import LIMIT_S

MIB = 1 << 20
CHUNK = 256 << 10


class Resident:
    """The resident memory of a process from now on: how much more it is, and was at the most."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._reset_peak()
        self._before = self._read("VmRSS")

    @property
    def grown(self) -> int:
        """Bytes more than at the start."""
        return self._read("VmRSS") - self._before

    @property
    def peak(self) -> int:
        """Bytes more than at the start, at the most, as the kernel counts it."""
        return self._read("VmHWM") - self._before

    def _reset_peak(self) -> None:
        Path(f"/proc/{self._pid}/clear_refs").write_text("5")  # proc(5): reset the peak resident set size

    def _read(self, name: str) -> int:
        for line in Path(f"/proc/{self._pid}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) << 10
        raise AssertionError(f"no {name} of {self._pid}")


class LongPath:
    """A relay on loopback between a client and `port`, with a delay each way and room for all that is on its way."""

    def __init__(self, port: int, delay_s: float) -> None:
        self._port = port
        self._delay_s = delay_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._run(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join(LIMIT_S)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._port))
            self._sockets += [near, far]
            for source, sink in ((near, far), (far, near)):
                on_its_way: collections.deque[tuple[float, bytes]] = collections.deque()
                came = threading.Condition()
                self._run(self._take, source, on_its_way, came)
                self._run(self._give, sink, on_its_way, came)

    def _take(
        self, source: socket.socket, on_its_way: collections.deque[tuple[float, bytes]], came: threading.Condition
    ) -> None:
        data = b"begin"
        while data:
            try:
                data = source.recv(CHUNK)
            except OSError:
                data = b""
            with came:
                on_its_way.append((time.monotonic() + self._delay_s, data))
                came.notify()

    def _give(
        self, sink: socket.socket, on_its_way: collections.deque[tuple[float, bytes]], came: threading.Condition
    ) -> None:
        while True:
            with came:
                while not on_its_way:
                    came.wait()
                at, data = on_its_way.popleft()
            time.sleep(max(0.0, at - time.monotonic()))
            try:
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)
            except OSError:
                return
