"""The options before a key in authorized_keys: read as sshd(8) reads them, and refused where wraith cannot obey."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from .absolute_time import BadTime, parse_absolute_time
from .address_patterns import BadAddressList, FromPatterns, parse_from
from .wildcards import matches_wildcard

MAX_PERMISSIONS = 4096  # permitopen= and permitlisten= of one line, as sshd
MAX_SHOWN = 64  # characters of a foreign word that a message repeats

# Nothing of this exists here, so that forbidding it and allowing it are both obeyed.
_NOTHING_TO_ALLOW = frozenset({"pty", "agent-forwarding", "x11-forwarding", "user-rc"})
_REFUSED = {
    "command": "there are no commands to run",
    "environment": "there are no commands to run",
    "tunnel": "there are no tunnel devices",
    "verify-required": "it cannot be enforced",
    "no-touch-required": "a touch is always required",
}

Value = TypeVar("Value")


class BadOption(ValueError):
    """An option is unknown, malformed, or asks for what wraith cannot do; the text says which and why."""


@dataclass(frozen=True, slots=True)
class OpenPermission:
    """One `permitopen=`: a host and a port, either of which may be any (None)."""

    host: str | None
    port: int | None

    def allows(self, host: str, port: int) -> bool:
        """Compare as sshd does: the host as it was asked for, letter by letter, never resolved."""
        return self.host in (None, host) and self.port in (None, port)


@dataclass(frozen=True, slots=True)
class ListenPermission:
    """One `permitlisten=`: a pattern for the address as it is asked for, and a port, which may be any (None)."""

    pattern: str
    port: int | None

    def allows(self, host: str, port: int) -> bool:
        """Compare as sshd does: asking for port 0 is allowed only where any port is."""
        return self.port in (None, port) and matches_wildcard(self.pattern, host.lower())


@dataclass(frozen=True, slots=True)
class KeyOptions:
    """What one line of authorized_keys says of its key."""

    come_from: FromPatterns | None = None
    permit_open: tuple[OpenPermission, ...] = ()  # none: any
    permit_listen: tuple[ListenPermission, ...] = ()  # none: any
    port_forwarding: bool = True
    expires_at: int | None = None  # seconds since 1970; in force until the end of that second
    cert_authority: bool = False
    principals: frozenset[str] | None = None  # of a cert-authority; None: the user's name


NO_OPTIONS = KeyOptions()


def parse_key_options(text: str) -> KeyOptions:
    """Read the options of a line: all that stands before the first blank outside quotes. Raises BadOption.

    As in sshd the last word of `restrict`, `port-forwarding` and `no-port-forwarding` counts, the
    earliest `expiry-time` does, and a comma with nothing on one of its sides means nothing.
    """
    options = NO_OPTIONS
    rest = text
    while rest:
        if rest.startswith(","):
            rest = rest[1:]
            continue
        name, value, rest = _next(rest)
        options = _add(options, name.lower(), name, value)
    if options.principals is not None and not options.cert_authority:
        raise BadOption("principals needs cert-authority: it is about the certificates that a key signs")
    return options


def _add(options: KeyOptions, name: str, written: str, value: str | None) -> KeyOptions:
    """Add one option. Raises BadOption."""
    flag = name.removeprefix("no-")
    if name in _REFUSED:
        raise BadOption(f"the option {name} is not supported: {_REFUSED[name]}")
    if name in ("from", "principals", "expiry-time", "permitopen", "permitlisten"):
        if value is None:
            raise BadOption(f'{name} needs a value in quotes: {name}="…"')
        return _add_value(options, name, value)
    known = flag in _NOTHING_TO_ALLOW or flag == "port-forwarding" or name in ("restrict", "cert-authority")
    if not known:
        raise BadOption(f"the option {written[:MAX_SHOWN]!a} is unknown")
    if value is not None:
        raise BadOption(f"the option {name} takes no value")
    if flag == "port-forwarding":
        return replace(options, port_forwarding=name == flag)
    if name == "restrict":
        return replace(options, port_forwarding=False)
    if name == "cert-authority":
        return replace(options, cert_authority=True)
    return options


def _add_value(options: KeyOptions, name: str, value: str) -> KeyOptions:
    match name:
        case "from":
            if options.come_from is not None:
                raise BadOption("from is given twice")
            return replace(options, come_from=_read(parse_from, name, value))
        case "principals":
            if options.principals is not None:
                raise BadOption("principals is given twice")
            names = frozenset(each for each in value.split(",") if each)
            if not names:
                raise BadOption("principals names nobody")
            return replace(options, principals=names)
        case "expiry-time":
            moment = _read(parse_absolute_time, name, value)
            earlier = moment if options.expires_at is None else min(moment, options.expires_at)
            return replace(options, expires_at=earlier)
        case "permitopen":
            opened = (*options.permit_open, _open_permission(value))
            return replace(options, permit_open=_counted(opened, name))
        case _:
            listened = (*options.permit_listen, _listen_permission(value))
            return replace(options, permit_listen=_counted(listened, name))


def _read(parse: Callable[[str], Value], name: str, value: str) -> Value:
    try:
        return parse(value)
    except (BadAddressList, BadTime) as error:
        raise BadOption(f"{name}: {error}") from error


def _counted(permissions: tuple[Value, ...], name: str) -> tuple[Value, ...]:
    if len(permissions) > MAX_PERMISSIONS:
        raise BadOption(f"{name} is given more than {MAX_PERMISSIONS} times")
    return permissions


def _open_permission(text: str) -> OpenPermission:
    host, port = _split_permission(text, "permitopen")
    return OpenPermission(None if host == "*" else host, port)


def _listen_permission(text: str) -> ListenPermission:
    # A port alone stands for it on any address.
    host, port = _split_permission(text if ":" in text else f"*:{text}", "permitlisten")
    return ListenPermission(host, port)


def _split_permission(text: str, name: str) -> tuple[str, int | None]:
    """Split HOST:PORT or [HOST]:PORT. Raises BadOption."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        colon, port = rest[:1], rest[1:]
        if not bracket or colon != ":":
            raise BadOption(f"{name}: {text[:MAX_SHOWN]!a} is not HOST:PORT")
    else:
        host, colon, port = text.partition(":")
    if not host or not colon or "/" in host:
        raise BadOption(f"{name}: {text[:MAX_SHOWN]!a} is not HOST:PORT")
    if ":" in port:
        raise BadOption(f"{name}: {text[:MAX_SHOWN]!a} is not HOST:PORT; an IPv6 address needs brackets")
    return host, None if port == "*" else _port(port, name)


def _port(text: str, name: str) -> int:
    if text.isascii() and text.isdecimal() and len(text) <= 5:
        if 1 <= int(text) <= 65535:
            return int(text)
    elif text.isascii() and text.isprintable():
        try:
            return socket.getservbyname(text, "tcp")
        except OSError:
            pass
    raise BadOption(f"{name}: {text[:MAX_SHOWN]!a} is not a port")


def _next(text: str) -> tuple[str, str | None, str]:
    """Take one option off the front: its name, its value, and what follows its comma. Raises BadOption."""
    end = next((at for at, character in enumerate(text) if character in '=,"'), len(text))
    name = text[:end]
    if text[end : end + 1] != "=":
        if text[end : end + 1] == '"':
            raise BadOption(f"the option {name[:MAX_SHOWN]!a} is unknown")
        return name, None, text[end + 1 :]
    value, rest = _dequote(name, text[end + 1 :])
    if rest and not rest.startswith(","):
        raise BadOption(f"{name[:MAX_SHOWN]}: a comma is missing after its value")
    return name, value, rest[1:]


def _dequote(name: str, text: str) -> tuple[str, str]:
    r"""Take a quoted value, in which \" is a quote character and any other \ itself; also give the rest."""
    if not text.startswith('"'):
        raise BadOption(f"{name[:MAX_SHOWN]}: its value is not in quotes")
    value, at = [], 1
    while at < len(text) and text[at] != '"':
        if text.startswith('\\"', at):
            at += 1
        value.append(text[at])
        at += 1
    if at >= len(text):
        raise BadOption(f"{name[:MAX_SHOWN]}: a quote is opened and not closed")
    return "".join(value), text[at + 1 :]
