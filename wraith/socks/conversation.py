"""One conversation with a SOCKS client, on whatever stream it comes by, up to the end of its connection."""

from __future__ import annotations

import asyncio
import logging

from wraith.logs import event
from wraith.opening import Opener, OpenFailed
from wraith.specs import TcpTarget
from wraith.waiting import WaitingStream
from wraith_transports import DuplexStream

from .credentials import Credentials
from .events import Refuse, Request, Send
from .front import Front
from .replies import failed, opened

STALL_TIMEOUT_S = 10.0  # for the whole handshake; a person's proxy client needs milliseconds

logger = logging.getLogger(__name__)


async def serve_socks(
    stream: DuplexStream,
    opener: Opener,
    credentials: Credentials | None = None,
    *,
    stall_timeout_s: float = STALL_TIMEOUT_S,
) -> None:
    """Hear what the client on `stream` wants and carry it out; returns when its connection has ended."""
    conversation = _Conversation(stream, Front(credentials))
    try:
        async with asyncio.timeout(stall_timeout_s):
            request = await conversation.request
    except TimeoutError:
        event(logger, logging.INFO, "socks handshake stalled")
        await conversation.abort()
        return
    if request is None:
        await conversation.close()
    else:
        await _carry_out(request, conversation, opener)


async def _carry_out(request: Request, conversation: WaitingStream, opener: Opener) -> None:
    target = TcpTarget(request.host, request.port)
    try:
        remote = await conversation.open(opener, target)
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
