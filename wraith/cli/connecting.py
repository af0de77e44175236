"""`wraith connect`: its flags, and the options they come to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from wraith.errors import ExitCode, UsageError
from wraith.options import (
    DEFAULT_USER,
    AddressFamily,
    ConnectOptions,
    HostKeyCheck,
    TlsClientOptions,
    default_directory,
)
from wraith.paths import KNOWN_HOSTS
from wraith.specs import (
    Scheme,
    SocksSpec,
    Target,
    TcpTarget,
    parse_local_forward,
    parse_proxy,
    parse_remote_forward,
    parse_socks,
    parse_stdio,
    parse_target,
)

from .flags import LogFormatChoice, LogLevelChoice, Quiet, Verbose, Verbosity, flag, one_of, paths, typed
from .outcome import guarded
from .terminal import has_terminal

COMMAND = "wraith connect"

_TLS_FLAGS = {
    "tls_server_name": "--tls-server-name",
    "tls_ca": "--tls-ca",
    "tls_pin": "--tls-pin",
    "insecure": "--insecure",
}


def connect(
    context: typer.Context,
    *,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="The server: [USER@]HOST[:PORT] or tls://HOST[:PORT].", show_default=False
        ),
    ] = None,
    server: Annotated[
        str | None,
        flag("--server", value="HOST[:PORT]", text="The server, as TARGET. Port 22 for tcp, 443 for tls."),
    ] = None,
    transport: Annotated[
        Scheme | None,
        flag("--transport", value="tcp|tls", text="Default what TARGET says, else tcp."),
    ] = None,
    identity: Annotated[
        list[Path] | None,
        flag(
            "-i",
            "--identity",
            value="PATH",
            text="Private key; repeatable. Default the agent, <dir>/id_ed25519, ~/.ssh/id_ed25519, id_ecdsa, id_rsa; "
            "with -i the agent offers only these.",
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        flag(
            "--certificate",
            value="PATH",
            text="User certificate of one of the keys. Default <identity>-cert.pub when it exists.",
        ),
    ] = None,
    user: Annotated[
        str | None,
        flag("-l", "--user", value="NAME", text=f"Default {DEFAULT_USER}."),
    ] = None,
    known_hosts: Annotated[
        Path | None,
        flag(
            "--known-hosts",
            value="PATH",
            text="Host keys seen before, in OpenSSH's format. Default <dir>/known_hosts.",
        ),
    ] = None,
    host_key_check: Annotated[
        HostKeyCheck | None,
        flag(
            "--host-key-check",
            value="ask|accept-new|strict",
            text="What to do with an unknown host key. Default ask on a terminal, else accept-new.",
        ),
    ] = None,
    host_key: Annotated[
        list[str] | None,
        flag(
            "--host-key",
            value="FINGERPRINT",
            text="Accept this host key only, SHA256:...; repeatable. Nothing is recorded then.",
        ),
    ] = None,
    socks5: Annotated[
        list[str] | None,
        flag(
            "-D",
            "--socks5",
            value="[ADDR:]PORT|/path.sock",
            text="Offer a SOCKS5 proxy here; repeatable. Default 127.0.0.1:1080 without -D, -L, -R and -W.",
        ),
    ] = None,
    no_socks5: Annotated[bool, flag("--no-socks5", text="Offer no SOCKS5 proxy.")] = False,
    socks5_auth_file: Annotated[
        Path | None,
        flag(
            "--socks5-auth-file",
            value="PATH",
            text="Ask SOCKS clients for a user:password of this file, one a line, mode 0600.",
        ),
    ] = None,
    socks5_open: Annotated[
        bool,
        flag("--socks5-open", text="Let everybody who reaches a SOCKS5 port beyond loopback use it."),
    ] = False,
    forward: Annotated[
        list[str] | None,
        flag(
            "-L",
            "--forward",
            value="[BIND:]PORT:HOST:HOSTPORT",
            text="Carry connections to a local port or path to a target, as `ssh -L` does; repeatable.",
        ),
    ] = None,
    remote_forward: Annotated[
        list[str] | None,
        flag(
            "-R",
            "--remote-forward",
            value="[BIND:]PORT[:HOST:HOSTPORT]",
            text="Have the server listen and carry connections here, as `ssh -R` does; without a target the "
            "server's port speaks SOCKS. Port 0: the server chooses. Repeatable.",
        ),
    ] = None,
    stdio: Annotated[
        str | None,
        flag(
            "-W",
            "--stdio",
            value="HOST:PORT",
            text="Join standard input and output to one target and nothing else: a ProxyCommand for ssh, scp, git.",
        ),
    ] = None,
    ipv4: Annotated[bool, flag("-4", text="Reach the server by IPv4 only.")] = False,
    ipv6: Annotated[bool, flag("-6", text="Reach the server by IPv6 only.")] = False,
    proxy: Annotated[
        str | None,
        flag(
            "--proxy",
            value="URL",
            text="Reach the server through this proxy: socks5://, socks5h:// or http://[USER:PASSWORD@]HOST[:PORT], "
            "port 1080 when none is given. It resolves the server's name, and -4 and -6 are about the proxy then. "
            "Targets are not concerned: for those the server has a --proxy of its own. "
            "Other users can see a password given here; none in WRAITH_PROXY.",
        ),
    ] = None,
    tls_server_name: Annotated[
        str | None,
        flag("--tls-server-name", value="NAME", text="Ask for and check this name instead of HOST."),
    ] = None,
    tls_ca: Annotated[
        Path | None,
        flag("--tls-ca", value="PATH", text="Trust these roots instead of the system's."),
    ] = None,
    tls_pin: Annotated[
        list[str] | None,
        flag(
            "--tls-pin",
            value="sha256//BASE64",
            text="Trust this public key whatever the chain and the name say; repeatable.",
        ),
    ] = None,
    insecure: Annotated[
        bool,
        flag(
            "--insecure",
            text="Do not check the TLS certificate. The SSH host key is checked all the same.",
        ),
    ] = False,
    exit_on_failure: Annotated[
        bool,
        flag(
            "--exit-on-failure",
            text="End when the first connection fails (4), a remote forward cannot be set up (7), or the session "
            "is lost (1), instead of trying again.",
        ),
    ] = False,
    log_format: LogFormatChoice = None,
    log_level: LogLevelChoice = None,
    quiet: Quiet = False,
    verbose: Verbose = 0,
) -> ExitCode:
    """Hold one SSH session, with a local SOCKS5 proxy and port forwards through it."""
    del no_socks5, ipv4, ipv6, quiet  # read from the context, which also knows where they came from

    def work() -> ExitCode:
        chosen = _target(context, target, server)
        scheme = _scheme(context, chosen, transport)
        offers_socks = one_of(context, {"socks5": "-D", "no_socks5": "--no-socks5"})
        if offers_socks == "socks5":
            socks = tuple(parse_socks(each) for each in socks5 or ())
        else:
            socks = () if forward or remote_forward or stdio or offers_socks else (SocksSpec(),)
        options = ConnectOptions(
            host=chosen.host,
            port=chosen.port,
            user=_user(context, chosen, user),
            transport=scheme,
            identities=paths(context, "identity", identity),
            certificate=certificate,
            known_hosts=known_hosts or default_directory() / KNOWN_HOSTS,
            host_key_check=host_key_check or (HostKeyCheck.ASK if has_terminal() else HostKeyCheck.ACCEPT_NEW),
            host_keys=tuple(host_key or ()),
            socks=socks,
            socks_auth=socks5_auth_file,
            socks_open=socks5_open,
            forwards=tuple(parse_local_forward(each) for each in forward or ()),
            remote_forwards=tuple(parse_remote_forward(each) for each in remote_forward or ()),
            family=_FAMILIES[one_of(context, {"ipv4": "-4", "ipv6": "-6"})],
            proxy=parse_proxy(proxy) if proxy is not None else None,
            tls=TlsClientOptions(tls_server_name, tls_ca, tuple(tls_pin or ()), insecure)
            if _tls_counts(context, scheme)
            else TlsClientOptions(),
            exit_on_failure=exit_on_failure,
        )
        chosen_verbosity = Verbosity.chosen(context, logging.WARNING, log_level, log_format)
        return _run(options, None if stdio is None else _only_target(context, stdio), chosen_verbosity)

    return guarded(COMMAND, work, tracebacks=verbose >= 2)


_FAMILIES = {None: AddressFamily.ANY, "ipv4": AddressFamily.IPV4, "ipv6": AddressFamily.IPV6}


def _target(context: typer.Context, target: str | None, server: str | None) -> Target:
    which = one_of(context, {"target": "TARGET", "server": "--server"})
    if which == "target":
        return parse_target(target or "")
    if which is None:
        raise UsageError("no server was named: give it as TARGET, [USER@]HOST[:PORT]")
    named = parse_target(server or "")
    if named.scheme is not None or named.user is not None:
        raise UsageError("--server is HOST[:PORT]: the rest goes into --transport and -l")
    return named


def _scheme(context: typer.Context, target: Target, transport: Scheme | None) -> Scheme:
    if target.scheme is None:
        return transport or Scheme.TCP
    if transport not in (None, target.scheme) and typed(context, "transport"):
        raise UsageError(f"{target} and --transport contradict each other: give one of them")
    return target.scheme


def _user(context: typer.Context, target: Target, user: str | None) -> str:
    if target.user is None:
        return DEFAULT_USER if user is None else user
    if user not in (None, target.user) and typed(context, "user"):
        raise UsageError(f"{target} and -l contradict each other: give one of them")
    return target.user


def _tls_counts(context: typer.Context, scheme: Scheme) -> bool:
    """Whether the TLS flags have a meaning. In the environment they may stand for another server."""
    if scheme is Scheme.TLS:
        return True
    for name, written in _TLS_FLAGS.items():
        if typed(context, name):
            raise UsageError(f"{written} has no use without TLS: write tls://HOST or add --transport tls")
    return False


def _only_target(context: typer.Context, text: str) -> TcpTarget:
    """Read -W, which stands alone."""
    for name, written in (("socks5", "-D"), ("forward", "-L"), ("remote_forward", "-R")):
        if typed(context, name):
            raise UsageError(f"-W joins standard input and output to one target and nothing else: leave out {written}")
    return parse_stdio(text)


def _run(options: ConnectOptions, target: TcpTarget | None, verbosity: Verbosity) -> ExitCode:
    try:
        from .session import hold, join  # noqa: PLC0415 - asyncssh takes 0.2 s to import
    except KeyboardInterrupt:
        return ExitCode.DONE
    return hold(options, verbosity) if target is None else join(options, target, verbosity)
