"""What targets, addresses and patterns look like on the command line, read without any I/O."""

from __future__ import annotations

from .hostport import is_host, is_ipv6, join_host_port
from .listen import ListenSpec, parse_listen
from .local import (
    ALL_ADDRESSES,
    LOCALHOST,
    ForwardTarget,
    LocalForwardSpec,
    RemoteForwardSpec,
    SocksSpec,
    TcpBind,
    TcpTarget,
    UnixBind,
    UnixTarget,
    parse_local_forward,
    parse_remote_forward,
    parse_socks,
    parse_stdio,
)
from .permit import (
    AddressPattern,
    PermitListen,
    PermitOpen,
    parse_listen_pattern,
    parse_open_pattern,
    parse_permit_listen,
    parse_permit_open,
)
from .proxy import parse_proxy
from .target import Scheme, Target, parse_target

__all__ = [
    "ALL_ADDRESSES",
    "LOCALHOST",
    "AddressPattern",
    "ForwardTarget",
    "ListenSpec",
    "LocalForwardSpec",
    "PermitListen",
    "PermitOpen",
    "RemoteForwardSpec",
    "Scheme",
    "SocksSpec",
    "Target",
    "TcpBind",
    "TcpTarget",
    "UnixBind",
    "UnixTarget",
    "is_host",
    "is_ipv6",
    "join_host_port",
    "parse_listen",
    "parse_listen_pattern",
    "parse_local_forward",
    "parse_open_pattern",
    "parse_permit_listen",
    "parse_permit_open",
    "parse_proxy",
    "parse_remote_forward",
    "parse_socks",
    "parse_stdio",
    "parse_target",
]
