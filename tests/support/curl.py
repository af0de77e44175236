"""curl, told what to fetch and by which way."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.support.processes import Finished, run_program
from tests.support.tools import need

TRANSFER_LIMIT_S = 60.0


def curl(*arguments: str | Path, folder: Path, limit_s: float = TRANSFER_LIMIT_S) -> Finished:
    """Run curl, without this machine's settings for it and without its progress meter."""
    (program,) = need("curl")
    return run_program(program, "-q", "-sS", *arguments, folder=folder, limit_s=limit_s)


def fetched(url: str, folder: Path, *flags: str, limit_s: float = TRANSFER_LIMIT_S) -> str:
    """Fetch the URL; the SHA-256 of what came."""
    body = folder / "fetched"
    done = curl("--fail", "-o", body, *flags, url, folder=folder, limit_s=limit_s)
    assert done.code == 0, done.err
    with body.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    body.unlink()  # pytest keeps the folders of its last runs, and these files are large
    return digest
