"""curl, fetching one URL the way it is told to."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.support.processes import run_program
from tests.support.tools import need


def fetched(url: str, folder: Path, *flags: str, limit_s: float = 60) -> str:
    """Fetch the URL; the SHA-256 of what came."""
    (curl,) = need("curl")
    body = folder / "fetched"
    body.unlink(missing_ok=True)
    done = run_program(curl, "-q", "-sS", "--fail", "-o", body, *flags, url, folder=folder, limit_s=limit_s)
    assert done.code == 0, done.err
    with body.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
