"""`wraith demo`: its one flag."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

from wraith import logs
from wraith.errors import ExitCode

from .flags import flag
from .outcome import guarded


def demo(
    keep: Annotated[bool, flag("--keep", text="Leave the last one running, and print a curl line to try.")] = False,
) -> ExitCode:
    """Try every transport on this machine: a real server and client, 64 MiB through SOCKS5, its SHA-256 checked."""

    def work() -> ExitCode:
        from .demonstration import demonstrate  # noqa: PLC0415 - asyncssh takes 0.2 s to import
        from .running import run  # noqa: PLC0415

        logs.configure(logging.ERROR, sys.stderr)
        return run(lambda _: demonstrate(keep=keep), when_stopped=ExitCode.FAILED)

    return guarded("wraith demo", work)
