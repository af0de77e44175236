"""SSH peers over memory: wraith's own two sides, and a peer that sends whatever a test tells it to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from wraith.specs import PermitOpen
from wraith.ssh.attach import ClientAttachment, ServerAttachment
from wraith.ssh.budget import SESSION_CREDIT, TOTAL_CREDIT, CreditBudget
from wraith.ssh.channel import ChannelStream
from wraith.ssh.connection import BoundedClientConnection, BoundedServerConnection
from wraith.ssh.key_files import public_line
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.link import SSHLink
from wraith.ssh.server_session import ServerRules, ServerSession
from wraith_transports import DialError, DialFailure, DuplexStream, TransportInfo, memory_pair

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
AUTHORIZED = (public_line(USER_KEY) + "\n").encode()

MSG_DISCONNECT = 1
MSG_KEXINIT = 20
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
LIMIT_S = 20.0


async def until(condition: Callable[[], object], what: str = "the condition", limit_s: float = LIMIT_S) -> None:
    """Poll for a condition; fail when it does not come true in time."""
    deadline = asyncio.get_running_loop().time() + limit_s
    turns = 0
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"no {what} within {limit_s:g} s"
        turns += 1
        await asyncio.sleep(0 if turns < 100 else 0.002)


async def turns(count: int = 50) -> None:
    """Give what must not happen a chance to happen: everything here runs on this loop."""
    for _ in range(count):
        await asyncio.sleep(0)


# Our own side


class Targets:
    """A Dialer whose targets are the other ends of memory pairs, kept here by host name.

    A name that begins with `refuse`, `hang` or `raise` does that.
    """

    def __init__(self) -> None:
        self.dialled: list[tuple[str, int]] = []
        self.streams: list[DuplexStream] = []
        self.hanging = 0
        self.attach: Callable[[DuplexStream], None] | None = None
        self.wrap: Callable[[DuplexStream], DuplexStream] = lambda stream: stream

    def describe(self) -> str:
        return "memory"

    async def dial(self, host: str, port: int) -> DuplexStream:
        self.dialled.append((host, port))
        await asyncio.sleep(0)
        if host.startswith("refuse"):
            raise DialError(f"{host}: connection refused", DialFailure.REFUSED)
        if host.startswith("raise"):
            raise ZeroDivisionError("a fault of the dialler")
        if host.startswith("hang"):
            self.hanging += 1
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                self.hanging -= 1
        ours, theirs = memory_pair()
        self.streams.append(theirs)
        if self.attach is not None:
            self.attach(theirs)
        return self.wrap(ours)


@dataclass(slots=True)
class Served:
    """One connection as the server has it."""

    connection: BoundedServerConnection
    budget: CreditBudget
    stream: DuplexStream
    ended: list[bool]

    @property
    def link(self) -> SSHLink:
        assert self.connection.bounds.link is not None
        return self.connection.bounds.link

    @property
    def over(self) -> bool:
        return bool(self.ended)

    @property
    def channels(self) -> list[ChannelStream]:
        return [each for each in self.connection._channels.values() if isinstance(each, ChannelStream)]

    @property
    def logged_in(self) -> bool:
        return bool(self.connection._auth_complete)


class Service:
    """A wraith server without its listeners: streams come by `accept`."""

    def __init__(self, attachment: ServerAttachment, rules: ServerRules, targets: Targets, total: CreditBudget) -> None:
        self._attachment = attachment
        self.rules = rules
        self.targets = targets
        self.total = total
        self.sessions: list[Served] = []

    def accept(self, stream: DuplexStream) -> Served:
        """Serve SSH on the stream."""
        budget = CreditBudget(SESSION_CREDIT, self.total)
        ended: list[bool] = []
        info = TransportInfo("memory", stream.get_extra_info("peername"))
        name = f"session{len(self.sessions)}"
        session = ServerSession(self.rules, stream, info, name, lambda: ended.append(True))
        served = Served(self._attachment.start(stream, session, budget), budget, stream, ended)
        self.sessions.append(served)
        return served


@asynccontextmanager
async def serving(
    *,
    authorized: bytes = AUTHORIZED,
    keys: KeyRing | None = None,
    max_auth_attempts: int = 10,
    max_channels: int = 1024,
    total: int = TOTAL_CREDIT,
) -> AsyncIterator[Service]:
    """Run a server over memory, and see that every session of it ends."""
    targets = Targets()
    rules = ServerRules(
        keys=keys or KeyRing(authorized),
        permit_open=PermitOpen(),
        dialer=targets,
        max_auth_attempts=max_auth_attempts,
        max_channels=max_channels,
    )
    budget = CreditBudget(total)
    service = Service(await ServerAttachment.create(HOST_KEY, budget), rules, targets, budget)
    try:
        yield service
    finally:
        for served in service.sessions:
            served.connection.abort()
        for stream in targets.streams:
            stream.abort()
        await until(lambda: all(served.over for served in service.sessions), "end of every session")


async def log_in(
    stream: DuplexStream, *, keys: Iterable[asyncssh.SSHKey] = (USER_KEY,), user: str = "wraith", **options: Any
) -> BoundedClientConnection:
    """Log in as wraith's client does."""
    return await ClientAttachment(stream, CreditBudget(SESSION_CREDIT)).start(
        "127.0.0.1", 22, username=user, client_keys=list(keys), known_hosts=None, **options
    )


@asynccontextmanager
async def session(service: Service) -> AsyncIterator[tuple[BoundedClientConnection, Served]]:
    """Log in to the service; both ends of the session."""
    near, far = memory_pair()
    served = service.accept(far)
    client = await log_in(near)
    try:
        yield client, served
    finally:
        client.abort()
        await until(lambda: served.over, "end of the session")


# The rogue


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

    def _rogue_handlers(self) -> dict[int, Callable[..., Any]]:
        own = type(self)
        others = dict.fromkeys((MSG_GLOBAL_REQUEST, 81, 82, 3), own._take_other)
        answers = dict.fromkeys((MSG_OPEN_CONFIRMATION, MSG_OPEN_FAILURE, MSG_OPEN), own._take_open_answer)
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

    def process_packet(self, kind: int, _number: int, packet: SSHPacket) -> bool:
        self._rogue._note(Message(kind, self._number, packet.get_remaining_payload()))
        return True


def _make_rogue(connection: Any, kind: type[Rogue]) -> Any:
    connection.__class__ = kind
    connection.messages = []
    connection.silent_kex = False
    connection.keep = None
    connection._packet_handlers = {**type(connection)._packet_handlers, **connection._rogue_handlers()}
    connection._channels = _AnyChannel(connection)
    return connection


class _RogueAttachment:
    """What asyncssh takes for a tunnel, on either side."""

    def __init__(self, stream: DuplexStream, kind: type[Rogue]) -> None:
        self._stream = stream
        self._kind = kind
        self.factory: Callable[..., Any] | None = None
        self.link: SSHLink | None = None

    async def create_connection(self, factory: Callable[..., Any], host: str, port: int) -> tuple[Any, Any]:
        connection = _make_rogue(factory(), self._kind)
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


async def rogue_client(stream: DuplexStream, *, keys: Any = (USER_KEY,), user: str = "wraith") -> RogueClient:
    """Log in as a client of asyncssh's that then does as it is told."""
    connection = await asyncssh.connect(
        "127.0.0.1",
        22,
        tunnel=_RogueAttachment(stream, RogueClient),  # type: ignore[arg-type]
        username=user,
        client_keys=list(keys),
        known_hosts=None,
        agent_path=None,
        **_PLAIN,
    )
    assert isinstance(connection, RogueClient)
    return connection


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


# What is logged


class Lines(logging.Handler):
    """Collects wraith's log lines as the command line writes them."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        from wraith.logs import LogfmtFormatter

        self.setFormatter(LogfmtFormatter(tracebacks=True))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))

    def of(self, message: str) -> list[str]:
        return [line for line in self.lines if message in line]


@asynccontextmanager
async def logged() -> AsyncIterator[Lines]:
    """Collect everything wraith logs, at every level."""
    lines = Lines()
    loggers = [logging.getLogger(name) for name in ("wraith", "wraith_transports")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(lines)
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeHandler(lines)
            logger.setLevel(level)


Scenario = Callable[[], Awaitable[None]]
