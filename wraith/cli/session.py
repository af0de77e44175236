"""What `wraith connect` runs: listeners that are bound first, then sessions until a signal."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import sys

import wraith
from wraith import logs
from wraith.errors import ExitCode, WraithError
from wraith.forward import LocalForward
from wraith.logs import event
from wraith.opening import DialingOpener, Opener
from wraith.options import ConnectOptions
from wraith.remote_forwards import RemoteForwards
from wraith.sd_notify import ServiceManager
from wraith.session_keeper import SessionKeeper
from wraith.socks import Credentials, SocksListener, parse_credentials, read_credentials
from wraith.specs import RemoteForwardSpec, TcpBind, TcpTarget, join_host_port
from wraith.splice import splice
from wraith.stdio import StdioStream, occupy_standard_descriptors
from wraith_transports import DirectDialer

from .flags import Verbosity
from .lifecycle import alongside, keep_told
from .running import Interruption, run
from .summary import ConnectSummary, announce
from .terminal import Questions, has_terminal, say

logger = logging.getLogger(__name__)


def hold(options: ConnectOptions, verbosity: Verbosity) -> ExitCode:
    """Hold sessions in this process until a signal comes, or one of the errors that end it is raised."""
    logs.configure(verbosity.level, sys.stderr, log_format=verbosity.log_format, tracebacks=verbosity.tracebacks)
    return run(lambda interruption: _hold(with_questions(options, interruption), verbosity))


def join(options: ConnectOptions, target: TcpTarget, verbosity: Verbosity) -> ExitCode:
    """Join standard input and output to one target through one session. Raises OpenFailed if it is refused."""
    occupy_standard_descriptors()
    logs.configure(verbosity.level, sys.stderr, log_format=verbosity.log_format, tracebacks=verbosity.tracebacks)
    return run(lambda interruption: _join(with_questions(options, interruption), target))


def with_questions(options: ConnectOptions, interruption: Interruption) -> ConnectOptions:
    """Have a person asked for passphrases and host keys, where there is a terminal."""
    if not has_terminal():
        return options
    questions = Questions(interruption.request_from_terminal)
    return dataclasses.replace(options, ask_passphrase=questions.passphrase, confirm_host_key=questions.trusts_host_key)


def socks_credentials(options: ConnectOptions) -> Credentials | None:
    """Read who may use the SOCKS ports, where that is limited. Raises UnusableFile."""
    if options.socks_auth is None:
        return None
    if isinstance(options.socks_auth, bytes):
        return parse_credentials(options.socks_auth, "the SOCKS users given as bytes")
    return read_credentials(options.socks_auth)


async def _join(options: ConnectOptions, target: TcpTarget) -> ExitCode:
    async with wraith.connect(options) as session:
        stream = await session.open_connection(target.host, target.port)
        fault = await splice(StdioStream(), stream)
    if fault is not None:
        words = getattr(fault, "strerror", None) or str(fault)
        raise WraithError(f"the connection to {target} broke off: {words}")
    return ExitCode.DONE


async def _hold(options: ConnectOptions, verbosity: Verbosity) -> ExitCode:
    manager = ServiceManager.from_environment(os.environ, os.getpid())
    async with contextlib.AsyncExitStack() as stack:
        client = _Client(options, verbosity, manager)
        await client.start(stack)
        manager.ready(client.status())  # the listeners are up; a session may take as long as the server is away
        await stack.enter_async_context(alongside(keep_told(manager, client.status)))
        try:
            await client.keeper.run()
        finally:
            manager.stopping()
    return ExitCode.DONE


class _Client:
    """The listeners of one command, and what keeps the session they need."""

    def __init__(self, options: ConnectOptions, verbosity: Verbosity, manager: ServiceManager) -> None:
        self._options = options
        self._verbosity = verbosity
        self._manager = manager
        self._server = f"{options.transport.value}://{join_host_port(options.host, options.server_port)}"
        self._remote = RemoteForwards(options.remote_forwards, DialingOpener(DirectDialer()), self._announce)
        self.keeper = SessionKeeper(options, forwards=self._remote, up=self._up)
        self._told: dict[RemoteForwardSpec, int] = {}
        opener: Opener = self.keeper
        credentials = socks_credentials(options)
        self._proxies = [
            SocksListener(spec, opener, credentials=credentials, open_to_all=options.socks_open)
            for spec in options.socks
        ]
        self._forwards = [LocalForward(spec, opener) for spec in options.forwards]

    async def start(self, stack: contextlib.AsyncExitStack) -> None:
        """Bind everything; `stack` closes it. Raises AddressUnavailable or UsageError."""
        stack.push_async_callback(self._remote.aclose)
        listeners: list[SocksListener | LocalForward] = [*self._proxies, *self._forwards]
        for listener in listeners:
            stack.push_async_callback(listener.aclose)
            await listener.start()

    def status(self) -> str:
        """Say how things are, for the service manager."""
        return f"{'connected' if self.keeper.has_session else 'not connected'} to {self._server}"

    def _up(self, first: bool) -> None:
        self._manager.status(self.status())
        if first:
            announce(self._summary(), self._verbosity)
        else:
            event(logger, logging.WARNING, "the session is back", server=self._server)

    def _summary(self) -> ConnectSummary:
        options = self._options
        return ConnectSummary(
            server=self._server,
            socks=[address for proxy in self._proxies for address in proxy.addresses()],
            forwards=[
                (address, str(spec.target))
                for spec, forward in zip(options.forwards, self._forwards, strict=True)
                for address in forward.addresses()
            ],
            remote_forwards=[
                (str(bind), str(spec.target) if spec.target is not None else "SOCKS")
                for spec, bind in self._remote.opened
            ],
            proxy=str(options.proxy) if options.proxy is not None else None,
        )

    def _announce(self, spec: RemoteForwardSpec, port: int) -> None:
        """Say which port the server chose, as ssh does, once."""
        news = self._told.get(spec) != port
        self._told[spec] = port
        if news and isinstance(spec.bind, TcpBind) and spec.bind.port == 0 and not self._verbosity.quiet:
            say(f"Allocated port {port} for remote forward to {spec.target or 'SOCKS'}")
