"""Dials TCP connections directly, trying a name's addresses as RFC 8305 (happy eyeballs) says."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from enum import Enum

import aiohappyeyeballs

from ..addresses import format_address, is_numeric
from ..errors import DialError, DialFailure
from ..stream import DuplexStream
from .stream import TcpStream
from .user_timeout import set_user_timeout

DIAL_TIMEOUT_S = 10.0  # for the name and all its addresses together
ATTEMPT_DELAY_S = 0.25  # RFC 8305, section 5: Connection Attempt Delay
MAX_ADDRESSES = 16  # of one name; a resolver under somebody's control may return thousands


class Family(Enum):
    """Which addresses may be used."""

    ANY = socket.AF_UNSPEC
    IPV4 = socket.AF_INET
    IPV6 = socket.AF_INET6


_REASONS = {
    errno.ECONNREFUSED: DialFailure.REFUSED,
    errno.ENETUNREACH: DialFailure.NETWORK_UNREACHABLE,
    errno.EADDRNOTAVAIL: DialFailure.NETWORK_UNREACHABLE,
    errno.EAFNOSUPPORT: DialFailure.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: DialFailure.HOST_UNREACHABLE,
    errno.ETIMEDOUT: DialFailure.TIMED_OUT,
    errno.EACCES: DialFailure.NOT_ALLOWED,
    errno.EPERM: DialFailure.NOT_ALLOWED,
}


class DirectDialer:
    """Dialer without anything in between."""

    def __init__(
        self,
        *,
        family: Family = Family.ANY,
        timeout_s: float = DIAL_TIMEOUT_S,
        allows: Callable[[str], bool] | None = None,
        peer_always_reads: bool = False,
    ) -> None:
        """Say how to dial. `allows` judges each numeric address; the address judged is the address dialled.

        A peer that always reads is taken for lost when it acknowledges nothing (user_timeout.py).
        """
        self._family = family
        self._timeout_s = timeout_s
        self._allows = allows
        self._peer_always_reads = peer_always_reads

    def describe(self) -> str:
        """Say that nothing is in between."""
        return "direct"

    async def dial(self, host: str, port: int) -> DuplexStream:
        """Connect; see Dialer.dial."""
        with self._explained(host, port):
            async with asyncio.timeout(self._timeout_s):
                return await TcpStream.from_socket(await self._connect(host, port))

    async def open_socket(self, host: str, port: int) -> socket.socket:
        """Connect as `dial` does, and give the bare socket, which does not block: for a library that needs one."""
        with self._explained(host, port):
            async with asyncio.timeout(self._timeout_s):
                return await self._connect(host, port)

    async def _connect(self, host: str, port: int) -> socket.socket:
        addresses = await self._resolve(host, port)
        sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=ATTEMPT_DELAY_S)
        if self._peer_always_reads:
            set_user_timeout(sock)
        return sock

    @contextlib.contextmanager
    def _explained(self, host: str, port: int) -> Iterator[None]:
        where = format_address(host, port)
        if not 0 < port < 65536:
            raise DialError(f"{where}: no such port", DialFailure.REFUSED)
        try:
            yield
        except TimeoutError as error:
            raise DialError(f"{where}: no answer within {self._timeout_s:g} s", DialFailure.TIMED_OUT) from error
        except socket.gaierror as error:
            raise DialError(f"{where}: {error.strerror or 'name not found'}", DialFailure.NOT_FOUND) from error
        except (OSError, RuntimeError) as error:
            # uvloop reports a failed connect of a closed handle as RuntimeError.
            raise DialError(f"{where}: {_words(error)}", _reason(error)) from error

    async def _resolve(self, host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
        flags = socket.AI_NUMERICHOST if is_numeric(host) else 0
        if not host or "\0" in host or len(host) > 255:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name")
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, family=self._family.value, type=socket.SOCK_STREAM, flags=flags
            )
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        allowed = found if self._allows is None else [each for each in found if self._allows(str(each[4][0]))]
        if not allowed:
            raise DialError(f"{format_address(host, port)}: the address is not allowed", DialFailure.NOT_ALLOWED)
        return allowed[:MAX_ADDRESSES]  # type: ignore[return-value]


def _reason(error: Exception) -> DialFailure:
    number = error.errno if isinstance(error, OSError) else None
    if number in _REASONS:
        return _REASONS[number]
    # Several addresses failed in different ways: the one that answered at all tells most.
    text = str(error).lower()
    for words, reason in (
        ("refused", DialFailure.REFUSED),
        ("timed out", DialFailure.TIMED_OUT),
        ("no route", DialFailure.HOST_UNREACHABLE),
        ("unreachable", DialFailure.NETWORK_UNREACHABLE),
    ):
        if words in text:
            return reason
    return DialFailure.OTHER


def _words(error: Exception) -> str:
    number = error.errno if isinstance(error, OSError) else None
    if number is not None:
        words = os.strerror(number)
        return words[:1].lower() + words[1:]
    return _reason(error).value.replace("-", " ")
