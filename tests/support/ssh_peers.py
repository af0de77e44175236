"""SSH over memory, with wraith on both sides: a server, a session of it, and what is logged."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import asyncssh

from wraith.admission import Admission
from wraith.specs import PermitListen, PermitOpen
from wraith.ssh.attach import ClientAttachment, ServerAttachment
from wraith.ssh.budget import SESSION_CREDIT, TOTAL_CREDIT, CreditBudget
from wraith.ssh.channel import ChannelStream
from wraith.ssh.connection import BoundedClientConnection, BoundedServerConnection
from wraith.ssh.key_files import public_line
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.link import SSHLink
from wraith.ssh.port_registry import PortRegistry
from wraith.ssh.server_session import ServerRules, ServerSession
from wraith_transports import DialError, DialFailure, DuplexStream, TransportInfo, memory_pair

HOST_KEY = asyncssh.generate_private_key("ssh-ed25519")
USER_KEY = asyncssh.generate_private_key("ssh-ed25519")
ANY_TARGET = PermitOpen()
ANY_PORT = PermitListen()  # that needs no rights
AUTHORIZED = (public_line(USER_KEY) + "\n").encode()


LIMIT_S = 10.0


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
    link: SSHLink

    @property
    def over(self) -> bool:
        return self.link.ended.done() and self.connection.is_closed()

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
        info = TransportInfo("memory", stream.get_extra_info("peername"))
        name = f"session{len(self.sessions)}"
        self.rules.admission.arrive(name, info.remote_address[0])
        connection, link = self._attachment.start(stream, ServerSession(self.rules, stream, info, name), budget)
        link.ended.add_done_callback(lambda _: self.rules.admission.leave(name))
        served = Served(connection, budget, stream, link)
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
    permit_open: PermitOpen = ANY_TARGET,
    permit_listen: PermitListen = ANY_PORT,
    gateway_ports: bool = False,
) -> AsyncIterator[Service]:
    """Run a server over memory, and see that every session of it ends."""
    targets = Targets()
    cleanups: set[asyncio.Task[None]] = set()

    def clean_up(work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        cleanups.add(task)
        task.add_done_callback(cleanups.discard)

    rules = ServerRules(
        keys=keys or KeyRing(authorized),
        permit_open=permit_open,
        dialer=targets,
        max_auth_attempts=max_auth_attempts,
        max_channels=max_channels,
        permit_listen=permit_listen,
        gateway_ports=gateway_ports,
        registry=PortRegistry(),
        admission=Admission(),
        clean_up=clean_up,
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
        # asyncssh reads its options again, in a thread, whenever a user name changes.
        await until(lambda: not any(served.connection._tasks for served in service.sessions), "end of every task")
        await until(lambda: not cleanups, "end of every clean-up")


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
