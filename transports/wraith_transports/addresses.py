"""Hosts and ports as text and as tuples."""

from __future__ import annotations

import ipaddress
import re
from typing import Any

Address = tuple[str, int]

IPV6_SITE_BITS = 64  # what one customer gets at least, so what one stranger can be anywhere in

# Underscores are not in RFC 1123, but names in use have them.
_NAME = re.compile(r"(?=.{1,255}$)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)


def format_address(host: str, port: int) -> str:
    """Write host:port, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def unmapped(host: str) -> str:
    """Give an IPv4 address that came as ::ffff:a.b.c.d as IPv4, and anything else as it is.

    With mapped addresses a rule such as `!127.0.0.1,*` fails open.
    """
    if ":" not in host:
        return host
    try:
        mapped = ipaddress.IPv6Address(host.partition("%")[0]).ipv4_mapped
    except ValueError:
        return host
    return str(mapped) if mapped is not None else host


def socket_address(name: Any) -> Address:
    """Reduce what getpeername() or getsockname() gave to (ip, port); ("", 0) for a unix socket or nothing."""
    if isinstance(name, tuple) and len(name) >= 2:
        return unmapped(str(name[0])), int(name[1])
    return "", 0


def site_of(host: str) -> str:
    """Give what counts as one address where strangers are counted: an IPv4 address itself, an IPv6 one's /64."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, IPV6_SITE_BITS), strict=False).network_address)


def is_numeric(host: str) -> bool:
    """Whether host is an IP address rather than a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_name(host: str) -> bool:
    """Whether host can be asked of another machine as a name: ASCII, labels of 1 to 63, 255 in all."""
    return _NAME.fullmatch(host) is not None


# What ends in the IPv4 address it leads to: the prefix of NAT64 (RFC 6052, 2.1), and the
# IPv4-compatible and -translated addresses of old (RFC 4291, 2.5.5.1; RFC 2765, 2.1).
_IPV4_INSIDE = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
# Which `ipaddress` calls global, in some of its versions or all: NAT64 of a network's own (RFC 8215)
# and site-local addresses (RFC 3879).
_LOCAL_IPV6 = tuple(map(ipaddress.IPv6Network, ("64:ff9b:1::/48", "fec0::/10")))


def is_public(host: str) -> bool:
    """Whether a numeric address is one that `ipaddress` calls global.

    IPv4 addresses within IPv6 ones (mapped, NAT64, 6to4, compatible) are judged as what they lead to.
    """
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if any(address in network for network in _IPV4_INSIDE):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if any(address in network for network in _LOCAL_IPV6):
            return False
    return address.is_global and not address.is_multicast
