"""Holds a session for ever: opens one after another, and serves whoever needs it from the one there is."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Awaitable, Callable
from dataclasses import replace

from wraith_transports import DuplexStream

from .backoff import Backoff, Retry
from .client import Session, identities_of
from .errors import ConnectFailed, SessionLost, WraithError
from .logs import event
from .opening import LOOPBACK_ORIGIN, OpenFailed, OpenFailure
from .options import ConnectOptions
from .remote_forwards import RemoteForwards
from .ssh.identities import Identities

SESSION_WAIT_S = 10.0  # that a new connection waits for a session; browsers give up after 30
INSTANCE_BYTES = 16

logger = logging.getLogger(__name__)


class SessionKeeper:
    """An Opener that outlives its sessions."""

    def __init__(
        self,
        options: ConnectOptions,
        *,
        forwards: RemoteForwards | None = None,
        up: Callable[[bool], None] = lambda _first: None,
        wait_s: float = SESSION_WAIT_S,
        backoff: Backoff | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Say what to connect to. `up` is called at each login, with whether it is the first."""
        self._options = self._asking_only_at_first(options)
        self._forwards = forwards
        self._up = up
        self._wait_s = wait_s
        self._backoff = backoff or Backoff()
        self._chance = chance
        # Tells a wraith server that a port it holds for us was asked for by this very process.
        self._instance = os.urandom(INSTANCE_BYTES)
        self._session: Session | None = None
        self._arrived = asyncio.Event()  # set and replaced whenever there is a new session
        self._why_down = "there is no session yet"

    @property
    def has_session(self) -> bool:
        """Whether there is a session now."""
        return self._session is not None

    async def run(self) -> None:
        """Hold sessions until one of the errors that end the process, which is raised; cancel to stop.

        Before the first login these are a refused key, a wrong host key or certificate, an unusable
        file; with `exit_on_failure` every failure, SessionLost and ForwardRefused included.
        """
        identities = await identities_of(self._options)
        while True:
            delay_s = await self._hold_one(identities)
            await asyncio.sleep(delay_s)

    async def open_connection(self, host: str, port: int, *, origin: tuple[str, int] = LOOPBACK_ORIGIN) -> DuplexStream:
        """Open a connection through the session there is, or comes within the wait. Raises OpenFailed."""
        return await self._open(lambda session: session.open_connection(host, port, origin=origin))

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Open a connection to a unix socket, as open_connection does. Raises OpenFailed."""
        return await self._open(lambda session: session.open_unix_connection(path))

    # Whoever needs a session

    async def _open(self, through: Callable[[Session], Awaitable[DuplexStream]]) -> DuplexStream:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wait_s
        ended: Session | None = None
        while True:
            session = await self._arrival(deadline, ended)
            try:
                return await through(session)
            except OpenFailed as error:
                if error.reason is not OpenFailure.SESSION_DOWN or loop.time() >= deadline:
                    raise
                ended = session  # before it had answered: nothing is lost by asking the next one

    async def _arrival(self, deadline: float, ended: Session | None) -> Session:
        """Wait for a session that is not `ended`. Raises OpenFailed at the deadline."""
        try:
            async with asyncio.timeout_at(deadline):
                while (session := self._session) is None or session is ended:
                    await self._arrived.wait()
                return session
        except TimeoutError:
            raise OpenFailed(self._why_down, OpenFailure.SESSION_DOWN) from None

    # The sessions

    async def _hold_one(self, identities: Identities) -> float:
        """Hold one session until it is lost; after how many seconds to try the next. Raises what is the end."""
        loop = asyncio.get_running_loop()
        session: Session | None = None
        began_at: float | None = None
        try:
            session = Session(self._options, identities=identities, instance=self._instance)
            await session.open()
            began_at = loop.time()
            await self._serve_from(session)
        except WraithError as error:
            return self._bear(error, None if began_at is None else loop.time() - began_at)
        except Exception as error:  # the boundary of one session: a fault of ours must not end what never ends
            if not self._backoff.connected_before:
                raise
            logger.exception("an internal error ended the session")
            words = f"an internal error, {type(error).__name__}"
            return self._bear(ConnectFailed(words), None if began_at is None else loop.time() - began_at)
        finally:
            self._session = None
            if session is not None:
                await session.aclose()
        raise AssertionError("nobody else closes a session")

    async def _serve_from(self, session: Session) -> None:
        """Serve from a session. Raises SessionLost in the end, or ForwardRefused where that is the end."""
        first = not self._backoff.connected_before
        self._backoff.connected()
        self._session = session
        arrived, self._arrived = self._arrived, asyncio.Event()
        arrived.set()
        lost = asyncio.create_task(session.wait_closed())
        forwarding = asyncio.create_task(self._forward(session, first=first))
        tasks = (lost, forwarding)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _forward(self, session: Session, *, first: bool) -> None:
        """Have the server listen, and say that the session is there. Raises ForwardRefused where that is the end."""
        try:
            refused = await self._forwards.ask(session) if self._forwards is not None else []
            if refused and self._options.exit_on_failure:
                raise refused[0]
            self._up(first)
            if self._forwards is not None and refused:
                await self._forwards.keep(session, self._forwards.refused_by(refused))
        except SessionLost:
            return  # which whoever waits for it is told with the reason

    def _bear(self, error: WraithError, lived_s: float | None) -> float:
        """Report a failure, or a loss after `lived_s`; the delay until the next attempt. Raises what is the end."""
        chance = self._chance()
        retry = self._backoff.failed(error, chance) if lived_s is None else self._backoff.lost(lived_s, chance)
        if retry is None or self._options.exit_on_failure:
            raise error
        self._why_down = str(error)
        event(
            logger,
            _level(retry),
            "not connected" if lived_s is None else "session lost",
            reason=error,
            retry_in=f"{retry.delay_s:.1f}s",
        )
        return retry.delay_s

    def _asking_only_at_first(self, options: ConnectOptions) -> ConnectOptions:
        """Have nobody asked once there was a session: a question stops the loop, and the person may have left."""
        ask_passphrase, confirm_host_key = options.ask_passphrase, options.confirm_host_key

        def passphrase(key: str) -> str | None:
            return ask_passphrase(key) if ask_passphrase and not self._backoff.connected_before else None

        def confirmation(host: str, fingerprint: str) -> bool:
            return bool(confirm_host_key and not self._backoff.connected_before and confirm_host_key(host, fingerprint))

        return replace(
            options,
            ask_passphrase=passphrase if ask_passphrase else None,
            confirm_host_key=confirmation if confirm_host_key else None,
        )


def _level(retry: Retry) -> int:
    """Say a thing once; what is said again is for -v."""
    if not retry.news:
        return logging.INFO
    return logging.ERROR if retry.refused else logging.WARNING
