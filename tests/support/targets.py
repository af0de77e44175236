"""Targets on loopback that a tunnel is asked for: well behaved, half closed, silent, refusing."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Self

from tests.support.polling import LIMIT_S

CHUNK = 256 << 10
NO_LINGER = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing resets

Handler = Callable[[socket.socket], None]


class Target:
    """A listener on loopback that hands every connection to `handler`, in a thread of its own."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1") -> None:
        self._handler = handler
        self._listener = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._listener.listen(1024)
        self.host = host
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = False
        self.accepted = 0

    def __enter__(self) -> Self:
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._listener.close()
        self._accepting.join(LIMIT_S)
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive(), "a target's handler did not end"

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self.accepted += 1
                self._connections.add(connection)
                self._threads = [each for each in self._threads if each.is_alive()]
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # the peer left: the other end is what the test looks at
                self._handler(connection)
        finally:
            with self._lock:
                self._connections.discard(connection)
            connection.close()


def read_to_end(connection: socket.socket) -> tuple[int, str]:
    """Read until the peer's end of stream; the number of bytes and their SHA-256."""
    digest, size = hashlib.sha256(), 0
    while chunk := connection.recv(CHUNK):
        digest.update(chunk)
        size += len(chunk)
    return size, digest.hexdigest()


def read_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read an HTTP head; it, and what came after it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(CHUNK)
        if not chunk:
            raise ConnectionError("the peer left within the head")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def http_answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def echo(connection: socket.socket) -> None:
    """Send everything back, and end when the peer has."""
    while chunk := connection.recv(CHUNK):
        connection.sendall(chunk)


def answer_after_end(connection: socket.socket) -> None:
    """Read to the peer's end of stream, and only then answer: the size and SHA-256 of what came."""
    size, digest = read_to_end(connection)
    connection.sendall(f"{size} {digest}\n".encode())


def end_first(connection: socket.socket) -> None:
    """Say something and end that direction at once; then read to the end, and say so by closing."""
    connection.sendall(b"goodbye\n")
    connection.shutdown(socket.SHUT_WR)
    read_to_end(connection)


def set_to_reset(connection: socket.socket) -> None:
    """Make closing this connection a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)


def cut_off(connection: socket.socket) -> None:
    """Answer an HTTP request with half a page of unknown length, and reset."""
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf a page")
    connection.recv(1)  # until the page was read, which a reset could overtake
    set_to_reset(connection)


def answer_with_digest(connection: socket.socket) -> None:
    """Answer an HTTP upload that has a Content-Length with the body's SHA-256."""
    head, rest = read_head(connection)
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    missing = int(fields[b"content-length"]) - len(rest)
    digest = hashlib.sha256(rest)
    if fields.get(b"expect") == b"100-continue":
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while missing:
        chunk = connection.recv(min(CHUNK, missing))
        if not chunk:
            return
        digest.update(chunk)
        missing -= len(chunk)
    connection.sendall(http_answer(digest.hexdigest().encode()))


def send_for_ever(connection: socket.socket) -> None:
    """Answer an HTTP request with a page that has no end, as fast as the peer takes it."""
    read_head(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    block = bytes(CHUNK)
    while True:
        connection.sendall(block)


@contextlib.contextmanager
def refusing(host: str = "127.0.0.1") -> Iterator[int]:
    """Hold a port on which nothing listens, so that every connection is refused."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as held:
        held.bind((host, 0))
        yield held.getsockname()[1]


@contextlib.contextmanager
def never_answering() -> Iterator[int]:
    """Hold a port whose connections never come about: the kernel drops a SYN once the backlog is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # Linux takes one more than the backlog says
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
