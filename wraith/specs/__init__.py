"""What targets, addresses and patterns look like on the command line, read without any I/O."""

from __future__ import annotations

from .hostport import is_host, is_ipv6, join_host_port
from .listen import ListenSpec, parse_listen
from .local import (
    ALL_ADDRESSES,
    LOCALHOST,
    LocalForwardSpec,
    SocksSpec,
    TcpBind,
    UnixBind,
    parse_local_forward,
    parse_socks,
)
from .permit import OpenPattern, PermitOpen, parse_open_pattern, parse_permit_open
from .proxy import parse_proxy
from .target import Scheme, Target, parse_target

__all__ = [
    "ALL_ADDRESSES",
    "LOCALHOST",
    "ListenSpec",
    "LocalForwardSpec",
    "OpenPattern",
    "PermitOpen",
    "Scheme",
    "SocksSpec",
    "Target",
    "TcpBind",
    "UnixBind",
    "is_host",
    "is_ipv6",
    "join_host_port",
    "parse_listen",
    "parse_local_forward",
    "parse_open_pattern",
    "parse_permit_open",
    "parse_proxy",
    "parse_socks",
    "parse_target",
]
