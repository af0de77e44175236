"""Runs `wraith`, and small programs around it, as a person at a console does: with a terminal or without."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TAKES_TERMINAL = """
    import fcntl, sys, termios
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # stdin becomes this session's terminal
"""
LIMIT_S = 20.0  # for a process to start or end on a busy machine


def environment(**more: str) -> dict[str, str]:
    """Give this process's environment without any WRAITH_ variable, and with where the packages are."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("WRAITH_")}
    roots = os.pathsep.join(str(ROOT / folder) for folder in (".", "transports", "acme"))
    return kept | {"PYTHONPATH": roots} | more


def wraith(*arguments: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run a `wraith` command to its end."""
    # A session of its own has no terminal: nothing may ask whoever runs the tests.
    how = {"capture_output": True, "env": environment(), "start_new_session": True} | how
    return subprocess.run([sys.executable, "-m", "wraith", *arguments], text=True, timeout=LIMIT_S, check=False, **how)


@contextlib.contextmanager
def started(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a Python program that prints a line when it is ready."""
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        env=env or environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def ready(process: subprocess.Popen[str]) -> None:
    """Wait for the line `ready`."""
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


class Terminal:
    """The person's side of a pseudo-terminal that a process has as its own."""

    def __init__(self, program: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program), *arguments],
            env=env or environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.shown = ""
        self._seen = 0

    def wait_for(self, text: str) -> None:
        """Read what is shown until `text` is, after what was waited for last."""
        deadline = time.monotonic() + LIMIT_S
        while (found := self.shown.find(text, self._seen)) < 0:
            assert select.select([self._master], [], [], deadline - time.monotonic())[0], self.shown
            self._read()
        self._seen = found + len(text)

    def wait_for_hidden_input(self) -> None:
        """Wait until what is typed is not shown: a question's text may come before that."""
        deadline = time.monotonic() + LIMIT_S
        while termios.tcgetattr(self._master)[3] & termios.ECHO:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def end(self) -> int:
        """Wait for the process to end, and give its exit code."""
        with contextlib.suppress(OSError):  # EIO: the last process that had the terminal is gone
            while True:
                assert select.select([self._master], [], [], LIMIT_S)[0], self.shown
                self._read()
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self) -> None:
        data = os.read(self._master, 4096)
        if not data:
            raise OSError("ended")
        self.shown += data.decode().replace("\r\n", "\n")


@contextlib.contextmanager
def terminal(program: str, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """Run a Python program on a pseudo-terminal; with TAKES_TERMINAL it has that as its own."""
    opened = Terminal(program, *arguments, env=env)
    try:
        yield opened
    finally:
        opened.close()
