"""The SOCKS port: SOCKS5, SOCKS4a and HTTP CONNECT on one listener."""

from __future__ import annotations

from .credentials import Credentials, parse_credentials, read_credentials
from .events import Event, FrontProtocol, Refuse, Request, Send
from .front import Front
from .replies import failed, opened

__all__ = [
    "Credentials",
    "Event",
    "Front",
    "FrontProtocol",
    "Refuse",
    "Request",
    "Send",
    "failed",
    "opened",
    "parse_credentials",
    "read_credentials",
]
