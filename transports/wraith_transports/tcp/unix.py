"""Dials unix sockets."""

from __future__ import annotations

import asyncio
import errno
import os
import socket

from ..errors import DialError, DialFailure
from ..stream import DuplexStream
from .stream import TcpStream

UNIX_DIAL_TIMEOUT_S = 10.0  # a full backlog is all there is to wait for

_REASONS = {
    errno.ECONNREFUSED: DialFailure.REFUSED,
    errno.ENOENT: DialFailure.NOT_FOUND,
    errno.ENOTDIR: DialFailure.NOT_FOUND,
    errno.EACCES: DialFailure.NOT_ALLOWED,
    errno.EPERM: DialFailure.NOT_ALLOWED,
    # A full backlog answers a non-blocking connect at once (unix(7)).
    errno.EAGAIN: DialFailure.REFUSED,
}


async def dial_unix(path: str, *, timeout_s: float = UNIX_DIAL_TIMEOUT_S) -> DuplexStream:
    """Connect to a unix socket. Cancelling leaves nothing open. Raises DialError."""
    if not hasattr(socket, "AF_UNIX"):
        raise DialError(f"{path}: there are no unix sockets on this system", DialFailure.OTHER)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().sock_connect(sock, path)
            return await TcpStream.from_socket(sock)
    except TimeoutError as error:
        sock.close()
        raise DialError(f"{path}: no answer within {timeout_s:g} s", DialFailure.TIMED_OUT) from error
    except OSError as error:
        sock.close()
        words = os.strerror(error.errno).lower() if error.errno else str(error)
        raise DialError(f"{path}: {words}", _REASONS.get(error.errno or 0, DialFailure.OTHER)) from error
    except (ValueError, UnicodeError) as error:
        sock.close()
        raise DialError(f"{path}: not the path of a socket", DialFailure.NOT_FOUND) from error
    except BaseException:
        sock.close()
        raise
