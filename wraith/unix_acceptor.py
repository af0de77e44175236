"""Listens on a unix socket that only its owner may connect to."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from pathlib import Path

from wraith_transports import AcceptorClosed, AddressUnavailable
from wraith_transports.tcp import TcpStream

BACKLOG = 128
OWNER_ONLY = 0o600
PAUSE_WHEN_OUT_OF_FILES_S = 0.1
_OUT_OF_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

logger = logging.getLogger(__name__)


class UnixAcceptor:
    """Accepts on one path. Never replaces a file, and removes only the socket it made."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._socket: socket.socket | None = None
        self._identity: tuple[int, int] | None = None  # of the socket's file: device and inode
        self._accepting = False
        self._stopped = False

    async def start(self) -> None:
        """Bind and listen. Raises AddressUnavailable."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.bind(os.fspath(self._path))
            made = self._path.lstat()
            self._identity = (made.st_dev, made.st_ino)
            # Before listen(), so that nobody connects in between.
            self._path.chmod(OWNER_ONLY)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            self._remove()
            raise AddressUnavailable(f"cannot listen on {self._path}: {_reason(error)}") from error
        self._socket = sock

    def addresses(self) -> list[str]:
        """Name the path."""
        return [str(self._path)] if self._socket is not None else []

    async def accept(self) -> TcpStream:
        """Wait for the next connection; one caller at a time. Raises AcceptorClosed once stopped."""
        sock = self._socket
        if sock is None or self._stopped:
            raise AcceptorClosed
        self._accepting = True
        try:
            return await self._accept_on(sock)
        finally:
            self._accepting = False
            self._release()

    def stop(self) -> None:
        """Remove the socket's file and stop listening; a waiting accept() must be cancelled by its owner."""
        if self._stopped:
            return
        self._stopped = True
        self._remove()
        self._release()

    async def aclose(self) -> None:
        """Stop; no stream is ever kept here."""
        self.stop()

    async def _accept_on(self, sock: socket.socket) -> TcpStream:
        loop = asyncio.get_running_loop()
        said = False
        while True:
            try:
                connection, _ = await loop.sock_accept(sock)
                return await TcpStream.from_socket(connection)
            except OSError as error:
                # Anything else belongs to the connection that was about to be accepted.
                if error.errno in _OUT_OF_FILES:
                    if not said:
                        said = True
                        logger.error("no file descriptor is free: accepting pauses until one is")
                    await asyncio.sleep(PAUSE_WHEN_OUT_OF_FILES_S)

    def _release(self) -> None:
        # While the loop still watches the descriptor its number must not become somebody else's.
        if self._stopped and not self._accepting and self._socket is not None:
            self._socket.close()

    def _remove(self) -> None:
        if self._identity is None:
            return
        with contextlib.suppress(OSError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self._path.unlink()


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "there is a file of that name; remove it if nothing uses it, or choose another path"
        case errno.ENOENT | errno.ENOTDIR:
            return "the folder does not exist; create it, or choose another path"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "the folder does not let us make it; choose another path"
        case number:
            return os.strerror(number).lower() if number else str(error)
