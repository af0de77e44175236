"""The transport that is TLS over a dialled connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime

from ..addresses import format_address
from ..errors import FailureKind, TransportError
from ..stream import DuplexStream
from ..transport import Dialer, TransportInfo
from .contexts import client_context
from .stream import TlsStream
from .trust import SYSTEM_ROOTS, Verification, checked_name, explain_pin_mismatch, explain_untrusted, spki_pin

HANDSHAKE_TIMEOUT_S = 10.0
LOOK_TIMEOUT_S = 5.0  # for a second connection that only finds out what to tell the user
_TLS_RECORDS = range(20, 25)  # the first byte of anything TLS (RFC 8446, section 5.1)


class TlsTransport:
    """Dials one host and port, negotiates TLS and checks the server."""

    def __init__(
        self,
        dialer: Dialer,
        host: str,
        port: int,
        verification: Verification = SYSTEM_ROOTS,
        *,
        handshake_timeout_s: float = HANDSHAKE_TIMEOUT_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._dialer = dialer
        self._host = host
        self._port = port
        self._verification = verification
        self._name = checked_name(verification.server_name or host)
        self._where = format_address(host, port)
        self._timeout_s = handshake_timeout_s
        self._now = now
        self._context: ssl.SSLContext | None = None

    async def connect(self) -> tuple[DuplexStream, TransportInfo]:
        """Dial, negotiate and check; see Transport.connect."""
        if self._context is None:
            self._context = client_context(self._verification)
        try:
            stream = await self._negotiate(self._context)
        except ssl.SSLCertVerificationError as error:
            shown = await self._look_at_certificate()
            line = explain_untrusted(
                self._where, self._name, error.verify_code, error.verify_message, shown, now=self._now()
            )
            raise TransportError(line, FailureKind.UNTRUSTED) from error
        self._check_pins(stream)
        proven = self._name if self._verification.by_chain else None
        return stream, TransportInfo("tls", stream.get_extra_info("peername"), server_name=proven)

    def describe(self) -> str:
        """Name the server."""
        return f"tls://{self._where}"

    async def aclose(self) -> None:
        """Do nothing: no state is shared."""

    async def _negotiate(self, context: ssl.SSLContext) -> TlsStream:
        """Dial and do the handshake. Raises SSLCertVerificationError as it is, all else as TransportError."""
        inner = await self._dialer.dial(self._host, self._port)
        try:
            stream = TlsStream(inner, context, server_side=False, server_name=self._name)
        except ValueError as error:
            inner.abort()
            raise TransportError(
                f"{self._name!a} cannot be the name of a TLS server", FailureKind.CONFIGURATION
            ) from error
        try:
            async with asyncio.timeout(self._timeout_s):
                await stream.handshake()
        except ssl.SSLCertVerificationError:
            raise
        except OSError as error:  # SSLError and TimeoutError are OSErrors too
            raise self._explain(error, stream.opening) from error
        return stream

    def _check_pins(self, stream: TlsStream) -> None:
        if not self._verification.pins:
            return
        certificate = _peer_certificate(stream)
        try:
            if spki_pin(certificate) in self._verification.pins:
                return
        except ValueError:
            pass  # a key of a kind nobody can have pinned
        stream.abort()
        raise TransportError(explain_pin_mismatch(self._where, certificate), FailureKind.UNTRUSTED)

    async def _look_at_certificate(self) -> bytes | None:
        """Connect once more without checks, since OpenSSL does not tell what it has just refused."""
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                stream = await self._negotiate(client_context(Verification(insecure=True)))
        except (TimeoutError, TransportError):
            return None
        stream.abort()
        return _peer_certificate(stream)

    def _explain(self, error: OSError, opening: bytes) -> TransportError:
        if opening and opening[0] not in _TLS_RECORDS:
            return TransportError(
                f"{self._where} does not speak TLS{_likeness(opening)}", FailureKind.NOT_THIS_PROTOCOL
            )
        if isinstance(error, ssl.SSLError):
            reason = (error.reason or str(error)).replace("_", " ").lower()
            return TransportError(f"{self._where}: TLS handshake failed: {reason}", FailureKind.NOT_THIS_PROTOCOL)
        if isinstance(error, TimeoutError):
            return TransportError(f"{self._where}: no answer to the TLS handshake within {self._timeout_s:g} s")
        return TransportError(f"{self._where}: {error.strerror or error}")


def _peer_certificate(stream: TlsStream) -> bytes:
    # After a handshake a client always has one: anonymous ciphers are not in OpenSSL's default list.
    return stream.get_extra_info("ssl_object").getpeercert(binary_form=True) or b""


def _likeness(opening: bytes) -> str:
    if opening.startswith(b"SSH-"):
        return " (it answered like an SSH server): try --transport tcp"
    if opening.startswith(b"HTTP/"):
        return " (it answered like an HTTP server)"
    return ""
