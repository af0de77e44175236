"""The text of a host, of a port, and of the two joined by a colon."""

from __future__ import annotations

import ipaddress
import json
import re

HOST_LIMIT = 255  # SOCKS5 has one byte for the length; DNS allows 253
PORT_LIMIT = 65535
QUOTED_LIMIT = 128  # what an error repeats of the text it complains about

# Underscores are not in RFC 1123, but names in use have them. Labels are bounded here because the
# resolver's encoder raises on an empty or overlong one.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_ZONE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_PLAIN = re.compile(r"[A-Za-z0-9._:/@+\[\]*-]{1,128}")


class Malformed(ValueError):
    """A part of a specification cannot be read; the text says which and why.

    Never leaves this package: each reader turns it into a UsageError that shows the whole
    specification and the form it should have.
    """


def quoted(text: str) -> str:
    """Show text from a user in one line of printable ASCII, however odd it is."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text[:QUOTED_LIMIT])


def is_ipv6(text: str) -> bool:
    """Whether text is an IPv6 address, with or without a zone, and without brackets."""
    address, percent, zone = text.partition("%")
    if percent and not _ZONE.fullmatch(zone):
        return False
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """Whether text can be sent as the host of a target: an ASCII name, or an address without brackets."""
    return len(text) <= HOST_LIMIT and (_NAME.fullmatch(text) is not None or is_ipv6(text))


def read_host(text: str) -> str:
    """Check a host that a user wrote, without brackets. Raises Malformed."""
    if not text:
        raise Malformed("the host is missing")
    if not text.isascii():
        raise Malformed(f"{quoted(text)} is not ASCII (write an international name in its xn-- form)")
    if not is_host(text):
        raise Malformed(f"{quoted(text)} is not a host name or address")
    return text


def read_port(text: str, *, lowest: int = 1) -> int:
    """Check a decimal port number of at least `lowest`. Raises Malformed."""
    # str.isdecimal alone accepts the digits of every script.
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and lowest <= int(text) <= PORT_LIMIT):
        raise Malformed(
            f"{quoted(text)} is not a port from {lowest} to {PORT_LIMIT}" if text else "the port is missing"
        )
    return int(text)


def split_fields(text: str) -> list[str]:
    """Split at colons, except inside a field that is wrapped in brackets; the brackets are dropped.

    Raises Malformed where a bracket is not closed at the end of its field.
    """
    fields: list[str] = []
    rest: str | None = text
    while rest is not None:
        if rest.startswith("["):
            field, closed, after = rest[1:].partition("]")
            if not closed or (after and not after.startswith(":")):
                raise Malformed("a [ is not closed by a ] at the end of its field")
            rest = after[1:] if after else None
        else:
            field, colon, after = rest.partition(":")
            rest = after if colon else None
        fields.append(field)
    return fields


def split_host_port(text: str) -> tuple[str, str | None]:
    """Split `HOST[:PORT]` into host, without brackets, and port, if there is one.

    Brackets hold an IPv6 address only; a bare IPv6 address is read as one without a port, as ssh
    reads it. Raises Malformed.
    """
    if is_ipv6(text):
        return text, None
    fields = split_fields(text)
    if len(fields) > 2:
        raise Malformed("an IPv6 address with a port needs brackets, as in [2001:db8::1]:22")
    host = fields[0]
    if text.startswith("[") and not is_ipv6(host):
        raise Malformed(f"{quoted(host)} is not an IPv6 address, and only those go in brackets")
    return host, fields[1] if len(fields) == 2 else None


def join_host_port(host: str, port: int | None) -> str:
    """Write what `split_host_port` reads."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port is None else f"{shown}:{port}"
