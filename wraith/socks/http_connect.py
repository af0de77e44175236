"""The server's half of an HTTP CONNECT request (RFC 9110 9.3.6, RFC 9112).

The head is read strictly, because a web page can make a browser send us most of an HTTP request: a
line ends with CR LF and nothing else, a header has no space before its colon, and no line is
continued. It is judged line by line, so that a request that will be refused is refused at the first
line that says so.
"""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus

from wraith.specs import is_host, is_ipv6

from .credentials import Credentials
from .events import Event, FrontProtocol, Refuse, Request
from .replies import http_reply

HEAD_LIMIT = 8 << 10  # nginx's; the largest CONNECT of a browser has a few hundred bytes

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_VERSION = re.compile(rb"HTTP/\d\.\d")
_AUTHORITY = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([0-9]{1,5})")
_CHALLENGE = 'Proxy-Authenticate: Basic realm="wraith", charset="UTF-8"'


class HttpConnectParser:
    """Reads one request head. The target is the request line's; a Host header is not looked at."""

    def __init__(self, credentials: Credentials | None) -> None:
        self._credentials = credentials
        self._taken = 0  # bytes of the head that were judged already
        self._target: tuple[str, int] | None = None
        self._authorization: bytes | None = None

    def advance(self, buffer: bytearray) -> Event | None:
        """Take lines from buffer until one of them decides."""
        while True:
            end = buffer.find(b"\n")
            if self._taken + (len(buffer) if end < 0 else end + 1) > HEAD_LIMIT:
                return _refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head has over {HEAD_LIMIT} bytes")
            if end < 0:
                return None
            line = bytes(buffer[: end + 1])
            del buffer[: end + 1]
            self._taken += len(line)
            if not line.endswith(b"\r\n"):
                return _malformed("a line does not end with CR LF")
            event = self._line(line[:-2])
            if isinstance(event, Request):
                return Request(event.protocol, event.host, event.port, bytes(buffer))
            if event is not None:
                return event

    def _line(self, line: bytes) -> Event | None:
        if self._target is None:
            target = _request_line(line)
            if isinstance(target, Refuse):
                return target
            self._target = target
            return None
        return self._header(line) if line else self._end(self._target)

    def _header(self, line: bytes) -> Refuse | None:
        name, colon, raw = line.partition(b":")
        if not colon or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(raw):
            return _malformed("a header is not a name, a colon and a value on one line")
        name = name.lower()
        # Browsers add these to what a page asks for, never to what they ask of their own proxy.
        if name == b"origin" or name.startswith(b"sec-fetch-"):
            return _refuse(HTTPStatus.FORBIDDEN, "this port does not serve requests made by web pages")
        if name == b"proxy-authorization":
            if self._authorization is not None:
                return _malformed("Proxy-Authorization is there twice")
            self._authorization = raw.strip(b" \t")
        return None

    def _end(self, target: tuple[str, int]) -> Event:
        if self._credentials is not None and not _authorized(self._credentials, self._authorization):
            return _refuse(HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, "a user and password are required", _CHALLENGE)
        return Request(FrontProtocol.HTTP, *target)


def _request_line(line: bytes) -> tuple[str, int] | Refuse:
    parts = line.split(b" ")
    if len(parts) != 3 or not _TOKEN.fullmatch(parts[0]) or not _VERSION.fullmatch(parts[2]):
        return _malformed("the request line is not a method, a target and a version")
    method, target, version = parts
    if b"://" in target:
        return _refuse(
            HTTPStatus.NOT_IMPLEMENTED,
            "this port carries CONNECT and SOCKS only; for plain http:// set the proxy to socks5h:// with this address",
        )
    if method != b"CONNECT":
        return _refuse(HTTPStatus.METHOD_NOT_ALLOWED, "only CONNECT is understood here", "Allow: CONNECT")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return _refuse(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is understood here")
    match = _AUTHORITY.fullmatch(target.decode("latin-1"))
    if match is None:
        return _malformed("the target of CONNECT is not HOST:PORT")
    bracketed, name, port = match.groups()
    valid = is_host(name) if bracketed is None else is_ipv6(bracketed)
    if not valid or not 1 <= int(port) <= 65535:
        return _malformed("the target of CONNECT is not HOST:PORT")
    return bracketed or name, int(port)


def _authorized(credentials: Credentials, header: bytes | None) -> bool:
    scheme, _, encoded = (header or b"").partition(b" ")
    if scheme.lower() != b"basic":
        return False
    try:
        pair = base64.b64decode(encoded.strip(b" "), validate=True)
    except binascii.Error:
        return False
    user, _, password = pair.partition(b":")
    return credentials.accepts(user, password)


def _malformed(why: str) -> Refuse:
    return _refuse(HTTPStatus.BAD_REQUEST, why)


def _refuse(status: HTTPStatus, why: str, *headers: str) -> Refuse:
    return Refuse(http_reply(status, f"wraith: {why}", *headers), why)
