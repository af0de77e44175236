"""The lines of authorized_keys: which keys may log in or sign certificates, and with which options."""

from __future__ import annotations

import base64
from dataclasses import dataclass

import asyncssh

from ..errors import UnusableFile
from .algorithms import KEY_TYPES, blob_fields, why_unacceptable
from .key_files import fingerprint_of
from .key_options import NO_OPTIONS, BadOption, KeyOptions, parse_key_options

MAX_FILE = 4 << 20  # bytes; some 40,000 Ed25519 keys
MAX_LINE = 16 << 10  # bytes; twice what sshd takes: an RSA key of 16384 bits takes 3 KiB
MAX_SHOWN = 64  # characters of a foreign word that a message repeats

_BLANKS = " \t"  # what separates fields, as in sshd(8); no other character does


@dataclass(frozen=True, slots=True)
class AuthorizedKey:
    """One key that may log in, or sign certificates that may."""

    public_data: bytes  # RFC 4253 6.6 encoding
    algorithm: str
    fingerprint: str
    comment: str
    where: str  # file:line
    options: KeyOptions = NO_OPTIONS


def parse_line(line: str, number: int, source: str) -> AuthorizedKey | None:
    """Parse one line without its line feed: a key, or None for a blank line or a comment.

    `source` names the file in messages. Raises UnusableFile with file:line.
    """
    where = f"{source}:{number}"
    if len(line.encode("utf-8", "surrogatepass")) > MAX_LINE:
        raise UnusableFile(f"{where}: the line is longer than {MAX_LINE >> 10} KiB")
    if "\0" in line:
        raise UnusableFile(f"{where}: not a text file in UTF-8")
    line = line.removesuffix("\r").strip(_BLANKS)
    if not line or line.startswith("#"):
        return None
    # As in sshd: a line that begins with a key type is a key; anything else begins with options.
    if _first_word(line) in KEY_TYPES:
        return _parse_key(line, where, NO_OPTIONS)
    end = options_end(line)
    if end is None:
        raise UnusableFile(f"{where}: a quote is opened and not closed")
    rest = line[end:].lstrip(_BLANKS)
    if _first_word(rest) not in KEY_TYPES:
        raise UnusableFile(f"{where}: {_why_no_key(line[:end], rest)}")
    try:
        options = parse_key_options(line[:end])
    except BadOption as error:
        raise UnusableFile(f"{where}: {error}") from error
    return _parse_key(rest, where, options)


def parse_authority_line(line: str, number: int, source: str) -> AuthorizedKey | None:
    """Parse one line of a file of authorities: a key without options. Raises UnusableFile."""
    key = parse_line(line, number, source)
    if key is not None and key.options != NO_OPTIONS:
        raise UnusableFile(f"{key.where}: options belong in authorized_keys; here stand public keys alone")
    return key


def _parse_key(line: str, where: str, options: KeyOptions) -> AuthorizedKey:
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
    return AuthorizedKey(blob, algorithm, fingerprint_of(blob), comment, where, options)


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


def _why_no_key(options: str, rest: str) -> str:
    # Every public key's encoding begins with the length of its type's name, so three zero bytes.
    if rest.startswith("AAAA"):
        return f"the key type {_shown(options)} is not accepted"
    second, _, encoded = _partition_blank(rest)
    if encoded.startswith("AAAA"):
        return f"the key type {_shown(second)} is not accepted"
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


def _shown(text: str) -> str:
    return ascii(text[:MAX_SHOWN])
