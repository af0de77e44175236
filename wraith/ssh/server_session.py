"""The server's side of SSH on one stream: who may log in, and which targets are opened for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import cast

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED, OPEN_CONNECT_FAILED, OPEN_RESOURCE_SHORTAGE

from wraith_transports import Dialer, DialError, DuplexStream, SupportsTrust, TransportInfo

from ..logs import event
from ..specs import PermitOpen
from ..splice import Splice
from .algorithms import refuse_old_signatures
from .channel import ChannelStream, Opened
from .connection import BoundedServerConnection
from .key_files import fingerprint
from .key_ring import KeyRing
from .open_failure import refusal
from .refusing_channel import RefusingChannel, refuse_session

RESERVED_PREFIX = "wraith-"  # names of services of ours; never dialled
REQUESTS_A_KEY = 4  # a client asks about a key, signs with it, and may repeat both under another user name

# asyncssh wants its own classes in these pairs, and uses of them no more than ChannelStream has.
SessionAnswer = tuple[asyncssh.SSHServerChannel[bytes], Awaitable[asyncssh.SSHServerSession[bytes]]]
ConnectionAnswer = tuple[asyncssh.SSHTCPChannel[bytes], Awaitable[asyncssh.SSHTCPSession[bytes]]]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What one server allows all its sessions."""

    keys: KeyRing
    permit_open: PermitOpen
    dialer: Dialer
    max_auth_attempts: int
    max_channels: int


class ServerSession(asyncssh.SSHServer):
    """What asyncssh asks and tells about one connection.

    Targets are never logged (adr/006), at any level.
    """

    def __init__(self, rules: ServerRules, stream: DuplexStream, info: TransportInfo, name: str) -> None:
        """Prepare for a connection on `stream`, called `name` in the logs."""
        self._rules = rules
        self._stream = stream
        self._info = info
        self._name = name
        self._began_at = asyncio.get_running_loop().time()
        self._connection: BoundedServerConnection | None = None
        self._user = ""
        self._tried: dict[bytes, str] = {}  # public data of the keys offered, with why each was refused ("" if not)
        self._last_fingerprint = ""
        self._requests = 0
        self._logged_in = False

    # The connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Note the connection."""
        assert isinstance(conn, BoundedServerConnection)
        self._connection = conn
        host, port = self._info.remote_address
        self._log(logging.INFO, "connection opened", remote_addr=host, transport=self._info.kind, remote_port=port)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say how it ended."""
        if self._tried and not self._logged_in:
            self._log_attempt("reject")
        duration = f"{asyncio.get_running_loop().time() - self._began_at:.2f}"
        # A peer chooses the words of a disconnect; the class of the error is ours.
        reason = {"reason": type(exc).__name__} if exc is not None else {}
        self._log(
            logging.INFO, "connection closed", remote_addr=self._info.remote_address[0], duration=duration, **reason
        )

    # Authentication

    def begin_auth(self, username: str) -> bool:
        """Ask for authentication, whoever it is."""
        self._user = username
        return True

    def public_key_auth_supported(self) -> bool:
        """Offer public keys, the only way in."""
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Judge an offered key; asyncssh checks the signature. Raises asyncssh.PermissionDenied at the limit."""
        self._user = username
        data = key.public_data
        self._requests += 1
        if data not in self._tried and len(self._tried) >= self._rules.max_auth_attempts:
            raise asyncssh.PermissionDenied("Too many authentication failures")
        if self._requests > self._rules.max_auth_attempts * REQUESTS_A_KEY:
            raise asyncssh.PermissionDenied("Too many authentication requests")
        refuse_old_signatures(key)
        found = self._rules.keys.find(data)
        self._tried[data] = "" if found is not None else "unknown-key"
        self._last_fingerprint = fingerprint(key)
        self._log(
            logging.DEBUG,
            "key offered",
            key_fingerprint=self._last_fingerprint,
            result="known" if found is not None else "unknown",
        )
        return found is not None

    def auth_completed(self) -> None:
        """Note the login."""
        self._logged_in = True
        if isinstance(self._stream, SupportsTrust):
            self._stream.trust()
        self._log_attempt("accept")

    def _log_attempt(self, result: str) -> None:
        refused = list(self._tried.values())[-1] if self._tried else ""
        reason = {} if result == "accept" else {"reason": refused or "bad-signature"}
        self._log(
            logging.INFO,
            "auth attempt",
            remote_addr=self._info.remote_address[0],
            user=self._user,
            key_fingerprint=self._last_fingerprint,
            result=result,
            keys_tried=len(self._tried),
            **reason,
        )

    # Channels

    def session_requested(self) -> SessionAnswer:
        """Give a session channel that has no shell."""
        connection = self._room_for_a_channel()

        async def opened() -> Opened:
            return refuse_session

        return cast(SessionAnswer, (RefusingChannel(connection, ("", 0)), opened()))

    def connection_requested(self, dest_host: str, dest_port: int, orig_host: str, orig_port: int) -> ConnectionAnswer:
        """Judge a target, then dial it while the client waits. Raises asyncssh.ChannelOpenError."""
        del orig_host, orig_port
        if is_reserved(dest_host):
            raise _prohibited("a reserved name")
        if not self._rules.permit_open.allows(dest_host, dest_port):
            raise _prohibited("the target is not permitted")
        connection = self._room_for_a_channel()
        channel = ChannelStream(connection, (dest_host, dest_port))
        return cast(ConnectionAnswer, (channel, self._dial(dest_host, dest_port)))

    def unix_connection_requested(self, dest_path: str) -> bool:
        """Refuse: no unix socket is listed."""
        del dest_path
        raise _prohibited("unix sockets are not permitted")

    def server_requested(self, listen_host: str, listen_port: int) -> bool:
        """Refuse to listen."""
        del listen_host, listen_port
        return False

    def unix_server_requested(self, listen_path: str) -> bool:
        """Refuse to listen."""
        del listen_path
        return False

    async def _dial(self, host: str, port: int) -> Opened:
        try:
            target = await self._rules.dialer.dial(host, port)
        except DialError as error:
            raise refusal(error.reason) from error

        def opened(channel: ChannelStream) -> None:
            Splice(channel, target)

        return opened

    def _room_for_a_channel(self) -> BoundedServerConnection:
        connection = self._connection
        if connection is None:
            raise asyncssh.ChannelOpenError(OPEN_CONNECT_FAILED, "the session has ended")
        # Channels that are still being dialled are among them.
        if len(connection.channels) >= self._rules.max_channels:
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
        return connection

    def _log(self, level: int, message: str, **fields: object) -> None:
        event(logger, level, message, **fields, session=self._name)


def is_reserved(host: str) -> bool:
    """Whether a name is one of wraith's own services: case and a trailing dot do not matter."""
    return host.rstrip(".").lower().startswith(RESERVED_PREFIX)


def _prohibited(words: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, words)
