"""An SSH peer that sends whatever a test tells it to, on either side of a session."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from tests.support.ssh_peers import HOST_KEY, USER_KEY, Served, Service, log_in, until
from wraith.ssh.connection import BoundedClientConnection
from wraith.ssh.link import SSHLink
from wraith_transports import DuplexStream, memory_pair

MSG_DISCONNECT = 1
MSG_KEXINIT = 20
MSG_USERAUTH_REQUEST = 50
MSG_USERAUTH_FAILURE = 51
MSG_GLOBAL_REQUEST = 80
MSG_OPEN = 90
MSG_OPEN_CONFIRMATION = 91
MSG_OPEN_FAILURE = 92
MSG_WINDOW_ADJUST = 93
MSG_DATA = 94
MSG_EXTENDED_DATA = 95
MSG_EOF = 96
MSG_CLOSE = 97
MSG_REQUEST = 98
MSG_SUCCESS = 99
MSG_FAILURE = 100
WIDE_WINDOW = 0x7FFFFFFF
PACKET = 32 << 10


@dataclass(frozen=True, slots=True)
class Message:
    """A message that the rogue received."""

    kind: int
    channel: int | None  # the rogue's own number
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Granted:
    """What the peer said when it opened a channel."""

    number: int  # the peer's
    window: int
    packet: int


class Rogue:
    """Mixed into a connection of asyncssh's: keeps what it receives, and sends whatever it is told to."""

    messages: list[Message]
    silent_kex: bool  # ignore the peer's KEXINIT
    holds_login: bool  # send nothing of a login
    ready: bool  # to log in
    keep: Callable[[Message], None] | None

    _packet_handlers: ClassVar[dict[int, Callable[..., Any]]]

    def send(self: Any, kind: int, *parts: bytes) -> None:
        """Send now, whatever state the connection is in."""
        complete, authenticated = self._kex_complete, self._auth_complete
        self._kex_complete = self._auth_complete = True
        try:
            SSHConnection.send_packet(self, kind, *parts)
        finally:
            self._kex_complete, self._auth_complete = complete, authenticated

    def send_raw(self: Any, data: bytes) -> None:
        """Send bytes that are no packet."""
        self._transport.write(data)

    def begin_exchange(self: Any) -> None:
        """Send KEXINIT, and nothing of what should follow."""
        self.silent_kex = True
        self._send_kexinit()

    def open(
        self,
        number: int = 0,
        *,
        host: str = "target",
        port: int = 80,
        window: int = WIDE_WINDOW,
        packet: int = PACKET,
    ) -> None:
        """Ask for a direct-tcpip channel, under that number of ours."""
        self.send(
            MSG_OPEN,
            String(b"direct-tcpip"),
            UInt32(number),
            UInt32(window),
            UInt32(packet),
            String(host),
            UInt32(port),
            String("127.0.0.1"),
            UInt32(1),
        )

    def open_session(self, number: int = 0, *, window: int = WIDE_WINDOW, packet: int = PACKET) -> None:
        """Ask for a session channel."""
        self.send(MSG_OPEN, String(b"session"), UInt32(number), UInt32(window), UInt32(packet))

    def offer_key(self, key: asyncssh.SSHKey, user: str) -> None:
        """Ask whether a key would do."""
        self.send(
            MSG_USERAUTH_REQUEST,
            String(user),
            String("ssh-connection"),
            String("publickey"),
            Boolean(False),
            String("ssh-ed25519"),
            String(key.public_data),
        )

    async def opened(self, number: int = 0, **options: Any) -> Granted:
        """Open a channel, and see that it is."""
        self.open(number, **options)
        return await self.answered(number)

    async def answered(self, number: int = 0) -> Granted:
        """Wait until a channel is open."""
        answers = (MSG_OPEN_CONFIRMATION, MSG_OPEN_FAILURE)
        message = await self.hear(lambda each: each.kind in answers and each.channel == number)
        assert message.kind == MSG_OPEN_CONFIRMATION, f"channel {number} was refused"
        numbers = [int.from_bytes(message.body[at : at + 4], "big") for at in (4, 8, 12)]
        return Granted(*numbers)

    def data(self, channel: int, data: bytes) -> None:
        self.send(MSG_DATA, UInt32(channel), String(data))

    def request(self, name: bytes, *, reply: bool = True) -> None:
        """Send a global request."""
        self.send(MSG_GLOBAL_REQUEST, String(name), Boolean(reply))

    async def hear(self, matches: Callable[[Message], bool]) -> Message:
        """Wait for a message."""
        await until(lambda: self.lost or any(map(matches, self.messages)), "message")
        for message in self.messages:
            if matches(message):
                return message
        raise AssertionError("the connection ended first")

    def count(self, *kinds: int) -> int:
        """Say how many messages of these kinds came."""
        return sum(message.kind in kinds for message in self.messages)

    @property
    def lost(self) -> bool:
        return self._transport is None  # type: ignore[attr-defined]

    @property
    def disconnect_reason(self) -> str | None:
        """The words of the peer's disconnect, if it sent one."""
        for message in self.messages:
            if message.kind == MSG_DISCONNECT:
                return SSHPacket(message.body[4:]).get_string().decode()
        return None

    # What it receives

    def _note(self, message: Message) -> None:
        if self.keep is None:
            self.messages.append(message)
        else:
            self.keep(message)

    def _take_open_answer(self, kind: int, _number: int, packet: SSHPacket) -> None:
        body = packet.get_remaining_payload()
        self._note(Message(kind, int.from_bytes(body[:4], "big"), body))

    def _take_other(self, kind: int, _number: int, packet: SSHPacket) -> None:
        self._note(Message(kind, None, packet.get_remaining_payload()))

    def _take_disconnect(self: Any, kind: int, number: int, packet: SSHPacket) -> Any:
        self.messages.append(Message(kind, None, packet.get_remaining_payload()))
        return SSHConnection._process_disconnect(self, kind, number, packet)

    def _take_kexinit(self: Any, kind: int, number: int, packet: SSHPacket) -> Any:
        if not self.silent_kex:
            return SSHConnection._process_kexinit(self, kind, number, packet)
        packet.get_remaining_payload()
        self.messages.append(Message(kind, None, b""))
        return None

    def try_next_auth(self: Any, *, next_method: bool = False) -> None:
        """Log in, unless the test does that (asyncssh calls this)."""
        if self.holds_login:
            self._auth = _Listener(self, 0)
            self.ready = True
        else:
            asyncssh.SSHClientConnection.try_next_auth(self, next_method=next_method)

    def _rogue_handlers(self) -> dict[int, Callable[..., Any]]:
        own = type(self)
        others = dict.fromkeys((MSG_GLOBAL_REQUEST, 81, 82, 3), own._take_other)
        answers = dict.fromkeys((MSG_OPEN_CONFIRMATION, MSG_OPEN_FAILURE, MSG_OPEN), own._take_open_answer)
        if self.holds_login:
            others[MSG_USERAUTH_FAILURE] = own._take_other
        return {**others, **answers, MSG_DISCONNECT: own._take_disconnect, MSG_KEXINIT: own._take_kexinit}


class RogueClient(Rogue, asyncssh.SSHClientConnection):
    """Logs in to a wraith server, then misbehaves."""


class RogueServer(Rogue, asyncssh.SSHServerConnection):
    """Lets a wraith client in, then misbehaves."""


class _AnyChannel(dict[int, Any]):
    """Has a listener for every channel number."""

    def __init__(self, rogue: Rogue) -> None:
        super().__init__()
        self._rogue = rogue

    def __missing__(self, number: int) -> _Listener:
        return _Listener(self._rogue, number)


class _Listener:
    def __init__(self, rogue: Rogue, number: int) -> None:
        self._rogue = rogue
        self._number = number

    def log_received_packet(self, *_: object) -> None: ...

    def cancel(self) -> None: ...

    def process_packet(self, kind: int, _number: int, packet: SSHPacket) -> bool:
        self._rogue._note(Message(kind, self._number, packet.get_remaining_payload()))
        return True


def _make_rogue(connection: Any, kind: type[Rogue], *, holds_login: bool = False) -> Any:
    connection.__class__ = kind
    connection.messages = []
    connection.silent_kex = connection.ready = False
    connection.holds_login = holds_login
    connection.keep = None
    connection._packet_handlers = {**type(connection)._packet_handlers, **connection._rogue_handlers()}
    connection._channels = _AnyChannel(connection)
    return connection


class _RogueAttachment:
    """What asyncssh takes for a tunnel, on either side."""

    def __init__(self, stream: DuplexStream, kind: type[Rogue], *, holds_login: bool = False) -> None:
        self._stream = stream
        self._kind = kind
        self._holds_login = holds_login
        self.connection: Any = None
        self.factory: Callable[..., Any] | None = None
        self.link: SSHLink | None = None

    async def create_connection(self, factory: Callable[..., Any], host: str, port: int) -> tuple[Any, Any]:
        self.connection = connection = _make_rogue(factory(), self._kind, holds_login=self._holds_login)
        self.link = SSHLink(self._stream, connection)
        return self.link, connection

    async def create_server(self, factory: Callable[..., Any], host: str, port: int) -> Any:
        self.factory = factory
        return self

    def start(self) -> Any:
        assert self.factory is not None
        connection = _make_rogue(self.factory("", 0), self._kind)
        self.link = SSHLink(self._stream, connection)
        return connection

    def close(self) -> None: ...

    async def wait_closed(self) -> None: ...


_PLAIN: dict[str, Any] = {
    "config": None,
    "gss_host": None,
    "compression_algs": None,
    "encryption_algs": ["aes128-gcm@openssh.com"],
    "kex_algs": ["curve25519-sha256"],
}


async def _connect(attachment: _RogueAttachment) -> Any:
    return await asyncssh.connect(
        "127.0.0.1",
        22,
        tunnel=attachment,  # type: ignore[arg-type]
        username="wraith",
        client_keys=[USER_KEY],
        known_hosts=None,
        agent_path=None,
        **_PLAIN,
    )


async def rogue_client(stream: DuplexStream) -> RogueClient:
    """Log in as a client of asyncssh's that then does as it is told."""
    connection = await _connect(_RogueAttachment(stream, RogueClient))
    assert isinstance(connection, RogueClient)
    return connection


@asynccontextmanager
async def rogue_at_login(service: Service) -> AsyncIterator[tuple[RogueClient, Served]]:
    """A rogue that has finished the key exchange and sends of a login what the test says."""
    near, far = memory_pair()
    served = service.accept(far)
    attachment = _RogueAttachment(near, RogueClient, holds_login=True)
    login = asyncio.ensure_future(_connect(attachment))
    try:
        await until(lambda: attachment.connection is not None and attachment.connection.ready, "key exchange")
        yield attachment.connection, served
    finally:
        attachment.connection.abort()
        with contextlib.suppress(asyncssh.Error, asyncio.CancelledError):
            login.cancel()
            await login
        await until(lambda: served.over, "end of the session")


class _LetsEveryoneIn(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False


async def rogue_server(stream: DuplexStream) -> RogueServer:
    """Start a server that lets its client in and then does as it is told."""
    attachment = _RogueAttachment(stream, RogueServer)
    await asyncssh.listen(
        tunnel=attachment,  # type: ignore[arg-type]
        server_factory=_LetsEveryoneIn,
        server_host_keys=[HOST_KEY],
        send_server_host_keys=False,
        **_PLAIN,
    )
    connection: RogueServer = attachment.start()
    return connection


@asynccontextmanager
async def rogue_session(service: Service) -> AsyncIterator[tuple[RogueClient, Served]]:
    """A rogue that is logged in to the service."""
    near, far = memory_pair()
    served = service.accept(far)
    rogue = await rogue_client(near)
    try:
        yield rogue, served
    finally:
        rogue.abort()
        await until(lambda: served.over, "end of the session")


@asynccontextmanager
async def rogue_serving() -> AsyncIterator[tuple[BoundedClientConnection, RogueServer]]:
    """A wraith client that is logged in to a rogue."""
    near, far = memory_pair()
    rogue = await rogue_server(far)
    client = await log_in(near)
    try:
        yield client, rogue
    finally:
        client.abort()
        rogue.abort()
        await until(lambda: client.is_closed() and rogue.is_closed(), "end of both")
