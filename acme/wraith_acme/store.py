"""A private folder of small files, each replaced whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

from .errors import CertificateError
from .files import explain, read_file

logger = logging.getLogger(__name__)


class Store:
    """Files that only their owner can read, in a folder only its owner can enter."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Say where the file of that name is, whether or not it exists."""
        return self._folder / name

    def read(self, name: str, *, private: bool = False) -> bytes | None:
        """Return the content, or None when there is no such file.

        Raises CertificateError, also for a `private` file that others can read.
        """
        path = self.path(name)
        return read_file(path, origin=str(path), private=private) if path.exists() else None

    def write(self, name: str, content: bytes) -> None:
        """Replace the content atomically, also across a crash. Raises CertificateError."""
        target = self.path(name)
        temporary = target.with_name(f".{name}.{secrets.token_hex(8)}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
        except OSError as error:
            raise _failed("write", target, error) from error

    def set_aside(self, name: str, why: str) -> Path:
        """Rename a file that cannot be used, so that a new one can be made, and say so. Raises CertificateError."""
        old = self.path(name)
        new = old.with_name(f"{name}.unusable")
        try:
            old.replace(new)
        except OSError as error:
            raise _failed("rename", old, error) from error
        logger.warning("%s; it is kept as %s", why, new)
        return new


def _failed(action: str, path: Path, error: OSError) -> CertificateError:
    return CertificateError(f"cannot {action} {path}: {explain(error)}")
