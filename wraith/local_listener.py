"""Accepts connections on this machine and looks after one task for each."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence

from wraith_transports import AcceptorClosed, DuplexStream
from wraith_transports import AddressUnavailable as TransportAddressUnavailable
from wraith_transports.tcp import TcpAcceptor

from .errors import AddressUnavailable
from .specs import LOCALHOST, TcpBind, UnixBind, parse_target
from .unix_acceptor import UnixAcceptor

MAX_CONNECTIONS = 1024  # at once; as many channels as a session may have
SAME_PORT_ATTEMPTS = 20  # port 0 on both loopback addresses: the second may find the first's number taken

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)

Acceptor = TcpAcceptor | UnixAcceptor
Serve = Callable[[DuplexStream], Awaitable[None]]

logger = logging.getLogger(__name__)


class LocalListener:
    """Binds one address of `-D` or `-L`, which may be several sockets.

    `serve` is awaited for each connection and owns its stream; when it raises, that stream is
    aborted and the listener goes on. At `max_connections` accepting pauses.
    """

    def __init__(
        self, bind: TcpBind | UnixBind, serve: Serve, *, label: str, max_connections: int = MAX_CONNECTIONS
    ) -> None:
        """Say where to listen; `label` is how errors name it to the user."""
        self._bind = bind
        self._serve = serve
        self._label = label
        self._max_connections = max_connections
        self._acceptors: list[Acceptor] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()

    async def bind(self) -> None:
        """Bind and listen; connections wait until begin(). Raises AddressUnavailable, and then nothing stays bound."""
        try:
            self._acceptors = await _bound(self._bind)
        except TransportAddressUnavailable as error:
            raise AddressUnavailable(f"{self._label}: {error}") from error

    def begin(self) -> None:
        """Accept."""
        self._accepting = [asyncio.create_task(self._accept_from(acceptor)) for acceptor in self._acceptors]

    def addresses(self) -> Sequence[str]:
        """Where it listens, as `host:port` with the real port, or a path."""
        return [address for acceptor in self._acceptors for address in _addresses(acceptor)]

    def is_private(self) -> bool:
        """Whether only this machine can reach every address it is bound to."""
        return isinstance(self._bind, UnixBind) or all(
            ipaddress.ip_address(parse_target(address).host).is_loopback for address in self.addresses()
        )

    def stop(self) -> None:
        """Stop listening; connections live on. Idempotent."""
        for acceptor in self._acceptors:
            acceptor.stop()
        for task in self._accepting:
            task.cancel()

    async def aclose(self) -> None:
        """Stop, and end every connection. Idempotent; never raises."""
        self.stop()
        for task in self._connections:
            task.cancel()
        tasks = [*self._accepting, *self._connections]
        if tasks:
            await asyncio.wait(tasks)
        for acceptor in self._acceptors:
            await acceptor.aclose()
        # What was aborted above leaves the loop on its next turn.
        await asyncio.sleep(0)

    async def _accept_from(self, acceptor: Acceptor) -> None:
        while True:
            await self._room.wait()
            try:
                accepted = await acceptor.accept()
            except AcceptorClosed:
                return
            self._look_after(accepted[0] if isinstance(accepted, tuple) else accepted)

    def _look_after(self, stream: DuplexStream) -> None:
        task = asyncio.create_task(self._contain(stream))
        self._connections.add(task)
        task.add_done_callback(self._forget)
        if len(self._connections) >= self._max_connections:
            self._room.clear()

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._room.set()

    async def _contain(self, stream: DuplexStream) -> None:
        try:
            await self._serve(stream)
        except Exception:
            # The boundary of one connection: whatever went wrong in it ends here.
            logger.exception("a local connection failed")
            stream.abort()
        except BaseException:
            stream.abort()
            raise


def _addresses(acceptor: Acceptor) -> list[str]:
    return [address.removeprefix("tcp://") for address in acceptor.addresses()]


async def _bound(bind: TcpBind | UnixBind) -> list[Acceptor]:
    if isinstance(bind, TcpBind) and bind.host == LOCALHOST:
        return await _bound_to_localhost(bind.port)
    acceptor = UnixAcceptor(bind.path) if isinstance(bind, UnixBind) else TcpAcceptor(bind.host, bind.port)
    await acceptor.start()
    return [acceptor]


async def _bound_to_localhost(port: int) -> list[Acceptor]:
    """Bind 127.0.0.1 and ::1 to one port; a host without IPv6 gets the first alone."""
    for attempt in range(SAME_PORT_ATTEMPTS):
        first = TcpAcceptor("127.0.0.1", port)
        await first.start()
        second = TcpAcceptor("::1", parse_target(first.addresses()[0]).port or port)
        try:
            await second.start()
        except TransportAddressUnavailable as error:
            number = error.__cause__.errno if isinstance(error.__cause__, OSError) else None
            if number in _NO_SUCH_FAMILY:
                return [first]
            await first.aclose()
            if port == 0 and number == errno.EADDRINUSE and attempt < SAME_PORT_ATTEMPTS - 1:
                continue
            raise
        except BaseException:
            await first.aclose()
            raise
        return [first, second]
    raise AssertionError("unreachable")
