"""The remote forwards of a client: asked for in every session, and carried out on this side."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from wraith_transports import DuplexStream

from .client import Session
from .errors import WraithError
from .logs import event
from .opening import Opener, open_target
from .socks import serve_socks
from .specs import ForwardTarget, RemoteForwardSpec, TcpBind, UnixBind
from .splice import Splice
from .ssh import ForwardedOpen, ForwardRefused

FIRST_RETRY_S = 5.0  # after a refusal: the port may still be held by the session we lost
LONGEST_RETRY_S = 60.0

Announce = Callable[[RemoteForwardSpec, int], None]
Take = Callable[[DuplexStream], None]

logger = logging.getLogger(__name__)


class RemoteForwards:
    """Keeps forwards through all the sessions of one client."""

    def __init__(
        self,
        specs: Sequence[RemoteForwardSpec],
        opener: Opener,
        announce: Announce,
        *,
        first_retry_s: float = FIRST_RETRY_S,
    ) -> None:
        """Say what to ask for; `opener` reaches the targets from here, `announce` hears of each port that is open."""
        self._opener = opener
        self._announce = announce
        self._first_retry_s = first_retry_s
        # What to ask for: after port 0 the number the server chose, so that it stays the same.
        self._wanted = {spec: spec.bind for spec in specs}
        self._opened: set[RemoteForwardSpec] = set()
        self._refused: dict[RemoteForwardSpec, str] = {}  # what was said of it last
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def opened(self) -> list[tuple[RemoteForwardSpec, TcpBind | UnixBind]]:
        """What the server listens on, with the real ports."""
        return [(spec, bind) for spec, bind in self._wanted.items() if spec in self._opened]

    async def ask(self, session: Session) -> list[WraithError]:
        """Ask for all of them in a new session; what was refused is asked for again by `keep`. Raises SessionLost."""
        self._opened.clear()
        session.on_forwarded(self._take)
        return [error for spec in self._wanted if (error := await self._ask_for(session, spec)) is not None]

    async def keep(self, session: Session, refused: Sequence[RemoteForwardSpec]) -> None:
        """Ask again for what was refused until nothing is. Raises SessionLost."""
        waiting, delay_s = list(refused), self._first_retry_s
        while waiting:
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)
            waiting = [spec for spec in waiting if await self._ask_for(session, spec) is not None]

    def refused_by(self, errors: Sequence[WraithError]) -> list[RemoteForwardSpec]:
        """Tell which forwards the errors of `ask` are about."""
        binds = [error.bind for error in errors if isinstance(error, ForwardRefused)]
        return [spec for spec, bind in self._wanted.items() if bind in binds]

    async def aclose(self) -> None:
        """End what was started for connections that came by the forwards."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _ask_for(self, session: Session, spec: RemoteForwardSpec) -> ForwardRefused | None:
        bind = self._wanted[spec]
        try:
            port = await session.listen(bind)
        except ForwardRefused as error:
            level = logging.INFO if self._refused.get(spec) == str(error) else logging.WARNING
            self._refused[spec] = str(error)
            event(logger, level, "remote forward refused", forward=spec, reason=error)
            return error
        if isinstance(bind, TcpBind):
            self._wanted[spec] = replace(bind, port=port)
        self._opened.add(spec)
        if self._refused.pop(spec, None) is not None:
            event(logger, logging.WARNING, "remote forward accepted", forward=spec)
        self._announce(spec, port)
        return None

    async def _take(self, request: ForwardedOpen) -> Take:
        """Open the target of a connection that came to one of the forwards. Raises OpenFailed or LookupError."""
        spec = self._find(request.listener)
        if spec.target is None:
            return self._speak_socks
        return await self._reach(spec.target, request.origin)

    async def _reach(self, target: ForwardTarget, origin: tuple[str, int]) -> Take:
        reached = await open_target(self._opener, target, origin=origin)

        def take(channel: DuplexStream) -> None:
            Splice(channel, reached)

        return take

    def _find(self, listener: TcpBind | UnixBind) -> RemoteForwardSpec:
        for spec, bind in self._wanted.items():
            if bind == listener:
                return spec
        # Servers write the address in their own way; the port is what they agree on.
        if isinstance(listener, TcpBind):
            same_port = [
                spec for spec, bind in self._wanted.items() if isinstance(bind, TcpBind) and bind.port == listener.port
            ]
            if len(same_port) == 1:
                return same_port[0]
        raise LookupError("no such remote forward")

    def _speak_socks(self, channel: DuplexStream) -> None:
        task = asyncio.create_task(self._serve_socks(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve_socks(self, channel: DuplexStream) -> None:
        try:
            await serve_socks(channel, self._opener)
        except Exception:  # the boundary of one connection
            logger.exception("a connection through a remote SOCKS port failed")
            channel.abort()
