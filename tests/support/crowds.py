"""Crowds of connections that are up to no good, and one well-behaved client among them whose time is taken."""

from __future__ import annotations

import contextlib
import resource
import select
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import WraithClient, WraithServer
from tests.support.socks_client import exactly, through_socks5
from tests.support.targets import Target, echo

PING = b"still there?" * 50
MIB = 1 << 20


@contextlib.contextmanager
def many_descriptors(wanted: int) -> Iterator[None]:
    """Let this process open so many files, as far as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Connections to one port that say the same thing, or nothing."""

    def __init__(self, port: int, sources: Sequence[str] = ("127.0.0.1",)) -> None:
        """Come from `sources` in turn; all of 127.0.0.0/8 is this machine's."""
        self._port = port
        self._sources = sources
        self._open: list[socket.socket] = []
        self._poll = select.poll()
        self.came = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for each in self._open:
            each.close()

    def join(self, count: int, greeting: bytes = b"") -> None:
        """Let so many more come; each says `greeting` and nothing more."""
        for _ in range(count):
            source = self._sources[self.came % len(self._sources)]
            connection = socket.create_connection(("127.0.0.1", self._port), LIMIT_S, (source, 0))
            connection.setblocking(False)
            self._open.append(connection)
            self.came += 1
            _say(connection, greeting)

    @contextlib.contextmanager
    def keeps_coming(self, rate: int) -> Iterator[None]:
        """Let so many more come every second until the end of the block, each until it is ended or we are done."""
        over = threading.Event()

        def work() -> None:
            while not over.wait(1 / rate):
                with contextlib.suppress(OSError):
                    self.join(1)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(LIMIT_S)

    def say(self, data: bytes) -> None:
        """Have all that are left send this."""
        for each in self._open:
            _say(each, data)

    def leave(self, count: int) -> None:
        """Let those go that have been here longest."""
        for each in self._open[:count]:
            each.close()
        del self._open[:count]

    def left(self) -> int:
        """Count those that the server has not ended; the others are closed."""
        self._open = [each for each in self._open if not _has_ended(each)]
        return len(self._open)


def _say(connection: socket.socket, data: bytes) -> None:
    if data:
        with contextlib.suppress(OSError):  # it was ended
            connection.send(data)


def _has_ended(connection: socket.socket) -> bool:
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    connection.close()
    return True


class Wellbehaved:
    """A client that opens a channel, has something echoed and closes, again and again, in a thread."""

    def __init__(self, client: WraithClient) -> None:
        self._client = client
        self._target = Target(echo)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.seconds: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> Self:
        self._target.__enter__()
        self._thread.start()
        eventually(lambda: self.seconds or self.failures, "a first answer")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(LIMIT_S)
        self._target.__exit__()
        assert not self._thread.is_alive()

    def _work(self) -> None:
        while not self._over.wait(0.02):
            began = time.monotonic()
            try:
                with through_socks5(self._client.socks_port, "127.0.0.1", self._target.port) as connection:
                    connection.sendall(PING)
                    assert exactly(connection, len(PING)) == PING
            except (OSError, AssertionError) as error:
                self.failures.append(repr(error))
            self.seconds.append(time.monotonic() - began)

    def keeps_working(self, record: Callable[[str, object], None], what: str, limit_s: float = 5.0) -> None:
        """See that nothing failed or took long so far; say how long it took, and begin to count again."""
        eventually(lambda: self.seconds, f"{what}: an answer")
        seconds, self.seconds = self.seconds, []
        assert not self.failures, f"{what}: {self.failures[:3]}"
        median, worst = statistics.median(seconds), max(seconds)
        record(f"{what} median ms", round(median * 1000, 1))
        record(f"{what} worst ms", round(worst * 1000, 1))
        print(f"{what}: {len(seconds)} answers, median {median * 1000:.1f} ms, worst {worst * 1000:.0f} ms")
        assert worst < limit_s


class Footprint:
    """What a server holds, against what it held when this was made."""

    def __init__(self, server: WraithServer) -> None:
        self._server = server
        self._descriptors = server.descriptors()
        self._resident = _status(server.pid, "VmRSS")
        # 5 has the kernel count the largest size from here on.
        Path(f"/proc/{server.pid}/clear_refs").write_text("5")

    def grew_by_less_than(self, limit: int, record: Callable[[str, object], None], what: str) -> None:
        """See how large the server was at its largest."""
        grown = _status(self._server.pid, "VmHWM") - self._resident
        record(f"{what} MiB", round(grown / MIB, 1))
        print(f"{what}: the server grew by {grown / MIB:.1f} MiB at the most")
        assert grown < limit

    def is_released(self) -> None:
        """See that every descriptor of what came is closed, and that nothing went wrong."""
        eventually(lambda: self._server.descriptors() <= self._descriptors, "every descriptor is released", 40)
        assert "Traceback" not in self._server.log()
        assert "internal" not in self._server.log()


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    raise AssertionError(f"no {name}")


def client_hello() -> bytes:
    """Give the first bytes of a TLS client."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname="example.net")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()
