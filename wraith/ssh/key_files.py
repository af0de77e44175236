"""Key files: OpenSSH private keys read and made, and the rule on who else may touch a file."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import os
import re
import secrets
import shlex
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

import asyncssh

from ..errors import UnusableFile, UsageError
from .algorithms import blob_fields, why_unacceptable

MAX_KEY_FILE = 64 << 10  # bytes; a 16384-bit RSA key takes 13 KiB
PASSPHRASE_TRIES = 3  # as ssh
NEW_KEY_ROUNDS = 24  # of bcrypt, as OpenSSH 9.4 and later; about a quarter of a second to unlock
MAX_COMMENT = 1024  # characters; it stands in one line of authorized_keys

AskPassphrase = Callable[[str], str | None]  # given the key's path; None: nobody answers, or gave up

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,64})-----\s(.*?)-----END \1-----", re.DOTALL)
_PUTTY = b"PuTTY-User-Key-File-"
_MAGIC = b"openssh-key-v1\0"  # PROTOCOL.key of OpenSSH
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Guard(Enum):
    """What a file's mode must keep from its group and from others."""

    READING = 0o077  # a secret
    WRITING = 0o022  # what others write there decides who comes in
    NOTHING = 0


@dataclass(frozen=True, slots=True)
class PrivateKeyFile:
    """A private key as read: its public half is known, the private one may still be locked."""

    name: str  # for messages: its path
    public_blob: bytes  # RFC 4253 6.6 encoding
    locked: bool
    _pem: bytes = field(repr=False)

    @property
    def public_key(self) -> asyncssh.SSHKey:
        """The public half."""
        return _public_key(self.public_blob, self.name)

    def unlock(self, ask_passphrase: AskPassphrase | None = None) -> asyncssh.SSHKey:
        """Give the private key, asking for the passphrase at most PASSPHRASE_TRIES times.

        Raises UnusableFile when nobody answers or no answer fits.
        """
        if not self.locked:
            return self._decode(None)
        if ask_passphrase is None:
            raise UnusableFile(f"private key {self.name} has a passphrase, and nobody can be asked; {_add(self.name)}")
        for _ in range(PASSPHRASE_TRIES):
            passphrase = ask_passphrase(self.name)
            if passphrase is None:
                raise UnusableFile(f"private key {self.name} has a passphrase, and none was given; {_add(self.name)}")
            if not passphrase:
                continue  # a locked key never has an empty one, and bcrypt refuses to try
            with contextlib.suppress(_WrongPassphrase):
                return self._decode(passphrase)
        raise UnusableFile(f"private key {self.name}: the passphrase was wrong {PASSPHRASE_TRIES} times")

    def _decode(self, passphrase: str | None) -> asyncssh.SSHKey:
        try:
            key = asyncssh.import_private_key(self._pem, passphrase)
        except asyncssh.KeyEncryptionError as error:
            if "passphrase" in str(error):
                raise _WrongPassphrase from None
            raise UnusableFile(f"private key {self.name} cannot be decrypted: {error}") from error
        except ValueError as error:
            raise UnusableFile(f"private key {self.name} is damaged") from error
        if key.public_data != self.public_blob:
            raise UnusableFile(f"private key {self.name} is damaged: its halves do not belong together")
        return key


class _WrongPassphrase(Exception):
    pass


@dataclass(frozen=True, slots=True)
class LoadedHostKey:
    """A server's host key."""

    key: asyncssh.SSHKey
    created: bool  # by this call: its fingerprint is news to everybody


def load_private_key(source: Path | bytes, ask_passphrase: AskPassphrase | None = None) -> asyncssh.SSHKey:
    """Read and unlock a private key in OpenSSH's format, from a file or from the file's content.

    Raises UnusableFile: missing, unreadable, readable by others, in another format, of a type or
    size that is not accepted, or locked with nobody to ask.
    """
    return read_private_key(source).unlock(ask_passphrase)


def read_private_key(source: Path | bytes) -> PrivateKeyFile:
    """Read a private key without unlocking it. Raises UnusableFile as `load_private_key` does."""
    if isinstance(source, bytes):
        return parse_private_key(source, "given as bytes")
    return parse_private_key(read_file(source, "private key", Guard.READING, MAX_KEY_FILE), str(source))


def parse_private_key(data: bytes, name: str) -> PrivateKeyFile:
    """Parse a private key file's content; `name` is for messages. Raises UnusableFile."""
    if not data.strip():
        raise UnusableFile(f"private key {name} is empty")
    match = _PEM.search(data)
    if match is None or match[1] != b"OPENSSH PRIVATE KEY":
        raise UnusableFile(f"private key {name} {_what_instead(data, match, name)}")
    try:
        body = base64.b64decode(b"".join(match[2].split()), validate=True)
        cipher, public_blob = _container(body)
    except ValueError as error:
        raise UnusableFile(f"private key {name} is damaged") from error
    reason = why_unacceptable(public_blob)
    if reason is not None:
        raise UnusableFile(f"private key {name} {reason}; make another with: wraith keygen")
    if public_blob[4:7] == b"sk-":
        raise UnusableFile(f"private key {name} lives in a security key: use it through ssh-agent ({_add(name)})")
    # Without what may stand around it, and with plain line ends.
    return PrivateKeyFile(name, public_blob, cipher != b"none", _armour(body))


def read_file(path: Path, kind: str, guard: Guard, limit: int) -> bytes:
    """Read a whole file of at most `limit` bytes, after judging the mode of what was opened.

    `kind` names its role in messages. The null device is an empty file. Raises UnusableFile, whose
    `__cause__` is a FileNotFoundError when there is no such file.
    """
    if str(path) == os.devnull:
        return b""
    # O_NONBLOCK: opening a named pipe waits for a writer otherwise.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
        try:
            # The mode of what was opened: the path may mean another file by now.
            _judge(os.fstat(descriptor), path, kind, guard)
            data = bytearray()
            while len(data) <= limit and (chunk := os.read(descriptor, limit + 1 - len(data))):
                data += chunk
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise UnusableFile(f"{kind} {path}: {_why(error)}") from error
    if len(data) > limit:
        raise UnusableFile(f"{kind} {path} is larger than {limit >> 10} KiB, so it is something else")
    return bytes(data)


def generate_ed25519(
    path: Path, comment: str, passphrase: str | None = None, *, force: bool = False
) -> asyncssh.SSHKey:
    """Make an Ed25519 key: `path` with mode 0600, its public half in `path`.pub.

    The file appears whole or not at all; its folder is made with mode 0700. Neither file is
    overwritten without `force`. Raises UnusableFile, and UsageError for a comment of several lines.
    """
    if len(comment) > MAX_COMMENT or not comment.isprintable():
        raise UsageError(f"a key's comment is one printable line of at most {MAX_COMMENT} characters")
    public_path = path.with_name(path.name + ".pub")
    for taken in () if force else (path, public_path):
        if os.path.lexists(taken):
            raise UnusableFile(f"{taken} exists already; --force overwrites it")
    key = _new_key(comment)
    try:
        private = key.export_private_key("openssh", passphrase or None, rounds=NEW_KEY_ROUNDS, ignore_few_rounds=True)
    except ValueError as error:
        raise UnusableFile(f"private key {path} cannot be encrypted: {error}") from error
    _write_pair(path, private, key, replace=force)
    return key


def load_or_create_host_key(path: Path) -> LoadedHostKey:
    """Read the host key, or make one where there is none; of two processes at once one wins and both use it.

    Raises UnusableFile.
    """
    try:
        return LoadedHostKey(load_private_key(path), created=False)
    except UnusableFile as error:
        if not isinstance(error.__cause__, FileNotFoundError) or path.is_symlink():
            raise
    key = _new_key("wraith host key")
    try:
        _write_pair(path, key.export_private_key("openssh"), key, replace=False)
    except UnusableFile as error:
        if not isinstance(error.__cause__, FileExistsError):
            raise
        return LoadedHostKey(load_private_key(path), created=False)
    return LoadedHostKey(key, created=True)


def fingerprint(key: asyncssh.SSHKey) -> str:
    """Give a key's `SHA256:…`, as ssh-keygen -l writes it."""
    return fingerprint_of(key.public_data)


def fingerprint_of(blob: bytes) -> str:
    """Give the `SHA256:…` of a public key in its RFC 4253 6.6 encoding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")


def public_line(key: asyncssh.SSHKey) -> str:
    """Give the line that authorized_keys wants: type, base64, comment; without a line end."""
    line = f"{key.get_algorithm()} {base64.b64encode(key.public_data).decode('ascii')}"
    comment = (key.get_comment_bytes() or b"").decode("utf-8", "replace")
    return f"{line} {comment}" if comment and comment.isprintable() else line


def endpoint_id(key: asyncssh.SSHKey) -> str:
    """Give the name under which peers meet this key: base58 of the Ed25519 public key and 4 bytes of checksum.

    Raises UsageError for a key of another type.
    """
    fields = blob_fields(key.public_data)
    if len(fields) != 2 or fields[0] != b"ssh-ed25519":
        raise UsageError(f"only an ssh-ed25519 key has an endpoint ID, and this one is {key.get_algorithm()}")
    return _base58(fields[1] + hashlib.sha256(b"wraith-id" + fields[1]).digest()[:4])


def _container(body: bytes) -> tuple[bytes, bytes]:
    """Give the cipher's name and the public half; the file holds that in clear. Raises ValueError."""
    if not body.startswith(_MAGIC):
        raise ValueError("not an openssh-key-v1 container")
    strings, at = [], len(_MAGIC)
    for index in range(4):  # cipher, KDF, KDF options, then the number of keys, then the public half
        at += 4 if index == 3 else 0
        length = int.from_bytes(body[at : at + 4], "big")
        if at + 4 + length > len(body):
            raise ValueError("cut short")
        strings.append(body[at + 4 : at + 4 + length])
        at += 4 + length
    return strings[0], strings[3]


def _armour(body: bytes) -> bytes:
    return b"-----BEGIN OPENSSH PRIVATE KEY-----\n%s-----END OPENSSH PRIVATE KEY-----\n" % base64.encodebytes(body)


def _what_instead(data: bytes, match: re.Match[bytes] | None, name: str) -> str:
    """Say what a file is that is no OpenSSH private key, and how it becomes one."""
    path = shlex.quote(name)
    if match is not None and match[1].endswith(b"PRIVATE KEY"):
        return f"is in the PEM format, and only OpenSSH's own is read; convert it with: ssh-keygen -p -f {path}"
    if data.startswith(_PUTTY):
        converted = shlex.quote(name.removesuffix(".ppk") + ".openssh")
        return f"is in PuTTY's format; convert it with: puttygen {path} -O private-openssh-new -o {converted}"
    if data.lstrip().startswith((b"ssh-", b"ecdsa-", b"sk-")):
        return "is a public key; name the file of the private one"
    return "is not an OpenSSH private key"


def _public_key(blob: bytes, name: str) -> asyncssh.SSHKey:
    line = b"%s %s" % (blob_fields(blob)[0], base64.b64encode(blob))
    try:
        return asyncssh.import_public_key(line)
    except ValueError as error:
        raise UnusableFile(f"private key {name} is damaged") from error


def _judge(status: os.stat_result, path: Path, kind: str, guard: Guard) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise UnusableFile(f"{kind} {path} is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise UnusableFile(f"{kind} {path} is not a regular file")
    if os.name == "nt" or not status.st_mode & guard.value:
        return  # Windows: the mode bits say nothing of who may read
    what, mode = ("read", "600") if guard is Guard.READING else ("written", "go-w")
    raise UnusableFile(f"{kind} {path} can be {what} by others; mend it with: chmod {mode} {shlex.quote(str(path))}")


def _new_key(comment: str) -> asyncssh.SSHKey:
    return asyncssh.generate_private_key("ssh-ed25519", comment=comment)


def _write_pair(path: Path, private: bytes, key: asyncssh.SSHKey, *, replace: bool) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_whole(path, private, 0o600, replace=replace)
        public = (public_line(key) + "\n").encode()
        _write_whole(path.with_name(path.name + ".pub"), public, 0o644, replace=True)
    except (OSError, ValueError) as error:
        raise UnusableFile(f"{path} cannot be written: {_why(error)}") from error


def _write_whole(path: Path, data: bytes, mode: int, *, replace: bool) -> None:
    """Write a file that appears whole, and with its mode from the beginning. Raises OSError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if replace:
            draft.replace(path)
        else:
            _publish_new(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _publish_new(draft: Path, path: Path) -> None:
    """Give the draft its name, unless that is taken: then FileExistsError."""
    if os.name == "nt":
        draft.rename(path)  # refuses to replace there
        return
    try:
        path.hardlink_to(draft)  # the one way that never replaces
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES):
            raise
        # A file system without hard links (FAT, some network ones). The name is reserved, then filled.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        draft.replace(path)


def _why(error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return (error.strerror or type(error).__name__) if isinstance(error, OSError) else str(error)


def _add(name: str) -> str:
    return f"ssh-add {shlex.quote(name)}"


def _base58(data: bytes) -> str:
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        digits = _BASE58[digit] + digits
    leading_zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * leading_zeros + digits
