"""The authorized_keys file: which public keys may log in."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh

from ..errors import UnusableFile
from .algorithms import KEY_TYPES, blob_fields, why_unacceptable
from .key_files import Guard, fingerprint_of, read_file

MAX_FILE = 4 << 20  # bytes; some 40,000 Ed25519 keys
MAX_LINE = 16 << 10  # bytes; twice what sshd takes: an RSA key of 16384 bits takes 3 KiB
MAX_SHOWN = 64  # characters of a foreign word that a message repeats

_BLANKS = " \t"  # what separates fields, as in sshd(8); no other character does


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """One key that may log in."""

    public_data: bytes  # RFC 4253 6.6 encoding
    algorithm: str
    fingerprint: str
    comment: str
    line: int  # counted from 1


@dataclass(frozen=True, slots=True)
class AuthorizedKeys:
    """The keys of one file, in its order."""

    source: str
    keys: tuple[AuthorizedKey, ...] = ()
    missing: bool = False  # there is no such file yet
    _by_data: dict[bytes, AuthorizedKey] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # Reversed: of two lines with one key the first decides, as in sshd.
        object.__setattr__(self, "_by_data", {key.public_data: key for key in reversed(self.keys)})

    def find(self, public_data: bytes) -> AuthorizedKey | None:
        """Find the first line with this public key."""
        return self._by_data.get(public_data)


def load_authorized_keys(source: Path | bytes) -> AuthorizedKeys:
    """Read and parse the file, or its content; a file that does not exist is an empty set with `missing`.

    Raises UnusableFile when it cannot be read, others may write it, or a line is bad.
    """
    name = "authorized_keys given as bytes" if isinstance(source, bytes) else str(source)
    try:
        data = source if isinstance(source, bytes) else read_file(source, "authorized_keys", Guard.WRITING, MAX_FILE)
    except UnusableFile as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return AuthorizedKeys(name, missing=True)
        raise
    # "replace": a comment in an old encoding must not lock everybody out; keys are ASCII.
    return parse_authorized_keys(data.decode("utf-8-sig", "replace"), name)


def parse_authorized_keys(text: str, source: str) -> AuthorizedKeys:
    """Parse a whole file; `source` names it in messages. Raises UnusableFile with file:line."""
    # Line feeds only: str.splitlines() would also break a comment at U+2028 and take what follows for a key.
    parsed = (parse_line(line, number, source) for number, line in enumerate(text.split("\n"), 1))
    return AuthorizedKeys(source, tuple(key for key in parsed if key is not None))


def parse_line(line: str, number: int, source: str) -> AuthorizedKey | None:
    """Parse one line without its line feed: a key, or None for a blank line or a comment. Raises UnusableFile."""
    where = f"{source}:{number}"
    if len(line.encode("utf-8", "surrogatepass")) > MAX_LINE:
        raise UnusableFile(f"{where}: the line is longer than {MAX_LINE >> 10} KiB")
    if "\0" in line:
        raise UnusableFile(f"{where}: not a text file in UTF-8")
    line = line.removesuffix("\r").strip(_BLANKS)
    if not line or line.startswith("#"):
        return None
    # As in sshd: a line that begins with a key type is a key; anything else begins with options.
    if _first_word(line) not in KEY_TYPES:
        raise UnusableFile(f"{where}: {_why_no_key(line)}")
    return _parse_key(line, number, where)


def _parse_key(line: str, number: int, where: str) -> AuthorizedKey:
    """Parse `type base64 [comment]`."""
    algorithm, encoded, comment = _fields(line)
    try:
        blob = base64.b64decode(encoded, validate=True)
    except ValueError as error:
        raise UnusableFile(f"{where}: the {algorithm} key is not base64") from error
    fields = blob_fields(blob)
    if not fields:
        raise UnusableFile(f"{where}: the {algorithm} key is damaged or cut short")
    if fields[0] != algorithm.encode("ascii"):
        inner = fields[0].decode("ascii", "replace")
        raise UnusableFile(f"{where}: the line says {algorithm}, the key in it says {_shown(inner)}")
    reason = why_unacceptable(blob)
    if reason is not None:
        raise UnusableFile(f"{where}: the key {reason}")
    try:
        key = asyncssh.import_public_key(f"{algorithm} {encoded}")
    except ValueError as error:
        raise UnusableFile(f"{where}: the {algorithm} key is damaged") from error
    if key.public_data != blob:
        # Another encoding of the same numbers: no client's key would ever compare equal.
        raise UnusableFile(f"{where}: the {algorithm} key is damaged")
    return AuthorizedKey(blob, algorithm, fingerprint_of(blob), comment, number)


def _fields(line: str) -> tuple[str, str, str]:
    first, _, rest = _partition_blank(line)
    second, _, comment = _partition_blank(rest)
    return first, second, comment


def _first_word(line: str) -> str:
    return _partition_blank(line)[0]


def _partition_blank(text: str) -> tuple[str, str, str]:
    """Split at the first run of blanks."""
    end = next((at for at, character in enumerate(text) if character in _BLANKS), len(text))
    rest = text[end:].lstrip(_BLANKS)
    return text[:end], text[end : len(text) - len(rest)], rest


def _why_no_key(line: str) -> str:
    end = options_end(line)
    if end is None:
        return "a quote is opened and not closed"
    options, rest = line[:end], line[end:].lstrip(_BLANKS)
    if _first_word(rest) in KEY_TYPES:
        return f"the option {_shown(option_name(options))} is used, and options are not supported yet"
    # Every public key's encoding begins with the length of its type's name, so three zero bytes.
    if rest.startswith("AAAA"):
        return f"the key type {_shown(options)} is not accepted"
    return "neither a key nor options with a key"


def options_end(line: str) -> int | None:
    r"""Find where a line's options end: at the first blank outside quotes, in which \" is a quote character.

    None when a quote is left open.
    """
    quoted, at = False, 0
    while at < len(line) and (quoted or line[at] not in _BLANKS):
        if line.startswith('\\"', at):
            at += 1
        elif line[at] == '"':
            quoted = not quoted
        at += 1
    return None if quoted else at


def option_name(options: str) -> str:
    """Give the name of the first option, as written."""
    end = next((at for at, character in enumerate(options) if character in '=,"'), len(options))
    return options[:end]


def _shown(text: str) -> str:
    return ascii(text[:MAX_SHOWN])
