"""Dials through a SOCKS5 proxy (RFC 1928, 1929), which resolves the names."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from python_socks import ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy

from ..addresses import format_address
from ..errors import DialError, DialFailure, ProxyFailed
from ..stream import DuplexStream
from ..tcp import DirectDialer, TcpStream
from ..tcp.dial import DIAL_TIMEOUT_S
from .failure import bad_answer, bad_credentials, check_target, no_answer, refused, unreachable, unreachable_in_time
from .url import ProxyUrl

# RFC 1928 6: what the reply says of the target.
_REPLIES = {
    0x01: ("general failure", DialFailure.OTHER),
    0x02: ("not allowed by its rules", DialFailure.NOT_ALLOWED),
    0x03: ("network unreachable", DialFailure.NETWORK_UNREACHABLE),
    0x04: ("host unreachable", DialFailure.HOST_UNREACHABLE),
    0x05: ("connection refused", DialFailure.REFUSED),
    0x06: ("time to live expired", DialFailure.TIMED_OUT),
    0x07: ("it does not know the command CONNECT", DialFailure.OTHER),
    0x08: ("it does not know this type of address", DialFailure.OTHER),
}
# python-socks tells these from a malformed reply by their words alone.
_ABOUT_CREDENTIALS = (
    "No acceptable authentication methods",
    "Username and password authentication failure",
    "Unexpected SOCKS authentication method",
)


class SocksDialer:
    """Dialer through one SOCKS5 proxy.

    The proxy is given names as they are. python-socks reads no byte more than the reply has, so what
    the target sends with it is still in the socket that becomes the stream.
    """

    def __init__(self, inner: DirectDialer, proxy: ProxyUrl, *, timeout_s: float = DIAL_TIMEOUT_S) -> None:
        self._inner = inner
        self._proxy = proxy
        self._timeout_s = timeout_s  # for the proxy and what it does together

    def describe(self) -> str:
        """Name the proxy."""
        return f"through {self._proxy}"

    async def dial(self, host: str, port: int) -> DuplexStream:
        """Have the proxy connect; see Dialer.dial. Raises ProxyFailed, or DialError for what is no target."""
        check_target(host, port)
        way = _WayThere(self._inner, self._proxy)
        target = format_address(host, port)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await TcpStream.from_socket(await self._ask(way, host, port))
        except TimeoutError as error:
            if way.reached:
                raise no_answer(self._proxy, target, self._timeout_s) from error
            raise unreachable_in_time(self._proxy, self._timeout_s) from error
        except ProxyError as error:
            raise self._explained(error, target) from error
        except OSError as error:
            raise bad_answer(self._proxy, "the connection was lost") from error
        except ValueError as error:
            raise DialError(f"{host!a} is not a host name or address", DialFailure.NOT_FOUND) from error

    async def _ask(self, way: _WayThere, host: str, port: int) -> socket.socket:
        proxy = self._proxy
        user, password = (None, None) if proxy.user is None else (proxy.user, proxy.password)
        asking = Proxy(ProxyType.SOCKS5, proxy.host, proxy.port, user, password, rdns=True, forward=way)
        return await asking.connect(host, port, timeout=self._timeout_s)

    def _explained(self, error: ProxyError, target: str) -> ProxyFailed:
        if error.error_code is not None:
            words, reason = _REPLIES.get(error.error_code, ("failed", DialFailure.OTHER))
            return refused(self._proxy, target, f"{words} (SOCKS reply {error.error_code})", reason)
        if str(error).startswith(_ABOUT_CREDENTIALS):
            return bad_credentials(self._proxy)
        return bad_answer(self._proxy, str(error))


class _WayThere(Proxy):
    """The way to the proxy itself, where python-socks looks for a proxy before the proxy.

    Left to itself it takes a name's first address and has no choice of family.
    """

    def __init__(self, inner: DirectDialer, proxy: ProxyUrl) -> None:
        super().__init__(ProxyType.SOCKS5, proxy.host, proxy.port)
        self._inner = inner
        self._to = proxy
        self.reached = False

    async def connect(
        self, dest_host: str, dest_port: int, timeout: float | None = None, **kwargs: Any
    ) -> socket.socket:
        """Connect directly."""
        del timeout, kwargs  # the whole has a deadline
        try:
            sock = await self._inner.open_socket(dest_host, dest_port)
        except DialError as error:
            raise unreachable(self._to, error) from error
        self.reached = True
        return sock
