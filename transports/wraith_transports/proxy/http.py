"""Dials through an HTTP proxy that knows CONNECT, which resolves the names."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from ..addresses import format_address
from ..errors import DialError, DialFailure
from ..head import HeadError, read_head
from ..stream import DuplexStream
from ..tcp.dial import DIAL_TIMEOUT_S
from ..transport import Dialer
from .connect_exchange import MAX_HEAD, ConnectAnswer, ConnectExchange, NotHttp
from .failure import bad_answer, bad_credentials, check_target, no_answer, refused, unreachable, unreachable_in_time
from .url import ProxyUrl

# The statuses that say something of the target; the others are the proxy's own troubles.
_REASONS: dict[int, DialFailure] = {
    HTTPStatus.FORBIDDEN: DialFailure.NOT_ALLOWED,
    HTTPStatus.GATEWAY_TIMEOUT: DialFailure.TIMED_OUT,
}
# RFC 9110 15.5.8 has 407; tinyproxy answers a wrong password with 401.
_ABOUT_CREDENTIALS = (HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.UNAUTHORIZED)


class HttpConnectDialer:
    """Dialer through one HTTP proxy. What the target sends with the reply is the stream's first bytes."""

    def __init__(self, inner: Dialer, proxy: ProxyUrl, *, timeout_s: float = DIAL_TIMEOUT_S) -> None:
        self._inner = inner
        self._proxy = proxy
        self._timeout_s = timeout_s  # for the proxy and what it does together

    def describe(self) -> str:
        """Name the proxy."""
        return f"through {self._proxy}"

    async def dial(self, host: str, port: int) -> DuplexStream:
        """Have the proxy connect; see Dialer.dial. Raises ProxyFailed, or DialError for what is no target."""
        check_target(host, port)
        stream: DuplexStream | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                stream = await self._reach()
                await self._ask(stream, host, port)
        except BaseException as error:
            if stream is not None:
                stream.abort()
            if not isinstance(error, TimeoutError):
                raise
            if stream is None:
                raise unreachable_in_time(self._proxy, self._timeout_s) from error
            raise no_answer(self._proxy, format_address(host, port), self._timeout_s) from error
        return stream

    async def _reach(self) -> DuplexStream:
        try:
            return await self._inner.dial(self._proxy.host, self._proxy.port)
        except DialError as error:
            raise unreachable(self._proxy, error) from error

    async def _ask(self, stream: DuplexStream, host: str, port: int) -> None:
        """Ask, and leave the stream as one that nobody attached to yet."""
        exchange = ConnectExchange(self._proxy, host, port)
        stream.write(exchange.request)
        try:
            answer, unread = await read_head(stream, exchange.read, limit=MAX_HEAD, timeout_s=self._timeout_s)
        except (HeadError, NotHttp) as error:
            raise bad_answer(self._proxy, str(error)) from error
        self._check(answer, format_address(host, port))
        stream.hold(unread)

    def _check(self, answer: ConnectAnswer, target: str) -> None:
        if answer.status in _ABOUT_CREDENTIALS:
            raise bad_credentials(self._proxy)
        if not answer.granted:
            reason = _REASONS.get(answer.status, DialFailure.OTHER)
            raise refused(self._proxy, target, f"{answer.status} {answer.reason}", reason)
