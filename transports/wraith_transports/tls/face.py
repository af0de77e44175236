"""What the TLS port answers to somebody who does not speak TLS: nginx's own page, byte for byte."""

from __future__ import annotations

from email.utils import formatdate

# nginx, src/http/ngx_http_special_response.c: the page of its internal status 497, with server_tokens off.
_PAGE = (
    b"<html>\r\n"
    b"<head><title>400 The plain HTTP request was sent to HTTPS port</title></head>\r\n"
    b"<body>\r\n"
    b"<center><h1>400 Bad Request</h1></center>\r\n"
    b"<center>The plain HTTP request was sent to HTTPS port</center>\r\n"
    b"<hr><center>nginx</center>\r\n"
    b"</body>\r\n"
    b"</html>\r\n"
)


def plain_http_answer(now: float) -> bytes:
    """Return the whole answer; `now` is Unix time, for the Date header."""
    head = (
        "HTTP/1.1 400 Bad Request\r\n"
        "Server: nginx\r\n"
        f"Date: {formatdate(now, usegmt=True)}\r\n"
        "Content-Type: text/html\r\n"
        f"Content-Length: {len(_PAGE)}\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    return head.encode("ascii") + _PAGE
