"""SSH over a pluggable transport: the library.

async with wraith.connect(ConnectOptions("server.example.com")) as session:
stream = await session.open_connection("10.0.0.5", 5432)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .client import Session, connect
    from .errors import (
        AddressUnavailable,
        AuthenticationRefused,
        ConnectFailed,
        ExitCode,
        SessionLost,
        UnusableFile,
        UsageError,
        WraithError,
        WrongPeer,
    )
    from .forward import LocalForward
    from .opening import Opener, OpenFailed, OpenFailure
    from .options import (
        AddressFamily,
        ConnectOptions,
        HostKeyCheck,
        ServeOptions,
        TlsClientOptions,
        TlsServerOptions,
    )
    from .server import Server, serve
    from .socks import SocksListener
    from .splice import Splice, splice

__all__ = [
    "AddressFamily",
    "AddressUnavailable",
    "AuthenticationRefused",
    "ConnectFailed",
    "ConnectOptions",
    "ExitCode",
    "HostKeyCheck",
    "LocalForward",
    "OpenFailed",
    "OpenFailure",
    "Opener",
    "ServeOptions",
    "Server",
    "Session",
    "SessionLost",
    "SocksListener",
    "Splice",
    "TlsClientOptions",
    "TlsServerOptions",
    "UnusableFile",
    "UsageError",
    "WraithError",
    "WrongPeer",
    "__version__",
    "connect",
    "serve",
    "splice",
]

# Loaded when first asked for: asyncssh takes 0.2 s to import, and `wraith --help` needs none of it.
_HOMES = {
    "AddressFamily": "options",
    "AddressUnavailable": "errors",
    "AuthenticationRefused": "errors",
    "ConnectFailed": "errors",
    "ConnectOptions": "options",
    "ExitCode": "errors",
    "HostKeyCheck": "options",
    "LocalForward": "forward",
    "OpenFailed": "opening",
    "OpenFailure": "opening",
    "Opener": "opening",
    "ServeOptions": "options",
    "Server": "server",
    "Session": "client",
    "SessionLost": "errors",
    "SocksListener": "socks",
    "Splice": "splice",
    "TlsClientOptions": "options",
    "TlsServerOptions": "options",
    "UnusableFile": "errors",
    "UsageError": "errors",
    "WraithError": "errors",
    "WrongPeer": "errors",
    "connect": "client",
    "serve": "server",
    "splice": "splice",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOMES))
