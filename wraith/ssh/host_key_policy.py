"""The host key policy: whether the key a server shows is accepted, asked about, recorded or refused."""

from __future__ import annotations

import base64
import logging
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import asyncssh

from ..errors import UnusableFile, UsageError, WraithError, WrongPeer
from ..logs import event
from ..options import HostKeyCheck
from .algorithms import host_key_algorithms, refuse_old_signatures, why_unacceptable
from .key_files import fingerprint_of
from .known_hosts import HostKey, Judgement, KnownHosts, host_name, load_known_hosts, record_host_key, source_name

_FINGERPRINT = re.compile(r"SHA256:([A-Za-z0-9+/]{43})=?", re.ASCII)

_log = logging.getLogger(__name__)


class Decision(Enum):
    """What is to be done with a key that is not refused."""

    ACCEPT = "accept"
    ASK = "ask"  # and record after a yes
    RECORD = "record"  # and accept


@dataclass(frozen=True, slots=True)
class HostKeyPolicy:
    """Which host keys a client accepts. Raises UsageError for a malformed pin."""

    known_hosts: Path | bytes  # or the file's content: nothing can be recorded then
    check: HostKeyCheck = HostKeyCheck.ACCEPT_NEW
    pins: tuple[str, ...] = ()  # `SHA256:…`; with one or more of them nothing else decides, and nothing is recorded

    def __post_init__(self) -> None:
        object.__setattr__(self, "pins", tuple(parse_pin(pin) for pin in self.pins))

    @property
    def records(self) -> str:
        """Name the known_hosts file."""
        return source_name(self.known_hosts)


@dataclass(frozen=True, slots=True)
class ShownKey:
    """The key a server showed, as messages tell it."""

    host: str  # as records write it: `host` or `[host]:port`
    key_type: str
    fingerprint: str


AskHostKey = Callable[[str, str], bool]  # given host and fingerprint; True: the person at the terminal trusts it
RecordHostKey = Callable[[Path, str, int, bytes], Judgement]


def parse_pin(text: str) -> str:
    """Check a `SHA256:…` fingerprint and give it as `ssh-keygen -l` writes it. Raises UsageError."""
    match = _FINGERPRINT.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--host-key takes SHA256: and 43 characters, as ssh-keygen -l prints it, not {text[:64]!a}")
    # Decoded and written again: the last character has two bits that say nothing.
    return "SHA256:" + base64.b64encode(base64.b64decode(match[1] + "=")).decode("ascii").rstrip("=")


def decide(policy: HostKeyPolicy, judgement: Judgement, shown: ShownKey) -> Decision:
    """Decide on a key. Raises WrongPeer when it is refused.

    A revoked key is refused even when it is pinned: a pin may be older than the revocation.
    """
    key = f"{shown.fingerprint} ({shown.key_type})"
    record = judgement.record
    where = f"{policy.records}:{record.line}" if record is not None else policy.records
    if judgement.host_key is HostKey.REVOKED:
        raise WrongPeer(f"the host key of {shown.host}, {key}, is revoked by {where}")
    if policy.pins:
        if shown.fingerprint in policy.pins:
            return Decision.ACCEPT
        raise WrongPeer(f"the host key of {shown.host} is {key}, not the pinned {' or '.join(policy.pins)}")
    if judgement.host_key is HostKey.KNOWN:
        return Decision.ACCEPT
    if judgement.host_key is HostKey.CHANGED:
        recorded = f" has {record.fingerprint} ({record.key_type})" if record is not None else " has another"
        forget = f"ssh-keygen -R {shlex.quote(shown.host)} -f {shlex.quote(policy.records)}"
        raise WrongPeer(
            f"the host key of {shown.host} has changed, or somebody is in between: it is {key}, and {where}{recorded};"
            f" if the change is right, forget the old one with: {forget}"
        )
    if policy.check is HostKeyCheck.STRICT:
        raise WrongPeer(
            f"{policy.records} has no host key for {shown.host}, and only recorded ones are accepted: it is {key};"
            f" if that is right, pass --host-key {shown.fingerprint}"
        )
    return Decision.RECORD if policy.check is HostKeyCheck.ACCEPT_NEW else Decision.ASK


class HostKeyChecker:
    """Judges the host key of one connection, where asyncssh asks for it.

    Pass `known_hosts` and `server_host_key_algs` to `asyncssh.connect`, and let the client's
    `validate_host_public_key` return `accepts(key)`. When the connection then fails and `failure`
    is set, that is the reason. A key exchange later in the same connection must show the same key.
    """

    def __init__(
        self,
        policy: HostKeyPolicy,
        host: str,
        port: int,
        *,
        address: str | None = None,
        ask: AskHostKey | None = None,
        record: RecordHostKey = record_host_key,
        known: KnownHosts | None = None,
    ) -> None:
        """Read the records. `ask` is called on the loop's thread, and blocks it as long as a person thinks.

        Raises UnusableFile when they cannot be read.
        """
        self._policy = policy
        self._host = host
        self._port = port
        self._address = address
        self._ask = ask
        self._record = record
        self._known = load_known_hosts(policy.known_hosts) if known is None else known
        self._accepted: bytes | None = None
        self.failure: WraithError | None = None
        # With a pin only the pinned key counts, whatever an authority signed.
        self._authorities = () if policy.pins else self._known.authorities(host, port)

    @property
    def known_hosts(self) -> tuple[Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey], Sequence[asyncssh.SSHKey]]:
        """The host keys, authorities and revoked keys for asyncssh's argument of that name.

        There are never host keys in it, so that asyncssh asks about each. Host certificates are
        asyncssh's to verify: signed by one of these authorities, for this host, and valid now.
        """
        if not self._authorities:
            return ((), (), ())
        return ((), _keys(self._authorities), _keys(self._known.revoked(self._host, self._port)))

    @property
    def server_host_key_algs(self) -> tuple[str, ...]:
        """The algorithms to ask for: what we can check comes first."""
        known_types = self._known.key_types(self._host, self._port)
        return host_key_algorithms(known_types, certificates=bool(self._authorities))

    def accepts(self, key: asyncssh.SSHKey) -> bool:
        """Judge the key that was shown; False leaves the reason in `failure`. Never raises WraithError."""
        refuse_old_signatures(key)
        try:
            self._check(key.public_data, key.get_algorithm())
        except WraithError as error:
            self.failure = error
            return False
        return True

    def _check(self, blob: bytes, key_type: str) -> None:
        shown = ShownKey(host_name(self._host, self._port), key_type, fingerprint_of(blob))
        if self._accepted is not None:
            if blob != self._accepted:
                raise WrongPeer(f"{shown.host} showed another host key in mid-session: {shown.fingerprint}")
            return
        reason = why_unacceptable(blob)
        if reason is not None:
            raise WrongPeer(f"the host key of {shown.host} {reason}")
        judgement = self._known.judge(self._host, self._port, self._address, blob)
        match decide(self._policy, judgement, shown):
            case Decision.ACCEPT:
                pass
            case Decision.ASK:
                self._ask_about(shown)
                self._remember(blob, shown)
                event(_log, logging.INFO, "host key recorded", host=shown.host, fingerprint=shown.fingerprint)
            case Decision.RECORD:
                self._remember(blob, shown)
                event(
                    _log,
                    logging.WARNING,
                    f"host key accepted unseen; to accept no other pass --host-key {shown.fingerprint}",
                    host=shown.host,
                )
        self._accepted = blob

    def _ask_about(self, shown: ShownKey) -> None:
        if self._ask is None:
            raise WrongPeer(
                f"the host key of {shown.host} is not known, and nobody can be asked: it is {shown.fingerprint}"
                f" ({shown.key_type}); if that is right, pass --host-key {shown.fingerprint}"
            )
        if not self._ask(shown.host, shown.fingerprint):
            raise WrongPeer(f"the host key of {shown.host}, {shown.fingerprint}, was not accepted")

    def _remember(self, blob: bytes, shown: ShownKey) -> None:
        if isinstance(self._policy.known_hosts, bytes):
            raise UnusableFile(f"the host key of {shown.host} cannot be recorded in {self._policy.records}")
        judgement = self._record(self._policy.known_hosts, self._host, self._port, blob)
        if judgement.host_key is not HostKey.UNKNOWN:
            decide(self._policy, judgement, shown)  # somebody recorded one meanwhile: refused if it is another


def _keys(blobs: Sequence[bytes]) -> tuple[asyncssh.SSHKey, ...]:
    """Decode keys for asyncssh; those it cannot read can neither sign nor be signed."""
    found = []
    for blob in blobs:
        try:
            length = int.from_bytes(blob[:4], "big")
            found.append(asyncssh.import_public_key(blob[4 : 4 + length] + b" " + base64.b64encode(blob)))
        except ValueError:
            continue
    return tuple(found)
