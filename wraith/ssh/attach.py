"""The one place where asyncssh meets a stream: it believes that it tunnels through something, and that is us."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import asyncssh

from wraith_transports import DuplexStream

from .algorithms import installed, refuse_old_host_key_algorithms, version_string
from .budget import CreditBudget
from .connection import BoundedClientConnection, BoundedConnection, BoundedServerConnection, bound
from .link import SSHLink

REKEY_BYTES = 1 << 30  # RFC 4253, section 9
REKEY_SECONDS = 3600
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_COUNT = 3  # a peer that leaves so many unanswered is dead
VERSION_TIMEOUT_S = 5.0  # a server waits so long for the client's version line
CLIENT_VERSION_TIMEOUT_S = 10.0  # a client for the server's, which may have other things to do first
KEY_EXCHANGE_TIMEOUT_S = 20.0  # from the start to the peer's NEWKEYS
LOGIN_TIMEOUT_S = 60.0  # a server's limit for everything up to the login
CLOSE_TIMEOUT_S = 0.5  # for the last message of a connection to arrive and the peer to close
CLIENT_LOGIN_TIMEOUT_S = 180.0  # a client's: a person may be looking for a passphrase

ConnectionFactory = Callable[..., Any]  # asyncssh's, private by type


def _attach(connection: BoundedConnection, stream: DuplexStream, version_timeout_s: float) -> SSHLink:
    link = SSHLink(stream, connection)
    connection.bounds.link = link
    connection.watch_handshake(version_timeout_s, KEY_EXCHANGE_TIMEOUT_S)
    return link


def _common() -> dict[str, Any]:
    """Options both sides share. Everything asyncssh would look up in ~/.ssh by itself is said here."""
    return {
        "config": None,
        "gss_host": None,
        "host_based_auth": False,
        "kbdint_auth": False,
        "password_auth": False,
        "keepalive_interval": KEEPALIVE_INTERVAL_S,
        "keepalive_count_max": KEEPALIVE_COUNT,
        "rekey_bytes": REKEY_BYTES,
        "rekey_seconds": REKEY_SECONDS,
        **installed().arguments(),
    }


class ClientAttachment:
    """One attempt to start an SSH client on a stream; keeps what is worth knowing when it fails."""

    def __init__(self, stream: DuplexStream, budget: CreditBudget) -> None:
        self._stream = stream
        self._budget = budget
        self.connection: BoundedConnection | None = None
        self.link: SSHLink | None = None

    @property
    def encrypted(self) -> bool:
        """Whether the first key exchange was completed."""
        return self.connection is not None and self.connection.get_extra_info("recv_cipher") is not None

    async def create_connection(
        self, factory: ConnectionFactory, host: str, port: int
    ) -> tuple[SSHLink, BoundedConnection]:
        """Give asyncssh its transport (it calls this)."""
        del host, port
        self.connection = bound(factory(), self._budget)
        self.link = _attach(self.connection, self._stream, CLIENT_VERSION_TIMEOUT_S)
        return self.link, self.connection

    async def start(self, host: str, port: int, **options: Any) -> BoundedClientConnection:
        """Run key exchange and login. Raises what asyncssh raises; the stream is gone then."""
        try:
            connection = await asyncssh.connect(
                host,
                port,
                tunnel=self,
                client_version=version_string(),
                login_timeout=CLIENT_LOGIN_TIMEOUT_S,
                agent_path=None,
                preferred_auth=("publickey",),
                **_common(),
                **options,
            )
        except asyncio.CancelledError:
            self._stream.abort()
            raise
        except BaseException:
            self._stream.close()
            if self.link is not None:
                await self.link.wait_ended(CLOSE_TIMEOUT_S)
            raise
        assert isinstance(connection, BoundedClientConnection)
        return connection


class ServerAttachment:
    """Starts SSH servers on streams, all with the same host key and options."""

    def __init__(self, budget: CreditBudget) -> None:
        self._budget = budget
        self._factory: ConnectionFactory | None = None
        self._owner: asyncssh.SSHServer | None = None

    @classmethod
    async def create(
        cls, host_key: asyncssh.SSHKey, total: CreditBudget, certificate: bytes | None = None
    ) -> ServerAttachment:
        """Prepare; the host key's own SHA-1 signatures are not offered.

        With a `certificate` of the host key, as encoded, clients may ask for either.
        """
        attachment = cls(total)
        pairs = asyncssh.load_keypairs([_with_certificate(host_key, certificate)])
        for pair in pairs:
            refuse_old_host_key_algorithms(pair)
        await asyncssh.listen(
            tunnel=attachment,
            server_factory=attachment._take_owner,
            server_host_keys=list(pairs),
            server_version=version_string(),
            login_timeout=LOGIN_TIMEOUT_S,
            public_key_auth=True,
            send_server_host_keys=False,
            allow_pty=False,
            agent_forwarding=False,
            x11_forwarding=False,
            **_common(),
        )
        return attachment

    async def create_server(self, factory: ConnectionFactory, host: str, port: int) -> _NoListener:
        """Give asyncssh its listener (it calls this): there is none, streams come by `start`."""
        del host, port
        self._factory = factory
        return _NoListener()

    def start(
        self, stream: DuplexStream, owner: asyncssh.SSHServer, budget: CreditBudget
    ) -> tuple[BoundedServerConnection, SSHLink]:
        """Run a server on the stream, with `owner` deciding."""
        assert self._factory is not None
        self._owner = owner
        connection = bound(self._factory("", 0), budget)
        assert isinstance(connection, BoundedServerConnection)
        return connection, _attach(connection, stream, VERSION_TIMEOUT_S)

    def _take_owner(self) -> asyncssh.SSHServer:
        # Called from within start(), when the link introduces itself to the connection.
        owner, self._owner = self._owner, None
        assert owner is not None
        return owner


def _with_certificate(key: asyncssh.SSHKey, certificate: bytes | None) -> Any:
    if certificate is None:
        return key
    name = certificate[4 : 4 + int.from_bytes(certificate[:4], "big")]
    return key, asyncssh.import_certificate(b"%s %s" % (name, base64.b64encode(certificate)))


class _NoListener:
    def close(self) -> None:
        """Do nothing."""

    async def wait_closed(self) -> None:
        """Return at once."""
