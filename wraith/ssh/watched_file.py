"""A file of one entry a line that is read again when it has changed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from ..errors import UnusableFile
from ..logs import event
from .key_files import Guard, read_file

Entry = TypeVar("Entry")
ParseLine = Callable[[str, int, str], Entry | None]  # line, its number, the file's name; raises UnusableFile
Stamp = tuple[int, int, int, int] | None

OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)

logger = logging.getLogger(__name__)


class WatchedFile(Generic[Entry]):
    """The entries of a file. At the start a bad line is an error; later it is left out, and that is said."""

    def __init__(
        self,
        source: Path | bytes,
        kind: str,
        parse_line: ParseLine[Entry],
        limit: int,
        *,
        loss: str,
        needed: bool = True,
    ) -> None:
        """Read the file, or its content; one that is not `needed` may be missing. Raises UnusableFile.

        `kind` and `loss` are for the log: what the file is, and what is lost when it cannot be used.
        """
        self._source = source
        self._kind = kind
        self._parse_line = parse_line
        self._limit = limit
        self._loss = loss
        self._stamp = self._look()
        self.entries: tuple[Entry, ...] = ()
        self.missing = False
        self.readable = True  # at the last look
        try:
            text = self._read()
        except UnusableFile as error:
            if needed or not isinstance(error.__cause__, FileNotFoundError):
                raise
            self.missing = True
        else:
            self.entries = parse_lines(text, self._name, parse_line)

    def refresh(self, *, always: bool = False) -> bool:
        """Read the file if it has changed, or `always`; whether it was read.

        One that cannot be read has no entries: an old one may have been taken out for a reason.
        """
        stamp = self._look()
        if isinstance(self._source, bytes) or (stamp == self._stamp and not always):
            return False
        self._stamp = stamp
        self.entries, self.readable, self.missing = (), True, False
        try:
            text = self._read()
        except UnusableFile as error:
            self.missing = isinstance(error.__cause__, FileNotFoundError)
            self.readable = False
            if getattr(error.__cause__, "errno", None) in OUT_OF_RESOURCES:
                self._stamp = None  # not the file's fault: look again next time
            # The path has a field of its own: a long one would push the advice past the cut of a value.
            reason = str(error).replace(f" {self._source}", "")
            event(logger, logging.ERROR, f"{self._kind} cannot be used: {self._loss}", reason=reason, path=self._source)
            return True
        self.entries = parse_lines(text, self._name, self._parse_line, self._say)
        event(logger, logging.INFO, f"{self._kind} read again", path=self._source, entries=len(self.entries))
        return True

    @property
    def _name(self) -> str:
        return f"{self._kind} given as bytes" if isinstance(self._source, bytes) else str(self._source)

    def _read(self) -> str:
        source = self._source
        data = source if isinstance(source, bytes) else read_file(source, self._kind, Guard.WRITING, self._limit)
        # "replace": a comment in an old encoding must not lock everybody out; keys are ASCII.
        return data.decode("utf-8-sig", "replace")

    def _say(self, problem: UnusableFile) -> None:
        event(logger, logging.ERROR, f"a line of {self._kind} is left out", reason=problem)

    def _look(self) -> Stamp:
        if isinstance(self._source, bytes):
            return None
        try:
            found = self._source.stat()
        except (OSError, ValueError):  # ValueError: a null byte in the path
            return None
        # The time of change tells of a new mode too, and of a second write in the same tick of the clock.
        return found.st_ctime_ns, found.st_mtime_ns, found.st_size, found.st_ino


def parse_lines(
    text: str, name: str, parse_line: ParseLine[Entry], bad_line: Callable[[UnusableFile], None] | None = None
) -> tuple[Entry, ...]:
    """Parse a whole file. Raises UnusableFile for a bad line, unless `bad_line` takes it."""
    entries = []
    # Line feeds only: str.splitlines() would also break a comment at U+2028 and take what follows for a key.
    for number, line in enumerate(text.split("\n"), 1):
        try:
            entry = parse_line(line, number, name)
        except UnusableFile as error:
            if bad_line is None:
                raise
            bad_line(error)
        else:
            if entry is not None:
                entries.append(entry)
    return tuple(entries)
