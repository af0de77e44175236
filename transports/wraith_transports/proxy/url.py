"""The URL of a proxy, as `--proxy` takes it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote_to_bytes

from ..addresses import format_address, is_name, is_numeric
from ..errors import ProxySchemeUnknown, ProxyUrlInvalid

DEFAULT_PORT = 1080  # whatever the scheme, as curl has it
MAX_URL = 2048  # characters
MAX_FIELD = 255  # bytes of a user or password: RFC 1929 has one byte for the length

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,15}")
_CONTROL = re.compile(r"[\0-\x1f\x7f]")
_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


class ProxyScheme(Enum):
    """The kinds of proxy. Both SOCKS5 names mean that the proxy resolves names."""

    SOCKS5 = "socks5"
    SOCKS5H = "socks5h"
    HTTP = "http"


_FORM = ", ".join(f"{scheme.value}://HOST:PORT" for scheme in ProxyScheme)


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """Which proxy, where, and as whom. Neither its repr nor its str shows user or password."""

    scheme: ProxyScheme
    host: str  # without brackets
    port: int = DEFAULT_PORT
    user: str | None = field(default=None, repr=False)
    password: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if not is_numeric(self.host) and not is_name(self.host):
            raise ProxyUrlInvalid("the proxy's host is not a host name or address")
        if not 1 <= self.port <= 65535:
            raise ProxyUrlInvalid("the proxy's port is not a number from 1 to 65535")
        if self.user is None:
            return
        if self.scheme is ProxyScheme.HTTP:
            # RFC 7617 2: the first colon ends the user, and control characters are not allowed.
            if ":" in self.user:
                raise ProxyUrlInvalid("the user for an http proxy cannot have a colon in it")
            if _CONTROL.search(self.user + self.password):
                raise ProxyUrlInvalid("the user and password for an http proxy cannot have control characters")
            fits = all(len(each.encode()) <= MAX_FIELD for each in (self.user, self.password))
        else:
            # RFC 1929 2 has bytes and names no encoding; python-socks sends ASCII.
            fits = all(each.isascii() and 1 <= len(each) <= MAX_FIELD for each in (self.user, self.password))
        if not fits:
            kind = "up to 255 bytes" if self.scheme is ProxyScheme.HTTP else "1 to 255 ASCII characters"
            raise ProxyUrlInvalid(f"the user and password for this kind of proxy have {kind} each")

    def __str__(self) -> str:
        return f"{self.scheme.value}://{format_address(self.host, self.port)}"

    @classmethod
    def parse(cls, text: str) -> ProxyUrl:
        """Read `SCHEME://[USER:PASSWORD@]HOST[:PORT]`, user and password percent-encoded.

        Raises ProxySchemeUnknown or another ProxyUrlInvalid. Errors show nothing behind the scheme:
        where a URL is malformed, any part of it may be a piece of the password.
        """
        name, separator, rest = text.partition("://")
        if not separator or not _SCHEME.fullmatch(name):
            raise ProxySchemeUnknown(f"the proxy needs a scheme: write {_FORM}")
        try:
            scheme = ProxyScheme(name.lower())
        except ValueError:
            raise ProxySchemeUnknown(f"{name}:// is no proxy that can be used: write {_FORM}") from None
        if len(text) > MAX_URL:
            raise ProxyUrlInvalid(f"the proxy's URL has more than {MAX_URL} characters")
        authority, _, more = rest.partition("/")
        if more or "?" in authority or "#" in authority:
            raise ProxyUrlInvalid(
                "the proxy's URL goes on behind its port: in a user or password write / as %2F, ? as %3F, # as %23"
            )
        credentials, at, where = authority.rpartition("@")
        host, port = _host_and_port(where)
        if not at:
            return cls(scheme, host, port)
        user, _, password = credentials.partition(":")
        return cls(scheme, host, port, _decoded(user), _decoded(password))


def _host_and_port(text: str) -> tuple[str, int]:
    if text.startswith("["):
        host, closed, after = text[1:].partition("]")
        # RFC 6874: the % before a zone is written %25.
        host = host.replace("%25", "%", 1)
        if not closed or ":" not in host or not is_numeric(host) or (after and not after.startswith(":")):
            raise ProxyUrlInvalid("the proxy's host in brackets is not an IPv6 address")
        port = after[1:] if after else None
    else:
        host, colon, number = text.partition(":")
        if ":" in number:
            raise ProxyUrlInvalid("the proxy's host has more than one colon: an IPv6 address needs brackets")
        port = number if colon else None
    if port is None:
        return host, DEFAULT_PORT
    # str.isdecimal alone accepts the digits of every script.
    if not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise ProxyUrlInvalid("the proxy's port is not a number from 1 to 65535")
    return host, int(port)


def _decoded(text: str) -> str:
    if _BROKEN_ESCAPE.search(text):
        raise ProxyUrlInvalid("a % in the proxy's user or password does not begin an escape: write it as %25")
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeError:
        raise ProxyUrlInvalid("the proxy's user or password is not UTF-8") from None
