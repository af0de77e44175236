"""Holds a session for ever: opens one after another, and serves whoever needs it from the one there is."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Coroutine
from typing import Any

from wraith_transports import DuplexStream

from .backoff import Backoff, Retry
from .client import Session, identities_of
from .errors import SessionLost, WraithError
from .logs import event
from .opening import LOOPBACK_ORIGIN, OpenFailed, OpenFailure
from .options import ConnectOptions
from .remote_forwards import RemoteForwards

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
        chance: Callable[[], float] = random.random,
    ) -> None:
        """Say what to connect to. `up` is called at each login, with whether it is the first."""
        self._options = options
        self._forwards = forwards
        self._up = up
        self._wait_s = wait_s
        self._chance = chance
        self._backoff = Backoff()
        # Tells a wraith server that a port it holds for us was asked for by this very process.
        self._instance = os.urandom(INSTANCE_BYTES)
        self._session: Session | None = None
        self._changed = asyncio.Event()  # set and replaced whenever there is a session, or a reason for none
        self._why_down = OpenFailed("there is no session yet", OpenFailure.SESSION_DOWN)

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
            session = Session(self._options, identities=identities, instance=self._instance)
            try:
                await session.open()
            except WraithError as error:
                await self._bear(error, self._backoff.failed(error, self._chance()))
                continue
            except BaseException:
                await session.aclose()
                raise
            try:
                lost, lived_s = await self._hold(session)
            finally:
                self._session = None
                await session.aclose()
            await self._bear(lost, self._backoff.lost(lived_s, self._chance()))

    async def open_connection(self, host: str, port: int, *, origin: tuple[str, int] = LOOPBACK_ORIGIN) -> DuplexStream:
        """Open a connection through the session there is, or comes within the wait. Raises OpenFailed."""
        return await (await self._arrival()).open_connection(host, port, origin=origin)

    async def open_unix_connection(self, path: str) -> DuplexStream:
        """Open a connection to a unix socket, as open_connection does. Raises OpenFailed."""
        return await (await self._arrival()).open_unix_connection(path)

    async def _arrival(self) -> Session:
        try:
            async with asyncio.timeout(self._wait_s):
                while self._session is None:
                    await self._changed.wait()
                return self._session
        except TimeoutError:
            raise self._why_down from None

    async def _hold(self, session: Session) -> tuple[SessionLost, float]:
        """Serve from a session until it is lost; why, and how long it lived in seconds."""
        loop = asyncio.get_running_loop()
        began_at = loop.time()
        first = not self._backoff.connected_before
        self._backoff.connected()
        refused = await self._forwards.ask(session) if self._forwards is not None else []
        if refused and self._options.exit_on_failure:
            raise refused[0]
        self._session = session
        self._tell()
        self._up(first)
        work: Coroutine[Any, Any, None] | None = None
        if self._forwards is not None and refused:
            work = self._forwards.keep(session, self._forwards.refused_by(refused))
        keeping = asyncio.create_task(work) if work is not None else None
        try:
            await session.wait_closed()
        except SessionLost as error:
            return error, loop.time() - began_at
        finally:
            if keeping is not None:
                keeping.cancel()
                await asyncio.wait([keeping])
        raise AssertionError("the session was closed by nobody")

    async def _bear(self, error: WraithError, retry: Retry | None) -> None:
        """Report a failure and wait out its delay. Raises it when it is the end."""
        if retry is None or self._options.exit_on_failure:
            raise error
        self._why_down = OpenFailed(str(error), OpenFailure.SESSION_DOWN)
        level = logging.WARNING if retry.delay_s < 60 else logging.ERROR if retry.news else logging.INFO
        event(logger, level, f"trying again in {retry.delay_s:.1f} s", reason=str(error))
        await asyncio.sleep(retry.delay_s)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
