"""An HTTP proxy's answer to CONNECT (RFC 9110 9.3.6), and the request it answers; nothing here waits."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import h11

from ..addresses import format_address
from .url import ProxyUrl

MAX_HEAD = 16 << 10  # bytes; curl allows 300 KiB, no proxy needs it


class NotHttp(Exception):
    """What came is not an HTTP response, or its head is too long."""


@dataclass(frozen=True, slots=True)
class ConnectAnswer:
    """The final response's first line. A reason is in the proxy's words: any characters, any length."""

    status: int
    reason: str

    @property
    def granted(self) -> bool:
        """Whether what follows is the target's."""
        return 200 <= self.status < 300


class ConnectExchange:
    """One CONNECT: `request` is what to send, and `read` takes what comes, split anyhow."""

    def __init__(self, proxy: ProxyUrl, host: str, port: int) -> None:
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        self._seen = 0
        target = format_address(host, port)
        headers = [("Host", target)]
        if proxy.user is not None:
            pair = f"{proxy.user}:{proxy.password}".encode()
            headers.append(("Proxy-Authorization", "Basic " + base64.b64encode(pair).decode("ascii")))
        request = h11.Request(method="CONNECT", target=target, headers=headers)
        self.request = (self._connection.send(request) or b"") + (self._connection.send(h11.EndOfMessage()) or b"")

    def read(self, received: bytes) -> tuple[ConnectAnswer, int] | None:
        """Give the answer and the length of its head, or None for more. Raises NotHttp.

        `received` is everything so far, as `read_head` gives it; interim responses (1xx) are part of
        the head.
        """
        if len(received) > self._seen:  # h11 takes nothing as the end
            self._connection.receive_data(received[self._seen :])
            self._seen = len(received)
        while True:
            try:
                event = self._connection.next_event()
            except h11.RemoteProtocolError as error:
                raise NotHttp(str(error)) from error
            if event is h11.NEED_DATA:
                return None
            if isinstance(event, h11.Response):
                length = self._seen - len(self._connection.trailing_data[0])
                if length > MAX_HEAD:
                    raise NotHttp(f"the head has over {MAX_HEAD} bytes")
                return ConnectAnswer(event.status_code, event.reason.decode("latin-1")), length
            if not isinstance(event, h11.InformationalResponse):
                raise NotHttp("no response")
