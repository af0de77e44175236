"""The server's side of SSH on one stream: who may log in, and which targets are opened for whom."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, cast

import asyncssh
from asyncssh.constants import (
    DISC_BY_APPLICATION,
    DISC_TOO_MANY_CONNECTIONS,
    OPEN_ADMINISTRATIVELY_PROHIBITED,
    OPEN_CONNECT_FAILED,
    OPEN_RESOURCE_SHORTAGE,
)

from wraith_transports import Dialer, DialError, DuplexStream, SupportsTrust, TransportInfo
from wraith_transports.tcp import dial_unix

from ..admission import Admission, NoRoom
from ..logs import event
from ..specs import PermitListen, PermitOpen, UnixBind
from ..splice import Splice
from .channel import ChannelStream, Opened
from .connection import BoundedServerConnection
from .grant import Grant
from .key_ring import KeyRing
from .login import Login
from .login_rules import Refusal
from .open_failure import refusal
from .port_registry import Claim, Place, PortHeld, PortRegistry
from .refusing_channel import RefusingChannel, refuse_session
from .remote_listeners import RemoteListeners

RESERVED_PREFIX = "wraith-"  # names of services of ours; never dialled
INSTANCE_BYTES = 16  # of the global request instance@wraith
PROBE_TIMEOUT_S = 3.0  # a session that holds a port somebody wants is given so long to show life
PROBE_STEP_S = 0.05

# asyncssh wants its own classes in these pairs, and uses of them no more than ChannelStream has.
UnixAnswer = tuple[asyncssh.SSHUNIXChannel[bytes], Awaitable[asyncssh.SSHUNIXSession[bytes]]]
SessionAnswer = tuple[asyncssh.SSHServerChannel[bytes], Awaitable[asyncssh.SSHServerSession[bytes]]]
ConnectionAnswer = tuple[asyncssh.SSHTCPChannel[bytes], Awaitable[asyncssh.SSHTCPSession[bytes]]]

logger = logging.getLogger(__name__)


CleanUp = Callable[[Coroutine[Any, Any, None]], None]  # runs what outlives the session it belongs to


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What one server allows all its sessions."""

    keys: KeyRing
    permit_open: PermitOpen
    dialer: Dialer
    max_auth_attempts: int
    max_channels: int
    permit_listen: PermitListen
    gateway_ports: bool
    registry: PortRegistry
    admission: Admission
    clean_up: CleanUp


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
        self._login = Login(rules.keys, info.remote_address[0], rules.max_auth_attempts)
        self._instance: bytes | None = None
        self._listeners: RemoteListeners | None = None

    # The connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Note the connection."""
        assert isinstance(conn, BoundedServerConnection)
        self._connection = conn
        conn.bounds.exchanged = lambda: self._rules.admission.exchanged(self._name)
        host, port = self._info.remote_address
        self._log(logging.INFO, "connection opened", remote_addr=host, transport=self._info.kind, remote_port=port)

    def connection_lost(self, exc: Exception | None) -> None:
        """Say how it ended, and close what it had us listen on."""
        if self._listeners is not None:
            self._rules.clean_up(self._listeners.aclose(self._claim()))
        if self._login.failed:
            self._log_attempt()
        duration = f"{asyncio.get_running_loop().time() - self._began_at:.2f}"
        # A peer chooses the words of a disconnect; the class of the error is ours.
        reason = {"reason": type(exc).__name__} if exc is not None else {}
        self._log(
            logging.INFO, "connection closed", remote_addr=self._info.remote_address[0], duration=duration, **reason
        )

    # Authentication

    def begin_auth(self, username: str) -> bool:
        """Ask for authentication, whoever it is."""
        self._login.user = username
        return True

    def public_key_auth_supported(self) -> bool:
        """Offer public keys, the only way in."""
        return True

    def asked(self) -> None:
        """Count a request of any kind. Raises asyncssh.PermissionDenied at the limit."""
        self._login.asked()

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
        """Note whether the signature was right. Raises asyncssh.DisconnectError when there is no room for a session."""
        if not proven:
            self._login.not_proven(blob)
            return
        self._login.proven(blob)  # and so not in the log as a reject, which gets people banned
        if not self._rules.admission.log_in(self._name):
            reason = NoRoom.SESSIONS.value
            self._log(logging.INFO, "connection refused", remote_addr=self._info.remote_address[0], reason=reason)
            raise asyncssh.DisconnectError(DISC_TOO_MANY_CONNECTIONS, "too many sessions")

    def auth_completed(self) -> None:
        """Note the login."""
        if self._connection is not None:
            self._listeners = RemoteListeners(
                self._connection,
                self._rules.registry,
                self._rules.permit_listen,
                gateway_ports=self._rules.gateway_ports,
                max_channels=self._rules.max_channels,
            )
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

    def unix_connection_requested(self, dest_path: str) -> UnixAnswer:
        """Judge a unix socket, then dial it. Raises asyncssh.ChannelOpenError."""
        grant = self.grant
        if grant is None or not (grant.permits_open_path and self._rules.permit_open.allows_path(dest_path)):
            raise _prohibited("the unix socket is not permitted")
        channel = ChannelStream(self._room_for_a_channel(), (dest_path, 0))
        return cast(UnixAnswer, (channel, self._dial_unix(dest_path)))

    # Remote forwards

    async def listen(self, bind: Place) -> int | None:
        """Listen for the client; see ListenRules. Never raises."""
        outcome: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()

        async def work() -> None:
            outcome.set_result(await self._listen(bind))

        # The server waits for this when it stops, as asyncssh does not for its tasks: it may hold a socket by then.
        self._rules.clean_up(work())
        return await asyncio.shield(outcome)

    async def _listen(self, bind: Place) -> int | None:
        listeners = self._listeners
        if listeners is None or not self._grants(bind):
            return None
        try:
            port = await listeners.listen(bind, self._claim())
        except PortHeld as held:
            self._tell_who_holds(held)
            return None
        except Exception:  # contained: one request, not the session
            logger.exception("listening for a client failed")
            return None
        if port is None:
            self._log(logging.INFO, "remote forward refused")
        return port

    def stop_listening(self, bind: Place) -> bool:
        """Stop; False if there is no such listener."""
        return self._listeners is not None and self._listeners.stop(bind, self._claim())

    def instance_named(self, instance: bytes) -> bool:
        """Note which process of wraith's client this is."""
        if len(instance) != INSTANCE_BYTES or self._instance is not None:
            return False
        self._instance = instance
        return True

    async def answers(self) -> bool:
        """Whether the client is alive: a byte comes within PROBE_TIMEOUT_S of a keepalive."""
        connection = self._connection
        if connection is None or connection.is_closed():
            return False
        loop = asyncio.get_running_loop()
        asked_at, heard = loop.time(), connection.bounds.heard
        connection.probe()
        while loop.time() - asked_at < PROBE_TIMEOUT_S and not connection.is_closed():
            await asyncio.sleep(PROBE_STEP_S)  # each byte that comes is noted; nobody is called for it
            if connection.bounds.heard > heard:
                return True
        return False

    async def end_whole(self) -> None:
        """End the session for another of the same client, its listeners first."""
        if self._listeners is not None:
            await self._listeners.aclose(self._claim())
        self._stream.abort()

    def _grants(self, bind: Place) -> bool:
        grant = self.grant
        if grant is None:
            return False
        return grant.permits_listen_path if isinstance(bind, UnixBind) else grant.permits_listen(bind.host, bind.port)

    def _claim(self) -> Claim:
        return Claim(self, self.grant.credential if self.grant is not None else None, self._instance)

    def _tell_who_holds(self, held: PortHeld) -> None:
        self._log(logging.INFO, "remote forward refused: held by another session")
        if held.since is not None and self._connection is not None:
            since = held.since.strftime("%Y-%m-%d %H:%M:%S UTC")
            self._connection.send_debug(f"held by another session of this key since {since}", always_display=True)

    async def _dial(self, host: str, port: int) -> Opened:
        try:
            target = await self._rules.dialer.dial(host, port)
        except DialError as error:
            raise refusal(error.reason) from error

        return lambda channel: _splice(channel, target)

    async def _dial_unix(self, path: str) -> Opened:
        try:
            target = await dial_unix(path)
        except DialError as error:
            raise refusal(error.reason) from error
        return lambda channel: _splice(channel, target)

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


def _splice(channel: ChannelStream, target: DuplexStream) -> None:
    Splice(channel, target)


def is_reserved(host: str) -> bool:
    """Whether a name is one of wraith's own services: case and a trailing dot do not matter."""
    return host.rstrip(".").lower().startswith(RESERVED_PREFIX)


def _prohibited(words: str) -> asyncssh.ChannelOpenError:
    return asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, words)
