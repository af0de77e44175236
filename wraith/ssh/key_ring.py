"""The keys that may log in now: the authorized_keys file as it stands, read again when it has changed."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import UnusableFile
from ..logs import event
from .authorized_keys import MAX_FILE, AuthorizedKey, AuthorizedKeys, load_authorized_keys, parse_line
from .key_files import Guard, read_file

logger = logging.getLogger(__name__)

Stamp = tuple[int, ...] | None


class KeyRing:
    """Finds keys. At the start a bad file is an error; later its bad lines are left out and said."""

    def __init__(self, source: Path | bytes) -> None:
        """Read the file; one that does not exist yet is empty. Raises UnusableFile."""
        self._source = source
        self._stamp = self._look()
        self._keys = load_authorized_keys(source)

    @property
    def missing(self) -> bool:
        """Whether there is no such file yet."""
        return self._keys.missing

    def find(self, public_data: bytes) -> AuthorizedKey | None:
        """Find a key in the file as it is now."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            self._read_again()
        return self._keys.find(public_data)

    def _look(self) -> Stamp:
        if isinstance(self._source, bytes):
            return None
        try:
            found = self._source.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino  # ctime: a chmod counts

    def _read_again(self) -> None:
        """Replace the keys. Never the old ones: they may hold one that was taken out for a reason."""
        assert isinstance(self._source, Path)
        try:
            data = read_file(self._source, "authorized_keys", Guard.WRITING, MAX_FILE)
        except UnusableFile as error:
            missing = isinstance(error.__cause__, FileNotFoundError)
            self._keys = AuthorizedKeys(str(self._source), missing=missing)
            event(logger, logging.ERROR, "authorized_keys cannot be used: nobody can log in", reason=error)
            return
        keys = []
        for number, line in enumerate(data.decode("utf-8-sig", "replace").split("\n"), 1):
            try:
                key = parse_line(line, number, str(self._source))
            except UnusableFile as error:
                event(logger, logging.ERROR, "a line of authorized_keys is left out", reason=error)
            else:
                if key is not None:
                    keys.append(key)
        self._keys = AuthorizedKeys(str(self._source), tuple(keys))
        event(logger, logging.INFO, "authorized_keys read again", keys=len(keys))
