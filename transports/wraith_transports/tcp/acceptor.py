"""Listens on TCP addresses; `[::]:port` is two sockets, IPv4 and IPv6, on the same port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import math
import os
import socket
from collections.abc import Sequence

from ..accepting import AcceptQueue
from ..addresses import format_address, socket_address
from ..errors import AddressUnavailable
from ..stream import DuplexStream
from ..transport import TransportInfo
from .stream import TcpStream
from .user_timeout import set_user_timeout

BACKLOG = 1024
SAME_PORT_ATTEMPTS = 20  # port 0 on two families: the second may find the first's number taken
PAUSE_WHEN_OUT_OF_FILES_S = 0.1
QUIET_WHEN_OUT_OF_FILES_S = 60.0  # it is said again when there were enough of them for so long

logger = logging.getLogger(__name__)


class TcpAcceptor:
    """Accepts on every address of one host and port."""

    def __init__(self, host: str, port: int, *, kind: str = "tcp", peer_always_reads: bool = False) -> None:
        """Say where to listen: host is a numeric address or a name; "::" and "" mean both families.

        A peer that always reads is taken for lost when it acknowledges nothing (user_timeout.py).
        """
        self._host = host
        self._port = port
        self._kind = kind
        self._peer_always_reads = peer_always_reads
        self._sockets: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._queue: AcceptQueue | None = None
        self._last_out_of_files_at = -math.inf

    async def start(self) -> None:
        """Bind and listen."""
        self._sockets = await _bind(self._host, self._port)
        self._queue = AcceptQueue()
        for sock in self._sockets:
            task = asyncio.create_task(self._accept_on(sock, self._queue))
            # Not in the task itself: one that is cancelled before its first step runs nothing.
            task.add_done_callback(lambda _, sock=sock: sock.close())  # type: ignore[misc]
            self._tasks.append(task)

    def addresses(self) -> Sequence[str]:
        """Say where it listens, with real ports."""
        return [f"{self._kind}://{format_address(*socket_address(sock.getsockname()))}" for sock in self._sockets]

    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        """Wait for the next connection."""
        if self._queue is None:
            raise RuntimeError("accept() before start()")
        return await self._queue.get()

    def stop(self) -> None:
        """Close the listening sockets."""
        for task in self._tasks:
            task.cancel()
        # The loop forgets a socket when its task ends; until then the descriptor stays open.
        if self._queue is not None:
            self._queue.close()

    async def aclose(self) -> None:
        """Stop, and wait until the sockets are closed."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _accept_on(self, sock: socket.socket, queue: AcceptQueue) -> None:
        """Take connections off one socket for as long as there is room for them."""
        loop = asyncio.get_running_loop()
        try:
            while not queue.closed:
                await queue.room()
                try:
                    connection, _ = await loop.sock_accept(sock)
                    if self._peer_always_reads:
                        set_user_timeout(connection)
                    stream = await TcpStream.from_socket(connection)
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                        self._say_out_of_files(loop.time())
                        await asyncio.sleep(PAUSE_WHEN_OUT_OF_FILES_S)
                    # Anything else belongs to the connection that was about to be accepted.
                    continue
                if not queue.offer(stream, TransportInfo(self._kind, stream.get_extra_info("peername"))):
                    stream.abort()
        except asyncio.CancelledError:
            pass

    def _say_out_of_files(self, now: float) -> None:
        # Once, although descriptors become free and are taken one by one, on two sockets.
        if now - self._last_out_of_files_at > QUIET_WHEN_OUT_OF_FILES_S:
            logger.error("no file descriptor is free: accepting pauses until one is")
        self._last_out_of_files_at = now


async def _bind(host: str, port: int) -> list[socket.socket]:
    if host in ("", "::", "*"):
        return _bind_both(port)
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        raise AddressUnavailable(f"cannot listen on {format_address(host, port)}: no such address here") from error
    bound: list[socket.socket] = []
    try:
        for family, name in dict.fromkeys((entry[0], entry[4]) for entry in found):
            real = name if not (port == 0 and bound) else (name[0], bound[0].getsockname()[1], *name[2:])
            bound.append(_listen(family, real))
    except OSError as error:
        _close_all(bound)
        raise _unavailable(host, port, error) from error
    return bound


def _bind_both(port: int) -> list[socket.socket]:
    """Bind :: and 0.0.0.0 to one port; a host without IPv6 gets the IPv4 socket alone."""
    for attempt in range(SAME_PORT_ATTEMPTS):
        bound: list[socket.socket] = []
        try:
            bound.append(_listen(socket.AF_INET, ("0.0.0.0", port)))  # noqa: S104 - the user asked for every address
        except OSError as error:
            raise _unavailable("0.0.0.0", port, error) from error  # noqa: S104
        real_port = bound[0].getsockname()[1]
        try:
            bound.append(_listen(socket.AF_INET6, ("::", real_port)))
        except OSError as error:
            if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT):
                return bound
            _close_all(bound)
            if port == 0 and error.errno == errno.EADDRINUSE and attempt < SAME_PORT_ATTEMPTS - 1:
                continue
            raise _unavailable("::", port, error) from error
        return bound
    raise AssertionError("unreachable")


def _listen(family: int, name: tuple[object, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if os.name == "posix":
            # On Windows SO_REUSEADDR would let another process take the port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(name)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_all(sockets: Sequence[socket.socket]) -> None:
    for sock in sockets:
        with contextlib.suppress(OSError):
            sock.close()


def _unavailable(host: str, port: int, error: OSError) -> AddressUnavailable:
    where = format_address(host, port)
    if error.errno in (errno.EACCES, errno.EPERM):
        return AddressUnavailable(f"cannot listen on {where}: ports below 1024 need privileges; choose another port")
    if error.errno == errno.EADDRINUSE:
        return AddressUnavailable(f"cannot listen on {where}: the port is in use; choose another port")
    return AddressUnavailable(f"cannot listen on {where}: {os.strerror(error.errno or 0).lower()}")
