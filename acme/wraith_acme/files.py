"""Reads the small files that certificates and keys are in."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .errors import CertificateError

MAX_FILE = 1 << 20  # a chain is a few KiB; anything of this size is another file


def read_file(path: Path, *, origin: str, private: bool = False) -> bytes:
    """Return the whole content of a regular file; `private` refuses one that others can read or change.

    `origin` names it in errors. Raises CertificateError.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise CertificateError(f"{origin} is not a file")
            # The group may read: Debian's ssl-cert group is how daemons get at keys.
            if private and os.name == "posix" and mode & (stat.S_IRWXO | stat.S_IWGRP):
                raise CertificateError(
                    f"{origin}: others can read or change it (mode {stat.S_IMODE(mode):04o}); chmod 600 {path}"
                )
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise CertificateError(f"{origin}: {explain(error)}") from error
    if len(content) > MAX_FILE:
        raise CertificateError(f"{origin} is too large for a certificate or key")
    return content


def explain(error: OSError) -> str:
    """Say what the system said, without the file name it repeats."""
    return (error.strerror or str(error)).lower()
