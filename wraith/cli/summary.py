"""The few lines a command starts with: what it does, where, and what to type next."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wraith.logs import LogFormat, event
from wraith.specs import Scheme

from .flags import Verbosity
from .terminal import one_line, say

logger = logging.getLogger(__name__)

_LABEL_WIDTH = 16


@dataclass(frozen=True, slots=True)
class ServeSummary:
    """What `wraith serve` tells whoever started it."""

    addresses: Sequence[str]  # scheme://host:port
    host_key: str  # fingerprint
    host_key_is_new: bool
    tls_pin: str | None  # of a self-signed certificate
    authorized_keys: Path | None  # None: given as bytes
    nobody_may_log_in: bool
    proxy: str | None = None  # of the targets

    def text(self) -> str:
        """Give the lines, without the last line end."""
        rows = [("listening on", address) for address in self.addresses]
        rows.append(("host key", self.host_key + (" (new)" if self.host_key_is_new else "")))
        if self.tls_pin is not None:
            rows.append(("TLS pin", self.tls_pin))
        if self.proxy is not None:
            rows.append(("targets through", self.proxy))
        if self.authorized_keys is not None:
            rows.append(("authorized keys", str(self.authorized_keys)))
        lines = ["wraith serves", *_table(rows)]
        if self.nobody_may_log_in and self.authorized_keys is not None:
            lines += [
                "  There is no authorized_keys file yet, so nobody can log in. On the client type",
                "    wraith keygen",
                f"  and put the line it prints, ssh-ed25519 AAAA..., into {one_line(str(self.authorized_keys))}",
                "  Here nothing needs a restart: the file is picked up when it appears.",
            ]
        lines += ["  Then, on the client:", *(f"    {line}" for line in self.client_commands())]
        return "\n".join(lines)

    def log(self) -> None:
        """Tell the same as events, where lines for a person would be in the way."""
        for address in self.addresses:
            event(logger, logging.INFO, "listening", address=address)
        event(
            logger,
            logging.INFO,
            "serving",
            host_key=self.host_key,
            host_key_is_new=self.host_key_is_new,
            tls_pin=self.tls_pin,
            proxy=self.proxy,
            authorized_keys=self.authorized_keys,
        )
        if self.nobody_may_log_in:
            event(
                logger,
                logging.WARNING,
                "there is no authorized_keys file yet: nobody can log in",
                authorized_keys=self.authorized_keys,
            )

    def client_commands(self) -> list[str]:
        """Say how a client connects, once for each transport there is."""
        commands: dict[Scheme, str] = {}
        for address in self.addresses:
            name, _, bound = address.partition("://")
            scheme = Scheme(name)
            port = int(bound.rpartition(":")[2])
            target = "HOST" if port == scheme.default_port else f"HOST:{port}"
            if scheme is Scheme.TCP:
                commands[scheme] = f"wraith connect {target} --host-key {self.host_key}"
            else:
                pin = f" --tls-pin {self.tls_pin}" if self.tls_pin else ""
                commands[scheme] = f"wraith connect tls://{target}{pin} --host-key {self.host_key}"
        return list(commands.values())


@dataclass(frozen=True, slots=True)
class ConnectSummary:
    """What `wraith connect` tells its user once the session is up."""

    server: str
    socks: Sequence[str]  # addresses, with real ports
    forwards: Sequence[tuple[str, str]]  # local address, target
    remote_forwards: Sequence[tuple[str, str]] = ()  # the server's address, target
    proxy: str | None = None  # on the way to the server

    def text(self) -> str:
        """Give the lines, without the last line end."""
        rows = [("through", self.proxy)] if self.proxy is not None else []
        rows += [("SOCKS5 proxy", address) for address in self.socks]
        rows += [("forward", f"{address} to {target}") for address, target in self.forwards]
        rows += [("remote forward", f"{address} to {target}") for address, target in self.remote_forwards]
        lines = [f"wraith is connected to {one_line(self.server)}", *_table(rows)]
        if self.socks and not self.socks[0].startswith("/"):
            lines.append(f"  Try: curl --proxy socks5h://{one_line(self.socks[0])} https://example.com/")
        lines.append("  Ctrl-C ends it.")
        return "\n".join(lines)

    def log(self) -> None:
        """Tell the same as events, where lines for a person would be in the way."""
        for address in self.socks:
            event(logger, logging.INFO, "SOCKS5 proxy", address=address)
        for address, target in self.forwards:
            event(logger, logging.INFO, "forward", address=address, target=target)
        for address, target in self.remote_forwards:
            event(logger, logging.INFO, "remote forward", address=address, target=target)
        event(logger, logging.INFO, "connected", server=self.server, proxy=self.proxy)


def announce(summary: ServeSummary | ConnectSummary, verbosity: Verbosity) -> None:
    """Say how a command has started: to a person, or to what reads its JSON log."""
    if verbosity.log_format is LogFormat.JSON:
        summary.log()
    elif not verbosity.quiet:
        say(summary.text())


def _table(rows: Sequence[tuple[str, str]]) -> list[str]:
    return [f"  {label:<{_LABEL_WIDTH}} {one_line(value)}" for label, value in rows]
