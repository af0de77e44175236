"""Shows OpenSSL bytes as a file, since Python's ssl loads keys from nothing else."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def readable_file(content: bytes) -> Iterator[Path]:
    """Give a path that holds `content` while the block runs: in memory on Linux, elsewhere in a private folder."""
    descriptor = _in_memory()
    if descriptor is not None:
        with open(descriptor, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
            file.flush()
            yield Path(f"/proc/self/fd/{descriptor}")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        path.write_bytes(content)
        yield path


def _in_memory() -> int | None:
    if not hasattr(os, "memfd_create") or not Path("/proc/self/fd").is_dir():
        return None
    try:
        return os.memfd_create("pem", os.MFD_CLOEXEC)
    except OSError:
        return None
