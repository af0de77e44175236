"""The client's side of SSH: logs in on a stream, and opens channels to targets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import asyncssh
from asyncssh.constants import OPEN_ADMINISTRATIVELY_PROHIBITED
from asyncssh.packet import String, UInt32
from asyncssh.saslprep import SASLPrepError

from wraith_transports import DuplexStream, format_address

from ..errors import AuthenticationRefused, ConnectFailed, ExitCode, SessionLost, UsageError, WraithError, WrongPeer
from ..opening import OpenFailed
from ..specs import UnixBind
from .attach import CLOSE_TIMEOUT_S, ClientAttachment
from .budget import SESSION_CREDIT, CreditBudget
from .channel import Opened, open_direct_streamlocal, open_direct_tcpip
from .connection import BoundedClientConnection, BoundedConnection
from .forward_requests import ForwardedOpen
from .host_key_policy import HostKeyChecker
from .identities import Identities
from .link import SSHLink
from .open_failure import refusal_of
from .port_registry import Place


class ForwardRefused(WraithError):
    """The server does not listen where it was asked to; the session itself is unharmed."""

    exit_code = ExitCode.ADDRESS_UNAVAILABLE

    def __init__(self, bind: Place, words: str) -> None:
        self.bind = bind
        super().__init__(f"the server refused to listen on {bind}: {words or 'taken there, or not permitted'}")


CHANNELS_TIMEOUT_S = 1.0  # at the end, for what channels still have to send

TakeForwarded = Callable[[ForwardedOpen], Awaitable[Callable[[DuplexStream], None]]]

logger = logging.getLogger(__name__)


class ClientSession:
    """A logged-in SSH session."""

    def __init__(self, connection: BoundedClientConnection, link: SSHLink, owner: _Owner) -> None:
        self._connection = connection
        self._link = link
        self._owner = owner

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        """Open a stream to host and port as the server sees them. Raises OpenFailed."""
        return await open_direct_tcpip(self._connection, host, port, origin)

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Open a stream to a unix socket of the server's. Raises OpenFailed."""
        return await open_direct_streamlocal(self._connection, path)

    def on_forwarded(self, take: TakeForwarded) -> None:
        """Say what becomes of connections that come to remote forwards: `take` opens their target.

        It raises OpenFailed, or LookupError for a forward that was not asked for.
        """

        async def handle(request: ForwardedOpen) -> Opened:
            try:
                return await take(request)
            except OpenFailed as error:
                raise refusal_of(error) from error
            except LookupError as error:
                raise asyncssh.ChannelOpenError(OPEN_ADMINISTRATIVELY_PROHIBITED, "not asked for") from error

        self._connection.bounds.forwarded = handle

    def name_instance(self, instance: bytes) -> None:
        """Tell a wraith server which process we are. Another server does not know the request, and need not answer."""
        self._connection.tell(b"instance@wraith", String(instance))

    async def listen(self, bind: Place) -> int:
        """Have the server listen; the real port, 0 for a unix socket. Raises ForwardRefused or SessionLost."""
        self._owner.last_words = ""
        if isinstance(bind, UnixBind):
            answer = await self._connection.request(b"streamlocal-forward@openssh.com", String(bind.path))
        else:
            answer = await self._connection.request(b"tcpip-forward", String(bind.host), UInt32(bind.port))
        if answer is None and self._connection.has_ended:
            raise SessionLost("the session ended before the server had answered")
        if answer is None:
            raise ForwardRefused(bind, self._owner.last_words)
        if isinstance(bind, UnixBind):
            return 0
        return int.from_bytes(answer[:4], "big") if bind.port == 0 and len(answer) >= 4 else bind.port

    async def wait_lost(self) -> Exception | None:
        """Wait until the session is over; the reason, or None when it ended by agreement."""
        return await asyncio.shield(self._owner.lost)

    async def aclose(self) -> None:
        """Close the channels, then the connection; bounded; never raises."""
        await close_connection(self._connection, self._link)


async def close_connection(connection: BoundedConnection, link: SSHLink) -> None:
    """End in the order that loses nothing: channels, connection, stream. Bounded by the timeouts above."""
    for channel in connection.channels:
        channel.cut_off()
    loop = asyncio.get_running_loop()
    deadline = loop.time() + CHANNELS_TIMEOUT_S
    while connection.channels and not connection.is_closed() and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)  # asyncssh announces no last channel
    connection.close()
    # asyncssh is done when it has said so; the stream when that has arrived.
    await link.wait_ended(CLOSE_TIMEOUT_S)


async def start_client(
    stream: DuplexStream, *, host: str, port: int, user: str, identities: Identities, host_keys: HostKeyChecker
) -> ClientSession:
    """Log in. Raises ConnectFailed, WrongPeer, AuthenticationRefused or UnusableFile; the stream is closed then."""
    attachment = ClientAttachment(stream, CreditBudget(SESSION_CREDIT))
    owner = _Owner(host_keys)
    try:
        connection = await attachment.start(
            host,
            port,
            client_factory=lambda: owner,
            username=user,
            client_keys=list(identities.client_keys),  # a tuple would be a key and its certificate
            known_hosts=host_keys.known_hosts,
            server_host_key_algs=host_keys.server_host_key_algs,
        )
    except SASLPrepError as error:
        raise UsageError(f"the user name {user!a} cannot be used: {error}") from error
    except (asyncssh.Error, OSError, WraithError) as error:
        if host_keys.failure is not None:
            raise host_keys.failure from error
        raise _translated(error, format_address(host, port), user, attachment) from error
    assert attachment.link is not None
    return ClientSession(connection, attachment.link, owner)


class _Owner(asyncssh.SSHClient):
    """What asyncssh tells of the connection."""

    def __init__(self, host_keys: HostKeyChecker) -> None:
        self._host_keys = host_keys
        self.last_words = ""  # of the server, said to be shown to a person
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(exc)

    def debug_msg_received(self, msg: str, lang: str, always_display: bool) -> None:
        del lang
        if always_display:
            self.last_words = "".join(character if character.isprintable() else "?" for character in msg[:200])

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        del host, addr, port
        return self._host_keys.accepts(key)


def _translated(error: Exception, where: str, user: str, attachment: ClientAttachment) -> WraithError:
    """Say in wraith's terms why a session did not start."""
    if isinstance(error, WraithError):
        return error
    if isinstance(error, asyncssh.HostKeyNotVerifiable):
        return WrongPeer(f"{where}: the host key is not accepted: {_shown(error)}")
    if isinstance(error, asyncssh.PermissionDenied):
        return AuthenticationRefused(
            f"{where} refused every key offered for user {user!a}; is the key in its authorized_keys, "
            "and is -l the right user?"
        )
    version = attachment.connection.get_extra_info("server_version") if attachment.connection else None
    if version is None:
        return ConnectFailed(f"{where} {_not_ssh(attachment, error)}")
    if isinstance(error, asyncssh.KeyExchangeFailed):
        return ConnectFailed(f"{where}: no common algorithm or a failed key exchange: {_shown(error)}")
    if not attachment.encrypted:
        # sshd for one closes without a word when nothing matches.
        return ConnectFailed(
            f"{where} broke off the key exchange, perhaps for want of a common algorithm: {_shown(error)}"
        )
    return ConnectFailed(f"{where}: the connection ended before the login: {_shown(error)}")


def _not_ssh(attachment: ClientAttachment, error: Exception) -> str:
    first = attachment.link.first_bytes if attachment.link is not None else b""
    if first.startswith((b"\x15\x03", b"\x16\x03")):
        return "speaks TLS, not SSH: try --transport tls"
    if first.startswith(b"HTTP/"):
        return "answered as a web server, not SSH: if it is wraith's TLS port, try --transport tls"
    if first.startswith(b"SSH-"):
        return "speaks a version of SSH that is not 2.0"
    if first:
        return "does not speak SSH"
    if isinstance(error, asyncssh.ConnectionLost) and "within" in str(error):
        return f"sent nothing: {_shown(error)}"
    return "closed the connection without a word of SSH"


def _shown(error: Exception) -> str:
    words = error.reason if isinstance(error, asyncssh.Error) else getattr(error, "strerror", None) or str(error)
    return "".join(character if character.isprintable() else "?" for character in words[:300])
