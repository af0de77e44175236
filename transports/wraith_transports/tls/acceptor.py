"""Accepts TLS streams from what another acceptor accepts."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..accepting import AcceptQueue
from ..addresses import site_of
from ..errors import AcceptorClosed
from ..scratch import read_buffer
from ..stream import DuplexStream
from ..transport import TransportAcceptor, TransportInfo
from .contexts import ContextSource
from .face import plain_http_answer
from .hello import ClientHello, Hello, HelloProgress, HelloReader, Malformed, NotTls, TooLong
from .stream import TlsStream

HANDSHAKE_TIMEOUT_S = 10.0  # from the connection to the end of the handshake, hello included
MAX_HANDSHAKES = 256  # connections that are not yet, or no longer, TLS streams; each costs a descriptor and some 40 KiB

# Fatal alerts as records, sent before OpenSSL has seen a byte.
NO_ALPN_ALERT = b"\x15\x03\x03\x00\x02\x02\x78"  # no_application_protocol (RFC 7301, section 3.2)
TOO_LONG_ALERT = b"\x15\x03\x03\x00\x02\x02\x2f"  # illegal_parameter, OpenSSL's answer to an excessive message

logger = logging.getLogger(__name__)


class TlsAcceptor:
    """A TransportAcceptor around another one.

    Every connection has a slot from when it is accepted below until it is handed out or has ended. When all
    are taken, the one that has been silent longest makes room for the next: where one address has more than
    half, of those.
    """

    def __init__(
        self,
        inner: TransportAcceptor,
        contexts: ContextSource,
        *,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        max_handshakes: int = MAX_HANDSHAKES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Wrap `inner`, which this owns from here on; `contexts` says what each connection is served with."""
        self._inner = inner
        self._contexts = contexts
        self._timeout_s = handshake_timeout_s
        self._max_handshakes = max_handshakes
        self._clock = clock
        self._slots: OrderedDict[DuplexStream, _Slot] = OrderedDict()  # the longest silent first
        self._queue: AcceptQueue | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and listen."""
        await self._inner.start()
        self._queue = AcceptQueue()
        self._pump = asyncio.create_task(self._accept_inner(self._queue))

    def addresses(self) -> Sequence[str]:
        """Say where it listens."""
        return ["tls://" + address.partition("://")[2] for address in self._inner.addresses()]

    async def accept(self) -> tuple[DuplexStream, TransportInfo]:
        """Wait for the next stream whose handshake is complete."""
        if self._queue is None:
            raise RuntimeError("accept() before start()")
        return await self._queue.get()

    def stop(self) -> None:
        """Stop listening, and end what nobody has accepted."""
        self._inner.stop()
        if self._queue is not None:
            self._queue.close()
        if self._pump is not None:
            self._pump.cancel()

    async def aclose(self) -> None:
        """Stop, and wait until everything is released."""
        self.stop()
        if self._pump is not None:
            await asyncio.wait([self._pump])
        await self._inner.aclose()

    # One task, and below it one for each slot

    async def _accept_inner(self, queue: AcceptQueue) -> None:
        try:
            async with asyncio.TaskGroup() as handshakes:
                while True:
                    await queue.room()
                    stream, info = await self._inner.accept()
                    self._make_room()
                    site = site_of(info.remote_address[0])
                    self._slots[stream] = _Slot(site, handshakes.create_task(self._serve(stream, info, queue)))
        except* AcceptorClosed:
            pass
        finally:
            queue.close()

    def _make_room(self) -> None:
        while len(self._slots) >= self._max_handshakes:
            site, count = Counter(slot.site for slot in self._slots.values()).most_common(1)[0]
            greedy = count > self._max_handshakes // 2
            leaving = next(stream for stream, slot in self._slots.items() if slot.site == site or not greedy)
            self._slots.pop(leaving).task.cancel()

    def _heard(self, stream: DuplexStream) -> None:
        if stream in self._slots:
            self._slots.move_to_end(stream)

    async def _serve(self, inner: DuplexStream, info: TransportInfo, queue: AcceptQueue) -> None:
        """Bring one connection to its end or into the queue. Whatever goes wrong costs this connection only."""
        try:
            accepted = await self._negotiate(inner, info)
            if accepted is None:
                await _ended(inner)
                return
            while not queue.offer(*accepted):
                await queue.room()
                if queue.closed or accepted[0].is_closing():
                    accepted[0].abort()
                    return
        except asyncio.CancelledError:
            inner.abort()
            raise
        except Exception:
            logger.exception("a TLS handshake could not be served")
            inner.abort()
        finally:
            self._slots.pop(inner, None)

    async def _negotiate(self, inner: DuplexStream, info: TransportInfo) -> tuple[TlsStream, TransportInfo] | None:
        """Do the handshake; None when it failed, the peer has been told, and `inner` is closing."""
        try:
            async with asyncio.timeout(self._timeout_s):
                opening = _Opening(inner, lambda: self._heard(inner))
                verdict = await opening.verdict()
                stream = self._answer(inner, verdict, bytes(opening.late))
                if stream is None:
                    return None
                await stream.handshake()
        except OSError as error:  # SSLError and TimeoutError are OSErrors too
            logger.debug("TLS handshake failed: %s", type(error).__name__)
            inner.close()
            return None
        server_name = verdict.server_name if isinstance(verdict, ClientHello) else None
        return stream, TransportInfo("tls", info.remote_address, server_name=server_name)

    def _answer(self, inner: DuplexStream, verdict: Hello, late: bytes) -> TlsStream | None:
        """Decide from the first bytes: our answer outside TLS, or OpenSSL's within."""
        match verdict:
            case NotTls():
                inner.write(plain_http_answer(self._clock()))
            case TooLong():
                inner.write(TOO_LONG_ALERT)
            case Malformed():
                context = self._contexts(None)
                return TlsStream(inner, context.ssl_context, server_side=True, unread=verdict.raw + late)
            case ClientHello():
                context = self._contexts(verdict)
                if context.speaks(verdict):
                    return TlsStream(inner, context.ssl_context, server_side=True, unread=verdict.raw + late)
                inner.write(NO_ALPN_ALERT)
        inner.close()
        return None


@dataclass(frozen=True, slots=True)
class _Slot:
    site: str  # whose it is
    task: asyncio.Task[None]


class _Opening(asyncio.BufferedProtocol):
    """Attached to a new connection until its first bytes can be judged."""

    def __init__(self, stream: DuplexStream, heard: Callable[[], None]) -> None:
        self._stream = stream
        self._heard = heard
        self._reader = HelloReader()
        self._view = memoryview(b"")
        self._judged: asyncio.Future[Hello] = asyncio.get_running_loop().create_future()
        self.late = bytearray()  # what was in flight when reading was paused

    async def verdict(self) -> Hello:
        """Wait for it; what comes after is held by the stream. Raises ConnectionError when the peer leaves."""
        self._stream.attach(self)
        return await self._judged

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - its size is our limit
        self._view = read_buffer.take()
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._heard()
        if self._judged.done():
            self.late += self._view[:nbytes]
            return
        verdict = self._reader.feed(self._view[:nbytes])
        if not isinstance(verdict, HelloProgress):
            self._stream.pause_reading()
            self._judged.set_result(verdict)

    def eof_received(self) -> bool:
        self._leave()
        return True

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why somebody left is not asked
        self._leave()

    def _leave(self) -> None:
        if not self._judged.done():
            self._judged.set_exception(ConnectionAbortedError("the peer left before the TLS handshake"))
            self._judged.exception()  # not a forgotten error if nobody waits any more


class _Ending(asyncio.Protocol):
    """Attached to a connection that is closing."""

    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self.lost.done():
            self.lost.set_result(None)


async def _ended(stream: DuplexStream) -> None:
    """Wait until a closing stream is gone; its own deadlines see to it."""
    ending = _Ending()
    stream.attach(ending)
    await ending.lost
