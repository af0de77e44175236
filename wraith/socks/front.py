"""Tells the protocols that share the SOCKS port apart, and reads each as itself."""

from __future__ import annotations

from .credentials import Credentials
from .events import Event, Parser, Refuse, Send
from .http_connect import HttpConnectParser
from .socks4 import Socks4Parser
from .socks5 import Socks5Parser


class Front:
    """Turns what a client sends into events. Feed it anything; it never waits and never raises.

    The last event is a Request or a Refuse; after it, feeding yields nothing more, and what comes
    after a Request is for the caller to keep. How the bytes are split makes no difference.
    """

    def __init__(self, credentials: Credentials | None = None) -> None:
        self._credentials = credentials
        self._buffer = bytearray()
        self._parser: Parser | None = None
        self._ended = False

    def feed(self, data: bytes) -> list[Event]:
        """Read on; the events are to be carried out in order."""
        self._buffer += data
        events: list[Event] = []
        while self._buffer and not self._ended:
            event = self._advance()
            if event is None:
                break
            events.append(event)
            self._ended = not isinstance(event, Send)
        if self._ended:
            self._buffer.clear()
        return events

    def _advance(self) -> Event | None:
        if self._parser is None:
            self._parser = self._choose(self._buffer[0])
        if self._parser is None:
            return Refuse(b"", "neither SOCKS nor HTTP")
        return self._parser.advance(self._buffer)

    def _choose(self, first: int) -> Parser | None:
        if first == 0x05:
            return Socks5Parser(self._credentials)
        if first == 0x04:
            return Socks4Parser(login_required=self._credentials is not None)
        # A method may be in lower case by RFC 9110, but every client writes CONNECT.
        if ord("A") <= first <= ord("Z"):
            return HttpConnectParser(self._credentials)
        return None
