"""The library's server: accepts SSH sessions from one or more transports."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncssh

from wraith_transports import (
    AcceptorClosed,
    Dialer,
    DirectDialer,
    DuplexStream,
    TcpAcceptor,
    TransportAcceptor,
    TransportInfo,
    is_public,
)
from wraith_transports import AddressUnavailable as TransportAddressUnavailable
from wraith_transports.tls import TlsAcceptor

from .admission import Admission, NoRoom
from .errors import AddressUnavailable, UnusableFile
from .logs import event
from .options import ServeOptions, default_directory
from .paths import HOST_KEY
from .presets import PRESETS, Security
from .served_certificate import ServedCertificate
from .specs import ListenSpec, Scheme
from .ssh.attach import ServerAttachment
from .ssh.budget import SESSION_CREDIT, TOTAL_CREDIT, CreditBudget
from .ssh.certificates import read_host_certificate
from .ssh.client_session import close_connection
from .ssh.connection import BoundedServerConnection
from .ssh.key_files import fingerprint, load_or_create_host_key, load_private_key
from .ssh.key_ring import KeyRing
from .ssh.link import SSHLink
from .ssh.port_registry import PortRegistry
from .ssh.server_session import ServerRules, ServerSession
from .ssh.session_watch import watch_sessions
from .target_proxy import TargetProxy

logger = logging.getLogger(__name__)


class Server:
    """Serves from `async with` until `aclose`, or until the block is left."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._acceptors: list[TransportAcceptor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: dict[str, tuple[BoundedServerConnection, SSHLink]] = {}
        self._cleanups: set[asyncio.Task[None]] = set()
        self._admission = Admission(max_per_address=options.max_connections_per_ip, max_sessions=options.max_sessions)
        self._sessions: dict[str, ServerSession] = {}
        self._credit = CreditBudget(TOTAL_CREDIT)
        self._certificate: ServedCertificate | None = None
        self._attachment: ServerAttachment | None = None
        self._rules: ServerRules | None = None
        self._closed = asyncio.Event()
        self._stopping = False
        self.host_key_fingerprint = ""
        self.host_key_created = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Read the keys, bind and listen. Raises UnusableFile or AddressUnavailable, and then nothing stays bound."""
        options = self._options
        host_key = self._load_host_key()
        self.host_key_fingerprint = fingerprint(host_key)
        self._rules = ServerRules(
            keys=KeyRing(
                options.authorized_keys,
                authorities=options.cert_authorities,
                principals=options.principals,
                revoked_keys=options.revoked_keys,
            ),
            permit_open=options.permit_open,
            dialer=_target_dialer(options),
            max_auth_attempts=options.max_auth_attempts,
            max_channels=options.max_channels,
            permit_listen=options.permit_listen,
            gateway_ports=options.gateway_ports,
            registry=PortRegistry(),
            admission=self._admission,
            clean_up=self._clean_up,
        )
        if any(PRESETS[spec.scheme or Scheme.TCP].security is Security.TLS for spec in options.listening):
            self._certificate = ServedCertificate(options.tls)
        self._attachment = await ServerAttachment.create(host_key, self._credit, self._load_host_certificate(host_key))
        try:
            for spec in options.listening:
                acceptor = self._make_acceptor(spec)
                self._acceptors.append(acceptor)
                await acceptor.start()
        except TransportAddressUnavailable as error:
            await self._close_acceptors()
            raise AddressUnavailable(f"{error} with --listen") from error
        except BaseException:
            await self._close_acceptors()
            raise
        self._tasks = [asyncio.create_task(self._accept_from(acceptor)) for acceptor in self._acceptors]
        self._tasks.append(asyncio.create_task(watch_sessions(self._rules.keys, lambda: list(self._sessions.values()))))

    def read_keys_again(self) -> None:
        """Read authorized_keys, authorities and revoked keys, changed or not; bad lines are logged and left out."""
        if self._rules is not None:
            self._rules.keys.refresh(always=True)

    async def reload(self) -> None:
        """Read keys and certificates again, changed or not; what a SIGHUP asks for. Never raises UnusableFile.

        What cannot be used is logged. A user's key that cannot be read lets nobody in any more; the
        server's own keys and certificates stay as they were.
        """
        if self._rules is None or self._stopping:
            return
        self.read_keys_again()
        try:
            await self._renew_host_key()
        except UnusableFile as error:
            event(logger, logging.ERROR, "the new host key cannot be used, the old one stays", reason=error)
        if self._certificate is not None:
            self._certificate.reload()

    @property
    def addresses(self) -> Sequence[str]:
        """Where it listens, as scheme://host:port with real ports."""
        return [address for acceptor in self._acceptors for address in acceptor.addresses()]

    @property
    def tls_pin(self) -> str | None:
        """The pin of a self-signed certificate, which clients cannot check otherwise."""
        return self._certificate.pin if self._certificate is not None else None

    @property
    def sessions(self) -> int:
        """How many connections there are now, logged in or not."""
        return len(self._connections)

    async def wait_closed(self) -> None:
        """Wait until the server was closed."""
        await self._closed.wait()

    async def aclose(self) -> None:
        """Stop accepting, end channels and sessions; bounded by 2 s, idempotent, never raises."""
        if self._stopping:
            await self._closed.wait()
            return
        self._stopping = True
        for acceptor in self._acceptors:
            acceptor.stop()
        await asyncio.gather(*(close_connection(*each) for each in list(self._connections.values())))
        while self._cleanups:
            await asyncio.wait(self._cleanups)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._close_acceptors()
        self._closed.set()

    def _load_host_key(self) -> asyncssh.SSHKey:
        source = self._options.key
        if isinstance(source, bytes):
            return load_private_key(source)
        if source is not None and source.exists():
            return load_private_key(source)
        loaded = load_or_create_host_key(source if source is not None else default_host_key())
        self.host_key_created = loaded.created
        return loaded.key

    async def _renew_host_key(self) -> None:
        """Show the host key and its certificate as they are now to whoever connects from here on."""
        source = self._options.key if self._options.key is not None else default_host_key()
        host_key = load_private_key(source)  # never made anew: clients know the one there was
        self._attachment = await ServerAttachment.create(host_key, self._credit, self._load_host_certificate(host_key))
        if fingerprint(host_key) != self.host_key_fingerprint:
            self.host_key_fingerprint = fingerprint(host_key)
            event(logger, logging.WARNING, "the host key is another one now", key_fingerprint=self.host_key_fingerprint)

    def _load_host_certificate(self, host_key: asyncssh.SSHKey) -> bytes | None:
        source = self._options.host_certificate
        if source is None:
            return None
        blob, certificate = read_host_certificate(source, host_key)
        if not certificate.valid_after <= time.time() < certificate.valid_before:
            event(logger, logging.WARNING, "the host certificate is not valid now", key_id=certificate.key_id)
        return blob

    def _make_acceptor(self, spec: ListenSpec) -> TransportAcceptor:
        preset = PRESETS[spec.scheme or Scheme.TCP]
        if preset.security is Security.RAW:
            return TcpAcceptor(spec.host, spec.port, peer_always_reads=True)
        assert self._certificate is not None
        certificate = self._certificate
        acceptor = TcpAcceptor(spec.host, spec.port, kind="tls", peer_always_reads=True)
        return TlsAcceptor(acceptor, lambda _hello: certificate.context())

    async def _close_acceptors(self) -> None:
        for acceptor in self._acceptors:
            await acceptor.aclose()

    async def _accept_from(self, acceptor: TransportAcceptor) -> None:
        with contextlib.suppress(AcceptorClosed):
            while True:
                self._start_session(*await acceptor.accept())

    def _start_session(self, stream: DuplexStream, info: TransportInfo) -> None:
        assert self._attachment is not None
        assert self._rules is not None
        name = secrets.token_hex(4)
        if self._stopping:
            stream.abort()
            return
        leaving = self._admission.arrive(name, info.remote_address[0])
        if isinstance(leaving, NoRoom):
            event(logger, logging.INFO, "connection refused", remote_addr=info.remote_address[0], reason=leaving.value)
            stream.abort()
            return
        for each in leaving:
            self._connections[each][1].reset()
        budget = CreditBudget(SESSION_CREDIT, self._credit)
        session = ServerSession(self._rules, stream, info, name)
        self._sessions[name] = session
        try:
            connection, link = self._attachment.start(stream, session, budget)
        except Exception:  # contained here: one connection, not the loop that accepts
            logger.exception("a session could not be started")
            self._forget(name)
            stream.abort()
            return
        self._connections[name] = connection, link
        link.ended.add_done_callback(lambda _: self._forget(name))

    def _clean_up(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._cleanups.add(task)
        task.add_done_callback(self._cleanups.discard)

    def _forget(self, name: str) -> None:
        self._connections.pop(name, None)
        self._sessions.pop(name, None)
        self._admission.leave(name)


def _target_dialer(options: ServeOptions) -> Dialer:
    if options.proxy is not None:
        return TargetProxy(options.proxy)
    return DirectDialer(allows=is_public if options.deny_private else None)


def serve(options: ServeOptions) -> Server:
    """Prepare a server: `async with wraith.serve(options) as server`."""
    return Server(options)


def default_host_key() -> Path:
    """Name the host key file that is made on the first start."""
    return default_directory() / HOST_KEY
