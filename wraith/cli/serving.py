"""`wraith serve`: its flags, and what it says when it starts."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wraith import logs
from wraith.errors import ExitCode, UsageError
from wraith.options import (
    MAX_AUTH_ATTEMPTS,
    MAX_CHANNELS,
    MAX_SESSIONS,
    ServeOptions,
    TlsServerOptions,
    default_directory,
)
from wraith.paths import AUTHORIZED_KEYS
from wraith.sd_notify import ServiceManager
from wraith.specs import Scheme, parse_listen, parse_permit_listen, parse_permit_open, parse_proxy

from .flags import LogFormatChoice, LogLevelChoice, Quiet, Verbose, Verbosity, flag, paths, typed
from .outcome import guarded
from .summary import ServeSummary, announce

if TYPE_CHECKING:
    from wraith.server import Server

    from .running import Interruption

COMMAND = "wraith serve"


def serve(
    context: typer.Context,
    *,
    key: Annotated[
        Path | None,
        flag(
            "--key",
            value="PATH",
            text="SSH host key. Default <dir>/host_ed25519, created on first start.",
        ),
    ] = None,
    host_certificate: Annotated[
        Path | None,
        flag("--host-certificate", value="PATH", text="Certificate of the host key, from ssh-keygen -s CA -h."),
    ] = None,
    authorized_keys: Annotated[
        Path | None,
        flag(
            "--authorized-keys",
            value="PATH",
            text="Who may log in. Default <dir>/authorized_keys; re-read when it changes.",
        ),
    ] = None,
    cert_authority: Annotated[
        list[Path] | None,
        flag(
            "--cert-authority",
            value="PATH",
            text="Trust user certificates signed by the keys in this file; repeatable; re-read when it changes.",
        ),
    ] = None,
    principal: Annotated[
        list[str] | None,
        flag(
            "--principal",
            value="NAME",
            text="What such a certificate has to name; repeatable. Default the user's name.",
        ),
    ] = None,
    revoked_keys: Annotated[
        Path | None,
        flag(
            "--revoked-keys",
            value="PATH",
            text="Keys or fingerprints that may not log in, one a line; re-read when it changes.",
        ),
    ] = None,
    transport: Annotated[
        Scheme | None,
        flag("--transport", value="tcp|tls", text="Of a --listen that names none. Default tcp."),
    ] = None,
    listen: Annotated[
        list[str] | None,
        flag(
            "--listen",
            value="[SCHEME://]ADDR:PORT",
            text="Where to listen; repeatable. Default [::]:22 for tcp, [::]:443 for tls.",
        ),
    ] = None,
    tls_cert: Annotated[
        Path | None,
        flag(
            "--tls-cert",
            value="PATH",
            text="TLS certificate. Without one a self-signed one is made and its pin printed.",
        ),
    ] = None,
    tls_key: Annotated[Path | None, flag("--tls-key", value="PATH", text="The TLS certificate's key.")] = None,
    permit_open: Annotated[
        list[str] | None,
        flag(
            "--permit-open",
            value="HOST:PORT",
            text="Open only these targets, by the name as asked; repeatable, * on either side. Default any. "
            "A unix socket is opened only if its path is listed here.",
        ),
    ] = None,
    permit_listen: Annotated[
        list[str] | None,
        flag(
            "--permit-listen",
            value="[HOST:]PORT",
            text="Listen only here for clients' remote forwards; repeatable, * on either side. Default any port "
            "from 1024. A unix socket is made only if its path is listed here.",
        ),
    ] = None,
    gateway_ports: Annotated[
        bool,
        flag("--gateway-ports", text="Let remote forwards listen beyond loopback."),
    ] = False,
    deny_private: Annotated[
        bool,
        flag("--deny-private", text="Open no target whose address is private, loopback or otherwise not global."),
    ] = False,
    max_connections_per_ip: Annotated[
        int,
        flag("--max-connections-per-ip", value="N", text="From one address, a /64 for IPv6. Default 0, no limit."),
    ] = 0,
    max_auth_attempts: Annotated[
        int, flag("--max-auth-attempts", value="N", text="Keys a connection may offer. Default 10.")
    ] = MAX_AUTH_ATTEMPTS,
    max_sessions: Annotated[
        int, flag("--max-sessions", value="N", text="Sessions at once. Default 1000.")
    ] = MAX_SESSIONS,
    max_channels: Annotated[
        int, flag("--max-channels", value="N", text="Connections at once in one session. Default 1024.")
    ] = MAX_CHANNELS,
    proxy: Annotated[
        str | None,
        flag(
            "--proxy",
            value="URL",
            text="Open targets through this proxy: socks5://, socks5h:// or http://[USER:PASSWORD@]HOST[:PORT], "
            "port 1080 when none is given. It resolves the targets' names. How clients reach the server is not "
            "concerned: for that they have a --proxy of their own. "
            "Other users can see a password given here; none in WRAITH_PROXY.",
        ),
    ] = None,
    log_format: LogFormatChoice = None,
    log_level: LogLevelChoice = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> ExitCode:
    """Accept SSH sessions and open the targets they ask for."""
    del quiet  # read from the context, which also knows where it came from

    def work() -> ExitCode:
        options = ServeOptions(
            key=key,
            authorized_keys=authorized_keys or default_directory() / AUTHORIZED_KEYS,
            host_certificate=host_certificate,
            cert_authorities=paths(context, "cert_authority", cert_authority),
            principals=tuple(principal or ()),
            revoked_keys=revoked_keys,
            transport=transport or Scheme.TCP,
            listen=tuple(parse_listen(each) for each in listen or ()),
            tls=TlsServerOptions(tls_cert, tls_key),
            permit_open=parse_permit_open(permit_open or ()),
            permit_listen=parse_permit_listen(permit_listen or ()),
            gateway_ports=gateway_ports,
            deny_private=deny_private,
            max_connections_per_ip=max_connections_per_ip,
            max_auth_attempts=max_auth_attempts,
            max_sessions=max_sessions,
            max_channels=max_channels,
            proxy=parse_proxy(proxy) if proxy is not None else None,
        )
        if all(address.scheme is not Scheme.TLS for address in options.listening):
            for name, written in (("tls_cert", "--tls-cert"), ("tls_key", "--tls-key")):
                if typed(context, name):  # in the environment it may stand for another server
                    raise UsageError(f"{written} has no use without a tls address: add --transport tls")
        return _run(options, Verbosity.chosen(context, logging.INFO, log_level, log_format))

    return guarded(COMMAND, work, tracebacks=verbose >= 2)


def _run(options: ServeOptions, verbosity: Verbosity) -> ExitCode:
    try:
        import wraith  # noqa: PLC0415 - asyncssh takes 0.2 s to import

        from .lifecycle import alongside, keep_told, reload_at_each  # noqa: PLC0415 - as does asyncio, a little
        from .running import run  # noqa: PLC0415
    except KeyboardInterrupt:
        return ExitCode.DONE

    async def work(interruption: Interruption) -> ExitCode:
        manager = ServiceManager.from_environment(os.environ, os.getpid())
        hangup = interruption.hangups()
        async with wraith.serve(options) as server:
            announce(_summary(options, server), verbosity)
            manager.ready(_status(server))
            async with alongside(
                keep_told(manager, lambda: _status(server)), reload_at_each(hangup, manager, server.reload)
            ):
                try:
                    await server.wait_closed()
                finally:
                    manager.stopping()
        return ExitCode.DONE

    logs.configure(verbosity.level, sys.stderr, log_format=verbosity.log_format, tracebacks=verbosity.tracebacks)
    return run(work)


def _status(server: Server) -> str:
    count = server.sessions
    return f"{count} session{'' if count == 1 else 's'} on {', '.join(server.addresses)}"


def _summary(options: ServeOptions, server: Server) -> ServeSummary:
    path = options.authorized_keys if isinstance(options.authorized_keys, Path) else None
    return ServeSummary(
        addresses=server.addresses,
        host_key=server.host_key_fingerprint,
        host_key_is_new=server.host_key_created,
        tls_pin=server.tls_pin,
        proxy=str(options.proxy) if options.proxy is not None else None,
        authorized_keys=path,
        nobody_may_log_in=path is not None and not path.exists() and not options.cert_authorities,
    )
