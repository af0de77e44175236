"""What the command line says to a person, and asks them."""

from __future__ import annotations

import contextlib
import getpass
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from wraith.errors import WraithError

TERMINAL = "/dev/tty"  # as ssh: a question reaches the person even when stdin and stderr are redirected
NEW_PASSPHRASE_TRIES = 3
MAX_ANSWER = 4096  # bytes: what a terminal holds of one line


def say(text: str) -> None:
    """Write a line to stderr. A stderr that is closed or full loses it, and nothing else."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError, ValueError):
            print(text, file=sys.stderr, flush=True)


def complain(message: str) -> None:
    """Say what went wrong, as one line whatever a peer or a file name put into it."""
    say("wraith: " + one_line(message))


def one_line(text: str) -> str:
    """Escape what would start another line or move the cursor."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text.strip())


def show(text: str) -> None:
    """Write a result to stdout. Raises WraithError when it cannot be written, BrokenPipeError when nobody reads on."""
    if sys.stdout is None:
        raise WraithError("the result could not be written: standard output is closed")
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise WraithError(f"the result could not be written to standard output: {error.strerror}") from error


def keep_standard_descriptors_open() -> None:
    """Put /dev/null where descriptor 0, 1 or 2 is closed.

    The next socket would else get that number, and whatever a library writes to stderr with it.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


def let_go_of_broken_streams() -> None:
    """Point a standard stream that cannot be flushed at /dev/null.

    The interpreter flushes both once more when it ends, and turns a failure into exit code 120.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is None or stream.closed:
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, stream.fileno())
                os.close(null)


def has_terminal() -> bool:
    """Whether there is a terminal to ask on."""
    try:
        os.close(_open_terminal())
    except OSError:
        return False
    return True


class Questions:
    """Asks on the terminal; `interrupted` is called when the person answers with Ctrl-C.

    Reading a terminal blocks, the event loop too. That is meant: what is asked decides whether
    there will be a session at all, and until then nothing else runs on the loop.
    """

    def __init__(self, interrupted: Callable[[], None]) -> None:
        self._interrupted = interrupted

    def passphrase(self, key: str) -> str | None:
        """Ask for the passphrase of the key of this name; None without a terminal or an answer."""
        return self._hidden(f"Passphrase for {one_line(key)}: ")

    def new_passphrase(self) -> str | None:
        """Ask twice for the passphrase of a key that is being made; None when nobody answers."""
        for _ in range(NEW_PASSPHRASE_TRIES):
            chosen = self._hidden("Passphrase for the new key (empty for none): ")
            if not chosen or chosen == self._hidden("The same once more: "):
                return chosen
            say("These differ.")
        return None

    def trusts_host_key(self, host: str, fingerprint: str) -> bool:
        """Ask whether an unknown host's key is the right one: yes, no, or the fingerprint itself."""
        question = (
            f"{one_line(host)} is not known here. Its host key is\n    {one_line(fingerprint)}\n"
            "Is that the key its operator told you? (yes, no, or the fingerprint): "
        )
        answer = (self._asked(lambda: _answer(question)) or "").strip()
        return answer.lower() == "yes" or answer == fingerprint

    def _hidden(self, prompt: str) -> str | None:
        return self._asked(lambda: getpass.getpass(prompt)) if has_terminal() else None

    def _asked(self, question: Callable[[], str | None]) -> str | None:
        try:
            with _signals_as_interrupts():
                return question()
        except KeyboardInterrupt:
            say("")  # leaves the line of the question
            self._interrupted()
        except (EOFError, OSError):
            say("")
        return None


def _answer(question: str) -> str:
    descriptor = _open_terminal()
    try:
        os.write(descriptor, question.encode())
        return os.read(descriptor, MAX_ANSWER).decode(errors="replace")  # a terminal gives one whole line
    finally:
        os.close(descriptor)


def _open_terminal() -> int:
    return os.open(TERMINAL, os.O_RDWR | getattr(os, "O_NOCTTY", 0))


@contextlib.contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """While a terminal is read, let SIGINT and SIGTERM raise: the event loop's own handlers only set a flag."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
