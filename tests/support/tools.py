"""Finds the real programs and rights that some tests need, or skips the test by naming what is missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Debian keeps servers (sshd, nginx, nft) where an ordinary user's PATH does not look.
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def need(*names: str) -> tuple[Path, ...]:
    """Return the absolute path of each program, in the order asked; skip the test when one is missing."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    found = {name: shutil.which(name, path=path) for name in names}
    missing = [name for name, where in found.items() if where is None]
    if missing:
        pytest.skip(f"missing {', '.join(missing)}: run `make test-deps`")
    return tuple(Path(where) for where in found.values() if where is not None)


def need_root() -> None:
    """Skip the test unless it runs as root."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("needs root")
