"""What `wraith.serve` and `wraith.connect` can be told, checked when it is said.

A key or a file of keys is a path, or its contents as bytes. No field that may hold a secret is
shown by repr.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UsageError
from .paths import AUTHORIZED_KEYS, IDENTITY, KNOWN_HOSTS, TLS_FOLDER, configuration_folder
from .specs import ListenSpec, LocalForwardSpec, PermitListen, PermitOpen, RemoteForwardSpec, Scheme, SocksSpec, is_host

if TYPE_CHECKING:
    from wraith_transports.proxy import ProxyUrl  # it brings asyncio, which `wraith --help` does without

DEFAULT_USER = "wraith"
MAX_AUTH_ATTEMPTS = 10  # keys offered by one connection; an agent with more needs -i
MAX_SESSIONS = 1000  # a session costs about 1 MB; this many fit a small machine
MAX_CHANNELS = 1024  # of one session; a browser behind SOCKS opens a few hundred

_HOST_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}=?")
_TLS_PIN = "sha256//"

KeySource = Path | bytes


class HostKeyCheck(Enum):
    """What becomes of a host key that no record knows. One that contradicts a record is always refused."""

    ASK = "ask"  # `confirm_host_key` decides; without it the key is refused
    ACCEPT_NEW = "accept-new"  # recorded and trusted, with a warning
    STRICT = "strict"  # refused


class AddressFamily(Enum):
    """Which addresses of the server may be dialled."""

    ANY = "any"
    IPV4 = "4"
    IPV6 = "6"


@dataclass(frozen=True, slots=True)
class TlsServerOptions:
    """The TLS certificate to show. Neither given: a self-signed one is made and stored."""

    certificate: KeySource | None = None
    key: KeySource | None = field(default=None, repr=False)
    folder: Path = field(default_factory=lambda: default_directory() / TLS_FOLDER)  # where a self-signed one is kept

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("--tls-key", "--tls-cert") if self.certificate is None else ("--tls-cert", "--tls-key")
            raise UsageError(f"{given} needs {missing} as well: a certificate and its key go together")


@dataclass(frozen=True, slots=True)
class TlsClientOptions:
    """How the server's TLS certificate is judged. Nothing given: by the system's roots and the host's name."""

    server_name: str | None = None  # asked for by SNI and checked; default the host
    ca: KeySource | None = None  # these roots instead of the system's
    pins: tuple[str, ...] = ()  # sha256//BASE64 of the public key; replaces the chain and name checks
    insecure: bool = False  # no check at all: the SSH host key alone tells who answers

    def __post_init__(self) -> None:
        if self.server_name is not None and not is_host(self.server_name):
            raise UsageError(f"--tls-server-name {self.server_name!a} is not a host name or address")
        for pin in self.pins:
            _check_tls_pin(pin)
        for flag, given in (("--tls-pin", bool(self.pins)), ("--tls-ca", self.ca is not None)):
            if self.insecure and given:
                raise UsageError(f"--insecure and {flag} contradict each other: give one of them")
        if self.pins and self.ca is not None:
            raise UsageError("--tls-pin replaces the check of the chain, so --tls-ca has no use: give one of them")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """One server: its keys, where it listens, what it allows. Raises UsageError for what cannot be."""

    key: KeySource | None = field(default=None, repr=False)  # default <dir>/host_ed25519, made when it is missing
    authorized_keys: KeySource = field(default_factory=lambda: default_directory() / AUTHORIZED_KEYS)
    host_certificate: KeySource | None = None  # of the host key
    cert_authorities: tuple[KeySource, ...] = ()  # whose user certificates are trusted
    principals: tuple[str, ...] = ()  # that those certificates need one of; none: the user's name
    revoked_keys: KeySource | None = None  # keys and fingerprints, one a line
    transport: Scheme = Scheme.TCP  # of the addresses that name none
    listen: tuple[ListenSpec, ...] = ()  # default every address, the transport's port
    tls: TlsServerOptions = field(default_factory=TlsServerOptions)
    permit_open: PermitOpen = field(default_factory=PermitOpen)
    permit_listen: PermitListen = field(default_factory=PermitListen)
    gateway_ports: bool = False  # remote forwards may listen beyond loopback
    deny_private: bool = False  # no target whose address `ipaddress` does not call global
    proxy: ProxyUrl | None = None  # connections to targets go through it; how clients come here does not change
    max_auth_attempts: int = MAX_AUTH_ATTEMPTS
    max_connections_per_ip: int = 0  # IPv6 counts by /64; 0 is no limit
    max_sessions: int = MAX_SESSIONS
    max_channels: int = MAX_CHANNELS

    def __post_init__(self) -> None:
        if self.deny_private and self.proxy is not None:
            raise UsageError("--deny-private cannot look at addresses that --proxy resolves: give one of them")
        if self.max_connections_per_ip < 0:
            raise UsageError("--max-connections-per-ip must be at least 0, which is no limit")
        for name in ("max_auth_attempts", "max_sessions", "max_channels"):
            if getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} must be at least 1")

        if self.principals and not self.cert_authorities:
            raise UsageError("--principal is about certificates: it needs --cert-authority")
        if not all(self.principals):
            raise UsageError("--principal needs a name")

    @property
    def listening(self) -> tuple[ListenSpec, ...]:
        """Where to listen, each with its scheme and none twice."""
        wanted = self.listen or (ListenSpec("::", self.transport.default_port),)
        resolved = (ListenSpec(each.host, each.port, each.scheme or self.transport) for each in wanted)
        return tuple(dict.fromkeys(resolved))


@dataclass(frozen=True, slots=True)
class ConnectOptions:
    """One session: the server, who we are, whom we trust. Raises UsageError for what cannot be.

    The two callbacks ask a person. They are called on the event loop's thread, before there is a
    session, and may block it.
    """

    host: str
    port: int | None = None  # default the transport's
    user: str = DEFAULT_USER
    transport: Scheme = Scheme.TCP
    identities: tuple[KeySource, ...] = field(default=(), repr=False)  # default the agent and `default_identities`
    certificate: KeySource | None = None  # of one of the identities; default IDENTITY-cert.pub where it exists
    known_hosts: KeySource = field(default_factory=lambda: default_directory() / KNOWN_HOSTS)
    host_key_check: HostKeyCheck = HostKeyCheck.ACCEPT_NEW
    host_keys: tuple[str, ...] = ()  # pins, SHA256:...; when given nothing else counts and nothing is recorded
    socks: tuple[SocksSpec, ...] = ()
    socks_auth: KeySource | None = field(default=None, repr=False)  # user:password, one a line; then every port asks
    socks_open: bool = False  # anybody who reaches a SOCKS port that is not on loopback may use it
    forwards: tuple[LocalForwardSpec, ...] = ()
    remote_forwards: tuple[RemoteForwardSpec, ...] = ()
    family: AddressFamily = AddressFamily.ANY  # of the server; with a proxy, of the proxy
    proxy: ProxyUrl | None = None  # the connection to the server goes through it; targets are the server's to reach
    tls: TlsClientOptions = TlsClientOptions()
    exit_on_failure: bool = False
    ask_passphrase: Callable[[str], str | None] | None = field(default=None, repr=False)  # given the key's name
    confirm_host_key: Callable[[str, str], bool] | None = field(default=None, repr=False)  # given host, fingerprint

    def __post_init__(self) -> None:
        if not is_host(self.host):
            raise UsageError(f"the server {self.host!a} is not a host name or address")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise UsageError(f"the server's port {self.port} is not from 1 to 65535")
        if not self.user or not self.user.isprintable() or " " in self.user:
            raise UsageError(f"--user {self.user!a} is not a user name")
        for fingerprint in self.host_keys:
            if not _HOST_KEY.fullmatch(fingerprint):
                raise UsageError(f"--host-key {fingerprint!a} is not a fingerprint: write SHA256:...")
        if self.socks_auth is not None and self.socks_open:
            raise UsageError("--socks5-auth-file and --socks5-open exclude each other: give one of them")
        records = self.host_key_check is not HostKeyCheck.STRICT and not self.host_keys
        if records and isinstance(self.known_hosts, bytes):
            raise UsageError("known_hosts given as bytes cannot record a new key: use HostKeyCheck.STRICT")

    @property
    def server_port(self) -> int:
        """The port to dial."""
        return self.transport.default_port if self.port is None else self.port


def default_directory() -> Path:
    """Give the folder of keys and records: WRAITH_DIR, or the platform's configuration folder for wraith."""
    return configuration_folder(os.environ)


def default_identities() -> tuple[Path, ...]:
    """Name the key files that are tried, where they exist, when no identity is given."""
    ssh = Path.home() / ".ssh"
    return (default_directory() / IDENTITY, ssh / "id_ed25519", ssh / "id_ecdsa", ssh / "id_rsa")


def _check_tls_pin(pin: str) -> None:
    encoded = pin.removeprefix(_TLS_PIN)
    try:
        digest = base64.b64decode(encoded, validate=True) if encoded != pin else b""
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32:
        raise UsageError(f"--tls-pin {pin!a} is not a pin: write sha256//BASE64, as `wraith serve` prints it")
