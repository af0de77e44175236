"""What `wraith connect` offers on this machine: the SOCKS port and local forwards."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

from wraith.errors import UsageError

from .hostport import Malformed, join_host_port, quoted, read_host, read_port, split_fields

ALL_ADDRESSES = ""
LOCALHOST = "localhost"  # both loopback addresses, without asking a resolver (RFC 6761 6.3)
DEFAULT_SOCKS_HOST = "127.0.0.1"
UNIX_PATH_LIMIT = 107 if sys.platform == "linux" else 103  # sun_path less its NUL

_SOCKS_FORM = "write [ADDR:]PORT or /path.sock"
_FORWARD_FORM = "write [BIND:]PORT:HOST:HOSTPORT, with IPv6 addresses in brackets"


@dataclass(frozen=True, slots=True)
class TcpBind:
    """A local TCP address: a name or address, ALL_ADDRESSES or LOCALHOST; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host or "*", self.port)


@dataclass(frozen=True, slots=True)
class UnixBind:
    """A local unix socket, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class SocksSpec:
    """Where the SOCKS port listens."""

    bind: TcpBind | UnixBind = TcpBind(DEFAULT_SOCKS_HOST, 1080)

    def __str__(self) -> str:
        return str(self.bind)


@dataclass(frozen=True, slots=True)
class LocalForwardSpec:
    """A local address, and the one target that every connection to it is carried to."""

    bind: TcpBind
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.bind}:{join_host_port(self.host, self.port)}"


def parse_socks(text: str) -> SocksSpec:
    """Read `-D`: `[ADDR:]PORT`, or the absolute path of a unix socket.

    Without ADDR it is 127.0.0.1; an ADDR of `*` or nothing is every address. Raises UsageError.
    """
    try:
        if "/" in text:
            return SocksSpec(_read_path(text))
        fields = split_fields(text)
        if len(fields) > 2:
            raise Malformed("an IPv6 address needs brackets")
        port = read_port(fields[-1], lowest=0)
        return SocksSpec(TcpBind(_read_bind(fields[0]) if len(fields) == 2 else DEFAULT_SOCKS_HOST, port))
    except Malformed as problem:
        raise UsageError(f"-D {quoted(text)}: {problem}; {_SOCKS_FORM}") from None


def parse_local_forward(text: str) -> LocalForwardSpec:
    """Read `-L` as ssh does: `[BIND:]PORT:HOST:HOSTPORT`.

    Without BIND it is localhost; a BIND of `*` or nothing is every address. Unlike ssh's, PORT may
    be 0. Raises UsageError.
    """
    try:
        if "/" in text:
            raise Malformed("only TCP forms are understood, no unix sockets")
        fields = split_fields(text)
        if len(fields) not in (3, 4):
            raise Malformed(f"it has {len(fields)} fields, not 3 or 4")
        port, host, host_port = fields[-3:]
        bind = TcpBind(_read_bind(fields[0]) if len(fields) == 4 else LOCALHOST, read_port(port, lowest=0))
        return LocalForwardSpec(bind, read_host(host), read_port(host_port))
    except Malformed as problem:
        raise UsageError(f"-L {quoted(text)}: {problem}; {_FORWARD_FORM}") from None


def _read_bind(text: str) -> str:
    if text in ("", "*"):
        return ALL_ADDRESSES
    # One spelling, so that what needs no resolver is recognised.
    return LOCALHOST if text.lower() == LOCALHOST else read_host(text)


def _read_path(text: str) -> UnixBind:
    if not text.startswith("/"):
        raise Malformed("the path of a unix socket must be absolute")
    if "\0" in text or text.endswith("/"):
        raise Malformed("this is not the path of a socket")
    try:
        length = len(os.fsencode(text))
    except UnicodeEncodeError:
        raise Malformed("this is not the path of a socket") from None
    if length > UNIX_PATH_LIMIT:
        raise Malformed(f"the path of a unix socket has at most {UNIX_PATH_LIMIT} bytes")
    return UnixBind(text)
