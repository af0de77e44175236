"""Identities: the keys a client offers, and in which order."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from ..errors import UnusableFile
from ..logs import event
from ..paths import IDENTITY
from .algorithms import why_unacceptable
from .certificates import is_certificate, read_user_certificate
from .key_files import (
    MAX_KEY_FILE,
    AskPassphrase,
    Guard,
    PrivateKeyFile,
    fingerprint_of,
    read_file,
    read_private_key,
)

HOME_NAMES = ("id_ed25519", "id_ecdsa", "id_rsa")  # in ~/.ssh
AGENT_TIMEOUT_S = 2.0  # to list its keys; an agent answers at once or is dead (a socket forwarded by a lost session)

NamedCertificate = tuple[str, asyncssh.SSHCertificate]  # the name is for messages

_log = logging.getLogger(__name__)


class LockedKeyPair(asyncssh.SSHKeyPair):
    """A key pair whose passphrase is asked for when a server has said that it takes the key.

    The question blocks the loop's thread. `required` says what giving up means: UnusableFile, which
    ends the connection, or ValueError, after which asyncssh offers the next key. Once unlocked it
    stays so; once given up it is not asked again. A shallow copy shares that, and may have another
    certificate.
    """

    _key_type = "local"

    def __init__(self, file: PrivateKeyFile, ask_passphrase: AskPassphrase, *, required: bool) -> None:
        public = file.public_key
        super().__init__(
            public.algorithm, public.algorithm, public.sig_algorithms, public.sig_algorithms, file.public_blob, None
        )
        self._lock = _Lock(file, ask_passphrase)
        self._required = required

    def sign(self, data: bytes) -> bytes:
        """Sign, after unlocking the key if it still is locked."""
        try:
            key = self._lock.opened(warn=not self._required)
        except UnusableFile as error:
            if self._required:
                raise
            raise asyncssh.KeyImportError("the key stays locked") from error
        return key.sign(data, self.sig_algorithm)


class _Lock:
    """A locked key and what became of the question."""

    def __init__(self, file: PrivateKeyFile, ask_passphrase: AskPassphrase) -> None:
        self._file = file
        self._ask_passphrase = ask_passphrase
        self._key: asyncssh.SSHKey | None = None
        self._failure: UnusableFile | None = None

    def opened(self, *, warn: bool) -> asyncssh.SSHKey:
        """Give the key. Raises UnusableFile, always the same one once it has."""
        if self._failure is not None:
            raise self._failure
        if self._key is None:
            try:
                self._key = self._file.unlock(self._ask_passphrase)
            except UnusableFile as error:
                self._failure = error
                if warn:
                    event(_log, logging.WARNING, "key not offered", reason=error)
                raise
        return self._key


@dataclass(frozen=True, slots=True)
class Identities:
    """What a client offers: `client_keys` for `asyncssh.connect`, with `agent_path=None`.

    Never empty, as asyncssh reads ~/.ssh by itself when it is. The agent's keys are among them, so
    asyncssh needs no agent of its own. May be used for several connections; `aclose()` after each
    login, and the agent is called again when it is needed.
    """

    key_pairs: tuple[asyncssh.SSHKeyPair, ...]
    _agent: asyncssh.SSHAgentClient | None = field(default=None, repr=False)

    @property
    def client_keys(self) -> list[asyncssh.SSHKeyPair]:
        """The key pairs as asyncssh wants them: it takes a tuple of two for one key and its certificate."""
        return list(self.key_pairs)

    async def aclose(self) -> None:
        """Hang up on the agent; idempotent; never raises."""
        await _hang_up(self._agent)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A key to offer: a private key file, or a public key whose private half only the agent has."""

    public_blob: bytes
    file: PrivateKeyFile | None
    name: str


async def load_identities(
    explicit: Sequence[Path | bytes],
    *,
    folder: Path,
    home: Path | None,
    agent_socket: str | None,
    ask_passphrase: AskPassphrase | None,
    certificate: Path | bytes | None = None,
) -> Identities:
    """Find the keys to offer.

    With `explicit` ones (`-i`; paths, or private keys as bytes) only those, from the agent where the
    file is locked or holds the public half alone; else the agent's, its certificates too, then
    `folder`/id_ed25519, then ~/.ssh/id_ed25519, id_ecdsa and id_rsa as exist. The `certificate` is
    offered before its key; without one those in a `-cert.pub` beside a key's file are.
    `agent_socket` is SSH_AUTH_SOCK; an agent that does not answer counts as none. `ask_passphrase`
    None: nobody can be asked.

    Raises UnusableFile: an explicit key, certificate or wraith's own key that cannot be used, or no
    key at all.
    """
    chosen = [read_user_certificate(certificate)] if certificate is not None else None
    if explicit:
        wanted = [_read_explicit(source) for source in explicit]
        # The agent is left alone when no key needs it.
        needs_agent = any(each.file is None or each.file.locked for each in wanted)
        agent, held = await _ask_agent(agent_socket if needs_agent else None)
        try:
            offers = offers_of_explicit(wanted, held, ask_passphrase)
            beside = [source for source in explicit if isinstance(source, Path)]
            return Identities(_with_certificates(offers, chosen, beside), agent)
        except UnusableFile:
            await _hang_up(agent)
            raise
    defaults, reasons = _read_defaults(folder, home)
    agent, held = await _ask_agent(agent_socket)
    offers, locked = offers_of_defaults(defaults, held, ask_passphrase)
    if not offers:
        await _hang_up(agent)
        reason = next(iter(reasons + locked), None)
        raise UnusableFile(f"no key to offer{f' ({reason})' if reason else ''}; make one with: wraith keygen")
    for reason in locked:
        event(_log, logging.INFO, "key not offered", reason=reason)
    try:
        return Identities(_with_certificates(offers, chosen, _default_paths(folder, home)), agent)
    except UnusableFile:
        await _hang_up(agent)
        raise


def offers_of_explicit(
    wanted: Sequence[Wanted], held: Sequence[asyncssh.SSHKeyPair], ask_passphrase: AskPassphrase | None
) -> tuple[asyncssh.SSHKeyPair, ...]:
    """Order what `-i` named; `held` are the agent's. Raises UnusableFile for one that cannot be offered."""
    by_blob = {pair.public_data: pair for pair in held}
    offers: dict[bytes, asyncssh.SSHKeyPair] = {}
    for each in wanted:
        if each.public_blob in offers:
            continue
        if each.file is not None and not each.file.locked:
            offers[each.public_blob] = _unlocked(each.file)
        elif each.public_blob in by_blob:
            offers[each.public_blob] = by_blob[each.public_blob]
        elif each.file is None:
            raise UnusableFile(f"{each.name} is a public key, and no ssh-agent that answers has its private half")
        elif ask_passphrase is None:
            each.file.unlock(None)  # raises, and says what to do
        else:
            offers[each.public_blob] = LockedKeyPair(each.file, ask_passphrase, required=True)
    return tuple(offers.values())


def offers_of_defaults(
    files: Sequence[PrivateKeyFile], held: Sequence[asyncssh.SSHKeyPair], ask_passphrase: AskPassphrase | None
) -> tuple[tuple[asyncssh.SSHKeyPair, ...], tuple[str, ...]]:
    """Order the agent's keys and the default files; also say which locked ones are left out, and why."""
    offers = {pair.public_data: pair for pair in held}
    left_out: list[str] = []
    for file in files:
        if file.public_blob in offers:
            continue
        if not file.locked:
            offers[file.public_blob] = _unlocked(file)
        elif ask_passphrase is not None:
            offers[file.public_blob] = LockedKeyPair(file, ask_passphrase, required=False)
        else:
            left_out.append(f"{file.name} has a passphrase, and nobody can be asked; ssh-add it")
    return tuple(offers.values()), tuple(left_out)


def _read_explicit(source: Path | bytes) -> Wanted:
    if isinstance(source, Path):
        public = _public_half(source)
        if public is not None:
            return Wanted(public, None, str(source))
    file = read_private_key(source)
    return Wanted(file.public_blob, file, file.name)


def _public_half(path: Path) -> bytes | None:
    """Give the key in a public key file, as `-i id.pub` names one that the agent holds; None for another file."""
    if path.suffix != ".pub":
        return None
    data = read_file(path, "public key", Guard.NOTHING, MAX_KEY_FILE)
    try:
        blob = asyncssh.import_public_key(data).public_data
    except ValueError as error:
        raise UnusableFile(f"{path} is not a public key") from error
    reason = why_unacceptable(blob)
    if reason is not None:
        raise UnusableFile(f"public key {path} {reason}")
    return blob


def _read_defaults(folder: Path, home: Path | None) -> tuple[list[PrivateKeyFile], tuple[str, ...]]:
    """Read the default files that exist; also say which of ~/.ssh cannot be used, and why.

    wraith's own must be right; those of ssh may be of any kind and age, and are passed over.
    """
    files: list[PrivateKeyFile] = []
    reasons: list[str] = []
    try:
        files.append(read_private_key(folder / IDENTITY))
    except UnusableFile as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    for path in _default_paths(folder, home)[1:]:
        try:
            files.append(read_private_key(path))
        except UnusableFile as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                reasons.append(str(error))
                event(_log, logging.WARNING, "key not offered", reason=error)
    return files, tuple(reasons)


def _default_paths(folder: Path, home: Path | None) -> list[Path]:
    return [folder / IDENTITY, *(home / ".ssh" / name for name in HOME_NAMES if home is not None)]


def _with_certificates(
    offers: Sequence[asyncssh.SSHKeyPair], chosen: Sequence[NamedCertificate] | None, paths: Sequence[Path]
) -> tuple[asyncssh.SSHKeyPair, ...]:
    """Put before each key the certificate that is chosen for it, or stands beside its file.

    Raises UnusableFile for a chosen one that belongs to none of the keys.
    """
    by_key: dict[bytes, asyncssh.SSHCertificate] = {}
    for name, certificate in chosen if chosen is not None else _certificates_beside(paths):
        blob = certificate.key.public_data
        if any(pair.key_public_data == blob for pair in offers):
            by_key.setdefault(blob, certificate)
        elif chosen is not None:
            raise UnusableFile(f"{name} is for a key that is not offered ({fingerprint_of(blob)}): name it with -i")
    result: dict[bytes, asyncssh.SSHKeyPair] = {}  # an agent may hold the same certificate
    for pair in offers:
        if pair.key_public_data in by_key:
            certified = copy.copy(pair)
            certified.set_certificate(by_key[pair.key_public_data])
            result.setdefault(certified.public_data, certified)
        result.setdefault(pair.public_data, pair)
    return tuple(result.values())


def _certificates_beside(paths: Sequence[Path]) -> list[NamedCertificate]:
    """Read the `-cert.pub` of each key file that has one; one that cannot be used is said, and left."""
    found: list[NamedCertificate] = []
    for path in paths:
        name = path.name.removesuffix(".pub") + "-cert.pub"
        try:
            found.append(read_user_certificate(path.with_name(name)))
        except UnusableFile as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                event(_log, logging.WARNING, "certificate not offered", reason=error)
    return found


async def _ask_agent(
    socket_path: str | None,
) -> tuple[asyncssh.SSHAgentClient | None, tuple[asyncssh.SSHKeyPair, ...]]:
    """List the agent's keys; an agent that is not there, fails or is slow has none."""
    if not socket_path:
        return None, ()
    agent = asyncssh.SSHAgentClient(socket_path)
    try:
        async with asyncio.timeout(AGENT_TIMEOUT_S):
            pairs = await agent.get_keys()
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        event(_log, logging.WARNING, "ssh-agent does not answer", path=socket_path, reason=error or "timed out")
        await _hang_up(agent)
        return None, ()
    except BaseException:  # cancelled
        agent.close()
        raise
    usable = (pair for pair in pairs if is_certificate(pair.public_data) or why_unacceptable(pair.public_data) is None)
    return agent, tuple(usable)


async def _hang_up(agent: asyncssh.SSHAgentClient | None) -> None:
    if agent is not None:
        agent.close()
        with contextlib.suppress(OSError):
            await agent.wait_closed()


def _unlocked(file: PrivateKeyFile) -> asyncssh.SSHKeyPair:
    return asyncssh.load_keypairs(file.unlock())[0]
