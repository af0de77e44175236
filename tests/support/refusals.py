"""A `wraith` command that is to end with one line: which, with what exit code, and that nothing of it is left."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.consoles import TAKES_TERMINAL
from tests.support.polling import LIMIT_S
from tests.support.processes import WRAITH, environment
from tests.support.tools import need
from wraith.errors import ExitCode

# For `consoles.terminal`: the command, as a person types it.
AT_A_TERMINAL = TAKES_TERMINAL + "    from wraith.cli import main\n    sys.exit(main(sys.argv[1:]))\n"

_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z (DEBUG|INFO|WARN|ERROR) ")
_COMPLAINT = "wraith: "


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a command said as it ended."""

    line: str  # without `wraith: `
    log: tuple[str, ...]


def refusal(
    code: int,
    *arguments: str | Path,
    folder: Path,
    limit_s: float = LIMIT_S,
    without: str = "",
    **more: str,
) -> Refusal:
    """Run a command that must end with `code` and one line; `more` are environment variables.

    A client that is to end because it cannot connect is told to; any other refusal is the end by itself.
    `without` names rights it shall not have even as root, as setpriv writes them: -dac_override,-...
    """
    prefix = (str(need("setpriv")[0]), f"--bounding-set={without}") if without and os.geteuid() == 0 else ()
    if code == ExitCode.NOT_CONNECTED and arguments[0] == "connect":
        arguments += ("--exit-on-failure",)
    # A session of its own has no terminal to ask on, and is how its children are found.
    with subprocess.Popen(
        [*prefix, *WRAITH, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder, **more),
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit_s)
        finally:
            process.kill()
    print(err)  # for pytest to show or drop
    assert process.returncode == code, f"exit code {process.returncode}: {err}"
    assert out == ""
    assert _members_of_session(process.pid) == []
    return parsed(err)


def parsed(err: str) -> Refusal:
    """Take stderr apart: log lines, and one line that complains."""
    lines = err.splitlines()
    log = [each for each in lines if _LOG_LINE.match(each)]
    others = [each for each in lines if each not in log]
    assert len(others) == 1, f"expected one line, got {others}"
    assert others[0].startswith(_COMPLAINT)
    return Refusal(others[0].removeprefix(_COMPLAINT), tuple(log))


def _members_of_session(leader: int) -> list[str]:
    """Name the processes a command has left behind."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(process.pid) == leader:
                found.append(f"{process.pid} {process.name()}")
    return found
