"""The SOCKS port of `wraith connect`: carries each connection to the target it asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from wraith.errors import UsageError
from wraith.local_listener import MAX_CONNECTIONS, LocalListener
from wraith.logs import event
from wraith.opening import Opener, OpenFailed
from wraith.specs import SocksSpec, join_host_port
from wraith.waiting import WaitingStream
from wraith_transports import DuplexStream

from .credentials import Credentials
from .events import Refuse, Request, Send
from .front import Front
from .replies import failed, opened

STALL_TIMEOUT_S = 10.0  # for the whole handshake; a person's proxy client needs milliseconds

logger = logging.getLogger(__name__)


class SocksListener:
    """What `-D` starts. Names are sent to the other side as they are, never resolved here."""

    def __init__(
        self,
        spec: SocksSpec,
        opener: Opener,
        *,
        credentials: Credentials | None = None,
        open_to_all: bool = False,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """Say where to listen, and who may use it.

        With `credentials` every client must log in. Without, the address must be one that only this
        machine can reach, unless `open_to_all`.
        """
        self._spec = spec
        self._opener = opener
        self._credentials = credentials
        self._open_to_all = open_to_all
        self._stall_timeout_s = stall_timeout_s
        self._listener = LocalListener(spec.bind, self._serve, label=f"-D {spec}", max_connections=max_connections)

    async def start(self) -> None:
        """Bind, and accept from here on. Raises AddressUnavailable, or UsageError if strangers could use it."""
        await self._listener.bind()
        # Judged by what was bound, because a name may stand for any address.
        if self._credentials is None and not self._open_to_all and not self._listener.is_private():
            await self._listener.aclose()
            raise UsageError(
                f"-D {self._spec}: everybody who reaches this address could use the session without a password; "
                "bind 127.0.0.1, or give --socks5-auth-file or --socks5-open"
            )
        self._listener.begin()

    def addresses(self) -> Sequence[str]:
        """Where it listens, as `host:port` with the real port, or a path."""
        return self._listener.addresses()

    def stop(self) -> None:
        """Stop listening; connections live on. Idempotent."""
        self._listener.stop()

    async def aclose(self) -> None:
        """Stop, and end every connection. Idempotent; never raises."""
        await self._listener.aclose()

    async def _serve(self, stream: DuplexStream) -> None:
        conversation = _Conversation(stream, Front(self._credentials))
        try:
            async with asyncio.timeout(self._stall_timeout_s):
                request = await conversation.request
        except TimeoutError:
            event(logger, logging.INFO, "socks handshake stalled")
            await conversation.abort()
            return
        if request is None:
            await conversation.close()
        else:
            await self._carry_out(request, conversation)

    async def _carry_out(self, request: Request, conversation: WaitingStream) -> None:
        target = join_host_port(request.host, request.port)
        try:
            remote = await conversation.open(self._opener, request.host, request.port)
        except OpenFailed as error:
            event(logger, logging.INFO, "socks connection failed", target=target, reason=error.reason.value)
            conversation.stream.write(failed(request.protocol, error.reason))
            await conversation.close()
            return
        if remote is None:
            event(logger, logging.DEBUG, "socks client left", target=target)
            await conversation.close()
            return
        event(logger, logging.DEBUG, "socks connection opened", target=target)
        conversation.stream.write(opened(request.protocol))
        await conversation.join(remote)


class _Conversation(WaitingStream):
    """Answers the client until its request is known; what follows is held for the target."""

    def __init__(self, stream: DuplexStream, front: Front) -> None:
        self._front = front
        # None: the client was refused, or went away first.
        self.request: asyncio.Future[Request | None] = asyncio.get_running_loop().create_future()
        super().__init__(stream, leaves_at_end=True)

    def data_received(self, data: bytes) -> None:
        if self.request.done():
            super().data_received(data)
            return
        for found in self._front.feed(data):
            match found:
                case Send():
                    self.stream.write(found.data)
                case Request():
                    super().data_received(found.unread)
                    self.request.set_result(found)
                case Refuse():
                    event(logger, logging.INFO, "socks request refused", reason=found.why)
                    self.stream.write(found.data)
                    self.stream.close()
                    self.request.set_result(None)

    def eof_received(self) -> bool:
        self._give_up()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._give_up()
        super().connection_lost(exc)

    def _give_up(self) -> None:
        if not self.request.done():
            self.request.set_result(None)
