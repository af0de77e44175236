"""One TLS connection over any duplex stream, driven by us through OpenSSL's memory buffers.

What is held is bounded both ways. Incoming: while our protocol has paused nothing is decrypted and the inner stream
is paused, so at most what was in flight waits in OpenSSL's buffer. Outgoing: while the inner stream has
unsent bytes nothing more is encrypted, so one piece of ciphertext waits there and the rest in our queue, which
the watermarks bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Any, cast

from ..queued import QueuedStream
from ..scratch import read_buffer
from ..stream import (
    CLOSE_DRAIN_TIMEOUT_S,
    CLOSE_FLUSH_TIMEOUT_S,
    READ_CHUNK,
    UNATTACHED_TIMEOUT_S,
    DuplexStream,
)

RECORD = 16 << 10  # the most plaintext a TLS record carries, and so what one read of OpenSSL returns
MAX_UNASKED_REPLIES = 16 << 10  # a peer that makes OpenSSL answer (renegotiation, key updates) and does not read
_OPENING = 32  # how much of the peer's first bytes is kept, to say what it speaks if not TLS

# Optional powers of the inner stream, which this one has too: see wraith_transports.stream.
_FORWARDED = ("current_path", "trust", "detects_dead_peer")


class TlsStream(QueuedStream):
    """The plaintext side of a TLS connection; `handshake()` first, then a DuplexStream like any other.

    TLS cannot end one half alone: `write_eof` does nothing, and when the peer sends close_notify our side ends
    too, after what was written before. A peer that ends without close_notify is an end without `eof_received`.
    """

    def __init__(
        self,
        inner: DuplexStream,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_name: str | None = None,
        unread: bytes = b"",
        unattached_timeout_s: float = UNATTACHED_TIMEOUT_S,
        flush_timeout_s: float = CLOSE_FLUSH_TIMEOUT_S,
        drain_timeout_s: float = CLOSE_DRAIN_TIMEOUT_S,
    ) -> None:
        """Take over `inner`; `unread` are bytes of the peer's that somebody already took from it.

        `server_name` (client side) is what certificates are checked against and, unless it is an address,
        sent as SNI.
        """
        super().__init__(
            unattached_timeout_s=unattached_timeout_s,
            flush_timeout_s=flush_timeout_s,
            drain_timeout_s=drain_timeout_s,
        )
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        self._unread = unread
        self._open = False  # the handshake is complete
        self._broken = False  # OpenSSL reported an error: it may not be asked for more, not even close_notify
        self._inner_full = False
        self._stalled = False  # reading waits until the peer has read what OpenSSL answered
        self._answered: asyncio.Future[None] = self._loop.create_future()
        self.opening = b""  # the first bytes the peer sent
        for power in _FORWARDED:
            if hasattr(inner, power):
                setattr(self, power, getattr(inner, power))

    async def handshake(self) -> None:
        """Negotiate. Call once, before anything else; set the deadline with asyncio.timeout.

        Raises ssl.SSLError (the alert for it has been sent), or another OSError when the peer went away. The
        stream has then ended, as it has when this is cancelled.
        """
        self._inner.attach(_Carrier(self), self._unread)
        # With both marks at 0 the inner stream says when it has bytes it could not send yet, and when it has none.
        self._inner.set_write_buffer_limits(0, 0)
        self._unread = b""
        try:
            self._shake()
            await self._answered
        except BaseException:
            self.abort()
            raise

    # What the inner stream brings

    def arrived(self, data: memoryview) -> None:
        """Take ciphertext."""
        if self._closing or self._gone or self._broken:
            return  # nobody will read what is in it
        self._incoming.write(data)
        if self._open:
            self._decrypt()
        else:
            if len(self.opening) < _OPENING:
                self.opening += bytes(data[: _OPENING - len(self.opening)])
            self._shake()

    def inner_ended(self) -> None:
        """Take the end of the peer's TCP half."""
        if not self._open:
            self._break_off(ConnectionAbortedError("the peer closed the connection during the TLS handshake"))
            return
        if not self._closing and not self._broken:
            self._decrypt(everything=True)
        self._end_our_half()

    def inner_lost(self, error: Exception | None) -> None:
        """Take the end of the inner stream."""
        if not self._open:
            self._break_off(error or ConnectionAbortedError("the connection ended during the TLS handshake"))
            return
        if not self._closing and not self._broken:
            self._decrypt(everything=True)
        self._drop_queue()
        self._carrier_lost(error)

    def inner_full(self) -> None:
        """Encrypt no more for now."""
        self._inner_full = True

    def inner_empty(self) -> None:
        """Go on encrypting, and reading if that waited for room to answer in."""
        self._inner_full = False
        self._flush()
        if self._stalled and not self._must_pause():
            self._stalled = False
            self._carrier_resume()

    # The handshake

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return
        except ssl.SSLError as error:
            self._break_off(error)
            return
        self._open = True
        self._send()
        if not self._answered.done():
            self._answered.set_result(None)
        self._flush()
        self._decrypt()

    def _break_off(self, error: Exception) -> None:
        """Fail the handshake: send the alert OpenSSL made, then end."""
        if self._broken:
            return
        self._broken = self._closing = True
        if not self._answered.done():
            self._answered.set_exception(error)
            self._answered.exception()  # handshake() may have been cancelled: not a forgotten error
        self._send(even_if_full=True)
        self._inner.close()
        self._carrier_lost(None)

    # Incoming

    def _decrypt(self, *, everything: bool = False) -> None:
        """Hand on what has arrived, as long as the protocol takes it; `everything` lets the inbox hold the rest."""
        try:
            while everything or not self._inbox.full:
                if self._outgoing.pending > MAX_UNASKED_REPLIES and not everything:
                    self._stalled = True  # inner_empty() goes on
                    break
                if not self._incoming.pending and not self._tls.pending():
                    break
                if not self._decrypt_piece():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self._peer_closed()
        except ssl.SSLError as error:
            self._fail(error)
        if self._outgoing.pending:
            self._send()
        if not self._gone and not self._closing and self._must_pause():
            self._inner.pause_reading()

    def _must_pause(self) -> bool:
        return self._inbox.full or self._outgoing.pending > MAX_UNASKED_REPLIES

    def _decrypt_piece(self) -> bool:
        """Decrypt and deliver once; False at the end. Raises what OpenSSL raises when there was nothing."""
        if self._closing or self._gone:
            return False
        reader = self._inbox.reader
        if reader is None:
            data = self._tls.read(RECORD)
            if not data:
                raise ssl.SSLZeroReturnError
            self._inbox.feed(data)
            return True
        try:
            buffer = memoryview(reader.get_buffer(READ_CHUNK)).cast("B")[:READ_CHUNK]
        except Exception as error:
            self._protocol_failed(error)
            return False
        return self._decrypt_into(buffer)

    def _decrypt_into(self, buffer: memoryview) -> bool:
        """Fill the protocol's own buffer with as many records as fit, and tell it once."""
        filled = self._read_into(buffer)
        try:
            while filled < len(buffer) and (self._incoming.pending or self._tls.pending()):
                filled += self._read_into(buffer[filled:])
        finally:
            self._inbox.passed(filled)
        return True

    def _read_into(self, buffer: memoryview) -> int:
        # With a buffer OpenSSL's count comes back; the type stubs know only bytes and bytearray.
        count = cast(int, self._tls.read(len(buffer), cast(bytearray, buffer)))
        if not count:
            raise ssl.SSLZeroReturnError
        return count

    def _peer_closed(self) -> None:
        """Take the peer's close_notify."""
        self._peer_ended()
        self._end_our_half()

    def _end_our_half(self) -> None:
        """Answer the peer's end: what was written so far, then close_notify and FIN."""
        if self._write_ended or self._gone:
            return
        self._write_ended = True
        if self._queued:
            self._cancel_timer()
            self._watch_flush(self.get_write_buffer_size())
        else:
            self._half_flushed()

    def _fail(self, error: ssl.SSLError) -> None:
        """End on bytes that are not the peer's TLS: the alert goes out, the protocol learns why."""
        self._broken = True
        self._drop_queue()
        self._send(even_if_full=True)
        self._inner.close()
        self._carrier_lost(ConnectionAbortedError(f"TLS: {error.reason or error}"))

    # Outgoing

    def _flush(self) -> None:
        if not self._open or self._broken:
            return
        self._send()
        try:
            while self._queued and not self._inner_full:
                parts = self._take(READ_CHUNK)
                self._encrypt(parts[0] if len(parts) == 1 else memoryview(b"".join(parts)))
                self._send()
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._taken()

    def _encrypt(self, data: memoryview) -> None:
        while data:
            data = data[self._tls.write(data) :]  # one record a call

    def _send(self, *, even_if_full: bool = False) -> None:
        while self._outgoing.pending and (even_if_full or not self._inner_full):
            self._inner.write(self._outgoing.read())

    # QueuedStream

    def can_write_eof(self) -> bool:
        """TLS ends both halves at once."""
        return False

    def get_write_buffer_size(self) -> int:
        """Bytes queued here and ciphertext the inner stream has not sent."""
        return self._queued + self._inner.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Look up `ssl_object`, or what the inner stream knows."""
        if name == "ssl_object":
            return self._tls
        return self._inner.get_extra_info(name, default)

    def _check_high(self) -> None:
        if not self._writer_paused and not self._gone and self.get_write_buffer_size() > self._high:
            self._writer_paused = True
            self._ask_to_pause()

    def _check_low(self) -> None:
        if self._writer_paused and not self._gone and self.get_write_buffer_size() <= self._low:
            self._writer_paused = False
            self._let_resume()

    def close(self) -> None:
        """End in order."""
        super().close()
        if not self._queued:
            self._half_flushed()

    def _half_flushed(self) -> None:
        # The inner stream's close() flushes and drains under the same deadlines, and sees the kernel's progress; a
        # timer here would cut it short.
        if not self._gone and not self._half_ended:
            self._half_ended = True
            self._cancel_timer()
            self._carrier_end()

    def _carrier_end(self) -> None:
        if self._open and not self._broken:
            # WANT_READ: the peer's close_notify is not there yet, and nobody waits for it.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._send(even_if_full=True)
        self._inner.close()

    def _carrier_close(self) -> None:
        self._inner.close()

    def _carrier_reset(self) -> None:
        self._drop_queue()
        self._inner.abort()

    def _carrier_pause(self) -> None:
        self._inner.pause_reading()

    def _carrier_resume(self) -> None:
        if self._open and not self._broken and not self._closing and not self._gone:
            self._decrypt()
        if self._closing or not self._must_pause():
            self._inner.resume_reading()


class _Carrier(asyncio.BufferedProtocol):
    """What the inner stream is attached to."""

    def __init__(self, tls: TlsStream) -> None:
        self._tls = tls
        self._view = memoryview(b"")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - its size is our limit
        self._view = read_buffer.take()  # OpenSSL copies what it is given
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._tls.arrived(self._view[:nbytes])

    def eof_received(self) -> bool:
        self._tls.inner_ended()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._tls.inner_lost(exc)

    def pause_writing(self) -> None:
        self._tls.inner_full()

    def resume_writing(self) -> None:
        self._tls.inner_empty()
