"""What `wraith connect` forwards: the SOCKS port, local and remote forwards, standard input and output."""

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
_FORWARD_FORM = "write [BIND:]PORT:HOST:HOSTPORT, or an absolute path on either side"


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
class TcpTarget:
    """A host and port to connect to, as whoever dials sees them."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class UnixTarget:
    """A unix socket to connect to, by its absolute path."""

    path: str

    def __str__(self) -> str:
        return self.path


ForwardTarget = TcpTarget | UnixTarget


@dataclass(frozen=True, slots=True)
class SocksSpec:
    """Where the SOCKS port listens."""

    bind: TcpBind | UnixBind = TcpBind(DEFAULT_SOCKS_HOST, 1080)

    def __str__(self) -> str:
        return str(self.bind)


@dataclass(frozen=True, slots=True)
class LocalForwardSpec:
    """A local address, and the one target that every connection to it is carried to."""

    bind: TcpBind | UnixBind
    target: ForwardTarget

    def __str__(self) -> str:
        return f"{self.bind}:{self.target}"


@dataclass(frozen=True, slots=True)
class RemoteForwardSpec:
    """An address of the server's, and the target on the client's side; without one the client speaks SOCKS."""

    bind: TcpBind | UnixBind
    target: ForwardTarget | None

    def __str__(self) -> str:
        return str(self.bind) if self.target is None else f"{self.bind}:{self.target}"


def parse_socks(text: str) -> SocksSpec:
    """Read `-D`: `[ADDR:]PORT`, or the absolute path of a unix socket.

    Without ADDR it is 127.0.0.1; an ADDR of `*` or nothing is every address. Raises UsageError.
    """
    try:
        if "/" in text:
            return SocksSpec(UnixBind(read_path(text)))
        return SocksSpec(_read_tcp_bind(split_fields(text), DEFAULT_SOCKS_HOST))
    except Malformed as problem:
        raise UsageError(f"-D {quoted(text)}: {problem}; {_SOCKS_FORM}") from None


def parse_local_forward(text: str) -> LocalForwardSpec:
    """Read `-L` as ssh does: `[BIND:]PORT` or a path, then `HOST:HOSTPORT` or a path.

    Without BIND it is localhost; a BIND of `*` or nothing is every address. Unlike ssh's, PORT may
    be 0. Raises UsageError.
    """
    try:
        bind, target = _read_forward(text)
        if target is None:
            raise Malformed("the target is missing")
        return LocalForwardSpec(bind, target)
    except Malformed as problem:
        raise UsageError(f"-L {quoted(text)}: {problem}; {_FORWARD_FORM}") from None


def parse_remote_forward(text: str) -> RemoteForwardSpec:
    """Read `-R` as ssh does: as `-L`, or `[BIND:]PORT` alone for a SOCKS port on the server.

    Port 0 is the server's choice. Raises UsageError.
    """
    try:
        bind, target = _read_forward(text)
        if target is None and isinstance(bind, UnixBind):
            raise Malformed("the target is missing")
        return RemoteForwardSpec(bind, target)
    except Malformed as problem:
        raise UsageError(f"-R {quoted(text)}: {problem}; {_FORWARD_FORM}, or [BIND:]PORT for SOCKS") from None


def parse_stdio(text: str) -> TcpTarget:
    """Read `-W`: `HOST:PORT`. Raises UsageError."""
    try:
        fields = split_fields(text)
        if len(fields) != 2:
            raise Malformed("the port is missing" if len(fields) < 2 else "an IPv6 address needs brackets")
        return TcpTarget(read_host(fields[0]), read_port(fields[1]))
    except Malformed as problem:
        raise UsageError(f"-W {quoted(text)}: {problem}; write HOST:PORT") from None


def _read_forward(text: str) -> tuple[TcpBind | UnixBind, ForwardTarget | None]:
    """Split a forward where its listening side ends: a path is one field, a port ends a TCP address."""
    fields = split_fields(text)
    if fields[0].startswith("/"):
        bind: TcpBind | UnixBind = UnixBind(read_path(fields[0]))
        rest = fields[1:]
    else:
        # The target is the last path, or the last two fields; what is before it is [BIND:]PORT.
        taken = 1 if fields[-1].startswith("/") else 2
        alone = len(fields) <= 2 and taken == 2
        split = len(fields) if alone else len(fields) - taken
        bind = _read_tcp_bind(fields[:split], LOCALHOST)
        rest = fields[split:]
    if not rest:
        return bind, None
    if len(rest) == 1 and rest[0].startswith("/"):
        return bind, UnixTarget(read_path(rest[0]))
    if len(rest) != 2:
        raise Malformed(f"it has {len(fields)} fields")
    return bind, TcpTarget(read_host(rest[0]), read_port(rest[1]))


def _read_tcp_bind(fields: list[str], default: str) -> TcpBind:
    if not 1 <= len(fields) <= 2:
        raise Malformed("an IPv6 address needs brackets" if fields else "the port is missing")
    return TcpBind(_read_bind(fields[0]) if len(fields) == 2 else default, read_port(fields[-1], lowest=0))


def _read_bind(text: str) -> str:
    if text in ("", "*"):
        return ALL_ADDRESSES
    # One spelling, so that what needs no resolver is recognised.
    return LOCALHOST if text.lower() == LOCALHOST else read_host(text)


def read_path(text: str) -> str:
    """Check the absolute path of a unix socket. Raises Malformed."""
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
    return text
