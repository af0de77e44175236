"""The server's side of SSH on one stream: who may log in, and which targets are opened for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

import asyncssh
from asyncssh.constants import (
    DISC_BY_APPLICATION,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)

from wraith_transports import Dialer, DialError, DuplexStream, SupportsTrust, TransportInfo

from ..logs import event
from ..specs import PermitOpen
from ..splice import Splice
from .channel import ChannelStream, Opened
from .connection import BoundedServerConnection
from .grant import Grant
from .key_ring import KeyRing
from .login import Login
from .login_rules import Refusal
from .open_failure import refusal
from .refusing_channel import RefusingChannel, refuse_session

RESERVED_PREFIX = "wraith-"  # names of services of ours; never dialled

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

    def __init__(
        self, rules: ServerRules, stream: DuplexStream, info: TransportInfo, name: str, ended: Callable[[], None]
    ) -> None:
        """Prepare for a connection on `stream`; `ended` is called when it is over."""
        self._rules = rules
        self._stream = stream
        self._info = info
        self._name = name
        self._ended = ended
        self._began_at = asyncio.get_running_loop().time()
        self._connection: BoundedServerConnection | None = None
        self._login = Login(rules.keys, info.remote_address[0], rules.max_auth_attempts)

    # The connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Note the connection."""
        assert isinstance(conn, BoundedServerConnection)
        self._connection = conn
        host, port = self._info.remote_address
        self._log(logging.INFO, "connection opened", remote_addr=host, transport=self._info.kind, remote_port=port)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say how it ended."""
        if self._login.tried and self._login.grant is None:
            self._log_attempt()
        duration = f"{asyncio.get_running_loop().time() - self._began_at:.2f}"
        # A peer chooses the words of a disconnect; the class of the error is ours.
        reason = {"reason": type(exc).__name__} if exc is not None else {}
        self._log(
            logging.INFO, "connection closed", remote_addr=self._info.remote_address[0], duration=duration, **reason
        )
        self._ended()

    # Authentication

    def begin_auth(self, username: str) -> bool:
        """Ask for authentication, whoever it is."""
        self._login.user = username
        return True

    def public_key_auth_supported(self) -> bool:
        """Offer public keys, the only way in."""
        return True

    def key_offered(self, user: str, blob: bytes) -> asyncssh.SSHKey | None:
        """Judge an offered key or certificate. Raises asyncssh.PermissionDenied at the limit."""
        attempt, key = self._login.offered(user, blob)
        refusal = attempt.verdict if isinstance(attempt.verdict, Refusal) else None
        self._log(
            logging.DEBUG,
            "key offered",
            key_fingerprint=attempt.fingerprint,
            result="refused" if refusal is not None else "known",
            reason=refusal.value if refusal is not None else None,
            detail=attempt.detail or None,
        )
        return key

    def key_proven(self, blob: bytes, proven: bool) -> None:
        """Note whether the signature was right."""
        if proven:
            self._login.proven(blob)
        else:
            self._login.not_proven(blob)

    def auth_completed(self) -> None:
        """Note the login."""
        if isinstance(self._stream, SupportsTrust):
            self._stream.trust()
        self._log_attempt()

    @property
    def grant(self) -> Grant | None:
        """What the login allows; None before it. A change of the files makes it another one."""
        return self._login.grant

    def judge_again(self) -> Refusal | None:
        """Judge the session by the files as they were last read; why it has to end, or None."""
        return self._login.judge_again()

    def end(self, refusal: Refusal) -> None:
        """End the session because what it rested on is gone."""
        self._log(logging.INFO, "session ended", remote_addr=self._info.remote_address[0], reason=refusal.value)
        if self._connection is not None:
            self._connection.disconnect(DISC_BY_APPLICATION, "the login is no longer valid")

    def _log_attempt(self) -> None:
        self._log(logging.INFO, "auth attempt", remote_addr=self._info.remote_address[0], **self._login.fields())

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
        if self.grant is None or not self.grant.permits_open(dest_host, dest_port):
            raise _prohibited("the target is not permitted for this key")
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
        if len(connection._channels) >= self._rules.max_channels:  # noqa: SLF001 - the only count there is
            raise asyncssh.ChannelOpenError(OPEN_RESOURCE_SHORTAGE, "too many channels")
        return connection

    def _log(self, level: int, message: str, **fields: object) -> None:
        event(logger, level, message, **fields, session=self._name)


def is_reserved(host: str) -> bool:
    """Whether a name is one of wraith's own services: case and a trailing dot do not matter."""
    return host.rstrip(".").lower().startswith(RESERVED_PREFIX)


def _prohibited(words: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, words)
