"""What `wraith connect` runs: listeners that are bound first, then one session until it ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import sys

import wraith
from wraith import logs
from wraith.errors import ExitCode
from wraith.forward import LocalForward
from wraith.opening import Opener, OpenFailed, OpenFailure
from wraith.options import ConnectOptions
from wraith.sd_notify import ServiceManager
from wraith.socks.listener import SocksListener
from wraith.specs import join_host_port
from wraith_transports import DuplexStream

from .flags import Verbosity
from .lifecycle import alongside, keep_told
from .running import Interruption, run
from .summary import ConnectSummary, announce
from .terminal import Questions, has_terminal

SESSION_WAIT_S = 10.0  # that an early connection waits for the session; browsers give up after 30


def hold(options: ConnectOptions, verbosity: Verbosity) -> ExitCode:
    """Hold the session in this process until it is lost, which raises SessionLost, or a signal comes."""
    logs.configure(verbosity.level, sys.stderr, log_format=verbosity.log_format, tracebacks=verbosity.tracebacks)
    return run(lambda interruption: _hold(options, verbosity, interruption))


class SessionToCome(Opener):
    """Opens connections through a session that may not be there yet."""

    def __init__(self, wait_s: float = SESSION_WAIT_S) -> None:
        self._wait_s = wait_s
        self._session: asyncio.Future[Opener] = asyncio.get_running_loop().create_future()

    def arrived(self, session: Opener) -> None:
        """Serve what waits, and from here on everything, through `session`."""
        self._session.set_result(session)

    async def open_connection(
        self, host: str, port: int, *, origin: tuple[str, int] = ("127.0.0.1", 0)
    ) -> DuplexStream:
        """Open a connection as the session does, once there is one. Raises OpenFailed."""
        try:
            async with asyncio.timeout(self._wait_s):
                session = await asyncio.shield(self._session)
        except TimeoutError:
            raise OpenFailed("there is no session yet", OpenFailure.SESSION_DOWN) from None
        return await session.open_connection(host, port, origin=origin)


async def _hold(options: ConnectOptions, verbosity: Verbosity, interruption: Interruption) -> ExitCode:
    if has_terminal():
        questions = Questions(interruption.request_from_terminal)
        options = dataclasses.replace(
            options, ask_passphrase=questions.passphrase, confirm_host_key=questions.trusts_host_key
        )
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    to_come = SessionToCome()
    proxies = [SocksListener(spec, to_come) for spec in options.socks]
    forwards = [LocalForward(spec, to_come) for spec in options.forwards]
    listeners: list[SocksListener | LocalForward] = [*proxies, *forwards]
    async with contextlib.AsyncExitStack() as stack:
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
            await listener.start()
        session = await stack.enter_async_context(wraith.connect(options))
        for listener in listeners:
            stack.push_async_callback(listener.aclose)  # again, because it is to end before the session does
        to_come.arrived(session)
        server = f"{options.transport.value}://{join_host_port(options.host, options.server_port)}"
        summary = ConnectSummary(
            server=server,
            socks=[address for proxy in proxies for address in proxy.addresses()],
            forwards=[
                (address, join_host_port(spec.host, spec.port))
                for spec, forward in zip(options.forwards, forwards, strict=True)
                for address in forward.addresses()
            ],
            proxy=str(options.proxy) if options.proxy is not None else None,
        )
        announce(summary, verbosity)
        manager.ready(f"connected to {server}")
        async with alongside(keep_told(manager, lambda: f"connected to {server}")):
            try:
                await session.wait_closed()
            finally:
                manager.stopping()
    return ExitCode.DONE
