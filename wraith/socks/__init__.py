"""The SOCKS port: SOCKS5, SOCKS4a and HTTP CONNECT on one listener."""

from __future__ import annotations

from .conversation import serve_socks
from .credentials import Credentials, parse_credentials, read_credentials
from .events import Event, FrontProtocol, Refuse, Request, Send
from .front import Front
from .listener import SocksListener
from .replies import failed, opened

__all__ = [
    "Credentials",
    "Event",
    "Front",
    "FrontProtocol",
    "Refuse",
    "Request",
    "Send",
    "SocksListener",
    "failed",
    "opened",
    "parse_credentials",
    "read_credentials",
    "serve_socks",
]
