"""The library's client: one SSH session over one transport."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from wraith_transports import DuplexStream, FailureKind, Family, TcpTransport, Transport, TransportError
from wraith_transports.proxy import dialer_for
from wraith_transports.tls import TlsTransport, Verification

from .errors import ConnectFailed, SessionLost, UnusableFile, WraithError, WrongPeer
from .opening import OpenFailed, OpenFailure
from .options import AddressFamily, ConnectOptions, default_directory
from .presets import PRESETS, Security
from .specs import TcpBind, UnixBind
from .ssh.client_session import ClientSession, TakeForwarded, start_client
from .ssh.host_key_policy import HostKeyChecker, HostKeyPolicy
from .ssh.identities import Identities, load_identities
from .ssh.known_hosts import load_known_hosts

_FAMILIES = {
    AddressFamily.ANY: Family.ANY,
    AddressFamily.IPV4: Family.IPV4,
    AddressFamily.IPV6: Family.IPV6,
}


class Session:
    """One SSH session, from `async with` to its end.

    Entering dials, checks the server's key and logs in; leaving disconnects. What was opened
    through it ends with it.
    """

    def __init__(
        self, options: ConnectOptions, *, identities: Identities | None = None, instance: bytes | None = None
    ) -> None:
        """Prepare. `identities` that several sessions share are unlocked once; `instance` names the process."""
        self._options = options
        self._identities = identities
        self._instance = instance
        self._transport = make_transport(options)
        self._session: ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Dial and log in; cancelling leaves nothing open.

        Raises ConnectFailed, WrongPeer, AuthenticationRefused or UnusableFile.
        """
        options = self._options
        policy = HostKeyPolicy(options.known_hosts, options.host_key_check, options.host_keys)
        known = load_known_hosts(options.known_hosts)  # before anything is dialled: it may be unusable
        identities = self._identities or await identities_of(options)
        try:
            try:
                stream, info = await self._transport.connect()
            except TransportError as error:
                raise _translated(error) from error
            checker = HostKeyChecker(
                policy,
                options.host,
                options.server_port,
                # Behind a proxy it would be the proxy's, which says nothing of the server.
                address=info.remote_address[0] if options.proxy is None else None,
                ask=options.confirm_host_key,
                known=known,
            )
            self._session = await start_client(
                stream,
                host=options.host,
                port=options.server_port,
                user=options.user,
                identities=identities,
                host_keys=checker,
            )
        finally:
            await identities.aclose()
        if self._instance is not None:
            self._session.name_instance(self._instance)

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        """Open a stream to host and port as the server sees them; the server resolves the name.

        `origin` is who asks, told to the server as SSH does. Attach a protocol to the stream, or hand
        it to `splice`. Cancelling leaves nothing open. Raises OpenFailed.
        """
        if self._session is None or self._closed:
            raise OpenFailed("there is no session", OpenFailure.SESSION_DOWN)
        return await self._session.open_connection(host, port, origin=origin)

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Open a stream to a unix socket of the server's. Cancelling leaves nothing open. Raises OpenFailed."""
        if self._session is None or self._closed:
            raise OpenFailed("there is no session", OpenFailure.SESSION_DOWN)
        return await self._session.open_unix_connection(path)

    async def listen(self, bind: TcpBind | UnixBind) -> int:
        """Have the server listen; the real port, 0 for a unix socket. Raises ForwardRefused or SessionLost.

        What comes there is handed to the function given to `on_forwarded`.
        """
        if self._session is None or self._closed:
            raise SessionLost("there is no session")
        return await self._session.listen(bind)

    def on_forwarded(self, take: TakeForwarded) -> None:
        """Say what becomes of connections that come to where the server listens for us."""
        if self._session is not None:
            self._session.on_forwarded(take)

    async def wait_closed(self) -> None:
        """Wait for the end. Returns after `aclose`; raises SessionLost when the session ended by itself."""
        if self._session is None:
            return
        reason = await self._session.wait_lost()
        if not self._closed:
            raise SessionLost(f"the session with {self._transport.describe()} was lost: {_why(reason)}")

    async def aclose(self) -> None:
        """End channels, then the session; bounded, idempotent, never raises."""
        if self._closed:
            return
        self._closed = True
        if self._session is not None:
            await self._session.aclose()
        await self._transport.aclose()

    def describe(self) -> str:
        """Name the server and the way to it; no secrets."""
        return self._transport.describe()


def connect(options: ConnectOptions) -> Session:
    """Prepare a session: `async with wraith.connect(options) as session`. Raises UnusableFile for a bad CA file."""
    return Session(options)


async def identities_of(options: ConnectOptions) -> Identities:
    """Find the keys to offer. Raises UnusableFile."""
    return await load_identities(
        options.identities,
        folder=default_directory(),
        home=_home(),
        agent_socket=os.environ.get("SSH_AUTH_SOCK"),
        ask_passphrase=options.ask_passphrase,
        certificate=options.certificate,
    )


def make_transport(options: ConnectOptions) -> Transport:
    """Make the transport the options name."""
    dialer = dialer_for(options.proxy, _FAMILIES[options.family], peer_always_reads=True)
    if PRESETS[options.transport].security is Security.RAW:
        return TcpTransport(dialer, options.host, options.server_port)
    tls = options.tls
    verification = Verification(ca=tls.ca, pins=tls.pins, insecure=tls.insecure, server_name=tls.server_name)
    try:
        return TlsTransport(dialer, options.host, options.server_port, verification=verification)
    except TransportError as error:
        raise _translated(error) from error


def _translated(error: TransportError) -> WraithError:
    kinds: dict[FailureKind, type[WraithError]] = {
        FailureKind.UNTRUSTED: WrongPeer,
        FailureKind.CONFIGURATION: UnusableFile,
    }
    return kinds.get(error.kind, ConnectFailed)(str(error))


def _home() -> Path | None:
    with contextlib.suppress(RuntimeError):
        return Path.home()
    return None


def _why(reason: Exception | None) -> str:
    words = str(reason) if reason is not None else "the server closed it"
    return "".join(character if character.isprintable() else "?" for character in words[:300]) or "no reason given"
