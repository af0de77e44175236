"""TLS over any duplex stream."""

from __future__ import annotations

from .acceptor import TlsAcceptor
from .contexts import ContextSource, ServerContext, client_context, server_context
from .hello import ClientHello
from .stream import TlsStream
from .transport import TlsTransport
from .trust import Verification, spki_pin

__all__ = [
    "ClientHello",
    "ContextSource",
    "ServerContext",
    "TlsAcceptor",
    "TlsStream",
    "TlsTransport",
    "Verification",
    "client_context",
    "server_context",
    "spki_pin",
]
