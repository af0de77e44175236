"""What a client is told of how its request went, in each protocol's own words."""

from __future__ import annotations

from http import HTTPStatus

from wraith.opening import OpenFailure

from .events import FrontProtocol

# RFC 1928 6: version, reply, reserved, then the bound address, which is not ours to tell.
_SOCKS5_ADDRESS = b"\x00\x01\x00\x00\x00\x00\x00\x00"
_SOCKS5_CODES = {
    OpenFailure.REFUSED: 0x05,
    OpenFailure.HOST_UNREACHABLE: 0x04,
    OpenFailure.NOT_FOUND: 0x04,
    OpenFailure.TIMED_OUT: 0x04,
    OpenFailure.NETWORK_UNREACHABLE: 0x03,
    OpenFailure.NOT_ALLOWED: 0x02,
    OpenFailure.SESSION_DOWN: 0x01,
    OpenFailure.OTHER: 0x01,
}
SOCKS5_FAILURE = 0x01
SOCKS5_COMMAND = 0x07
SOCKS5_ADDRESS_TYPE = 0x08

_HTTP_STATUS = {
    OpenFailure.TIMED_OUT: HTTPStatus.GATEWAY_TIMEOUT,
    OpenFailure.NOT_ALLOWED: HTTPStatus.FORBIDDEN,
    OpenFailure.SESSION_DOWN: HTTPStatus.SERVICE_UNAVAILABLE,
}


def opened(protocol: FrontProtocol) -> bytes:
    """Say that the connection is made; what follows are the target's bytes."""
    match protocol:
        case FrontProtocol.SOCKS5:
            return socks5_reply(0x00)
        case FrontProtocol.SOCKS4:
            return socks4_reply(granted=True)
        case FrontProtocol.HTTP:
            return b"HTTP/1.1 200 Connection established\r\n\r\n"


def failed(protocol: FrontProtocol, reason: OpenFailure) -> bytes:
    """Say why there is no connection, as exactly as the protocol can; the connection then ends."""
    match protocol:
        case FrontProtocol.SOCKS5:
            return socks5_reply(_SOCKS5_CODES[reason])
        case FrontProtocol.SOCKS4:
            return socks4_reply(granted=False)
        case FrontProtocol.HTTP:
            return http_reply(_HTTP_STATUS.get(reason, HTTPStatus.BAD_GATEWAY), f"wraith: {reason.value}")


def socks5_reply(code: int) -> bytes:
    """Build a SOCKS5 reply without an address."""
    return bytes((0x05, code)) + _SOCKS5_ADDRESS


def socks4_reply(*, granted: bool) -> bytes:
    """Build a SOCKS4 reply without an address: 0x5A is granted, 0x5B rejected or failed."""
    return bytes((0x00, 0x5A if granted else 0x5B)) + bytes(6)


def http_reply(status: HTTPStatus, text: str, *headers: str) -> bytes:
    """Build the one response that an HTTP connection gets before it is closed."""
    body = f"{text}\n".encode("ascii")
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/plain",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    )
    return "\r\n".join((*head, "", "")).encode("ascii") + body
