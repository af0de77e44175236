"""Runs a command's coroutine on an event loop until it ends or a signal stops it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import signal
import threading
import warnings
from collections.abc import Callable, Coroutine
from typing import Any

from wraith.errors import ExitCode, UsageError
from wraith.logs import event

STOP_TIMEOUT_S = 2.0  # ending channels and disconnecting is given this long after a signal
LOOP_VARIABLE = "WRAITH_LOOP"
_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none

logger = logging.getLogger(__name__)


class Interruption:
    """Turns the first SIGINT or SIGTERM into a cancellation, and ends the process at the second.

    SIGHUP, the terminal's end, stops too, unless the process was started to outlive it (nohup) or
    the command has another use for it.
    """

    def __init__(self, exit_code: ExitCode) -> None:
        self.exit_code = exit_code  # of a process that a signal stopped
        self.requested = False
        self._task: asyncio.Task[Any] | None = None
        self._echo = False

    def watch(self, task: asyncio.Task[Any]) -> None:
        """Cancel `task` at the first signal. Called on its loop, in the main thread."""
        self._task = task
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, self.request)
            except NotImplementedError:  # Windows: no loop of it can, and Ctrl-C is all there is
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self.request))
        if _HANGUP is not None and signal.getsignal(_HANGUP) is not signal.SIG_IGN:
            loop.add_signal_handler(_HANGUP, self._hang_up)

    def hangups(self) -> asyncio.Event:
        """Make SIGHUP set an event from here on, and do nothing else; also under nohup."""
        hangup = asyncio.Event()
        if _HANGUP is not None:
            asyncio.get_running_loop().add_signal_handler(_HANGUP, hangup.set)
        return hangup

    def request_from_terminal(self) -> None:
        """Stop, because a question was answered with Ctrl-C; the loop may hear of the same signal once more."""
        self.request()
        self._echo = True

    def _hang_up(self) -> None:
        # A shell that ends sends one, and the terminal another: that is no second wish.
        if not self.requested:
            self.request()

    def request(self) -> None:
        """Stop; called again, end at once."""
        if self._echo:
            self._echo = False
            return
        if self.requested:
            os._exit(ExitCode.FAILED)
        self.requested = True
        # A thread, because what may hang is the end of the loop itself: it waits for name lookups in threads.
        watchdog = threading.Timer(STOP_TIMEOUT_S, os._exit, (self.exit_code,))
        watchdog.daemon = True
        watchdog.start()
        if self._task is not None:
            self._task.cancel()


def run(
    work: Callable[[Interruption], Coroutine[Any, Any, ExitCode]], *, when_stopped: ExitCode = ExitCode.DONE
) -> ExitCode:
    """Run `work` on the loop that WRAITH_LOOP names, else on uvloop where it is importable.

    A signal cancels it, gives it STOP_TIMEOUT_S to end, and makes `when_stopped` the exit code.
    Raises UsageError for a WRAITH_LOOP that cannot be had, and what `work` raises by itself.
    """
    interruption = Interruption(when_stopped)
    # What a library thinks of its future is news for us, not for whoever runs the command.
    warnings.simplefilter("ignore")
    raise_descriptor_limit()
    try:
        with asyncio.Runner(loop_factory=loop_factory(os.environ.get(LOOP_VARIABLE, ""))) as runner:
            return runner.run(_supervised(work, interruption))
    except KeyboardInterrupt:  # before the handlers were in place
        return when_stopped
    except asyncio.CancelledError:  # asked to stop in the turn in which the work ended anyway
        if not interruption.requested:
            raise
        return when_stopped


async def _supervised(
    work: Callable[[Interruption], Coroutine[Any, Any, ExitCode]], interruption: Interruption
) -> ExitCode:
    task = asyncio.current_task()
    assert task is not None
    interruption.watch(task)
    asyncio.get_running_loop().set_exception_handler(_log_stray_exception)
    try:
        return await work(interruption)
    except (asyncio.CancelledError, Exception):
        # Once asked to stop, what the stopping disturbed is no failure.
        if not interruption.requested:
            raise
        logger.debug("stopped", exc_info=True)
        return interruption.exit_code


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Say how to make the event loop that `choice` names: "asyncio", "uvloop", or "" for the best there is."""
    if choice not in ("", "asyncio", "uvloop"):
        raise UsageError(f"{LOOP_VARIABLE} is {choice!r}: it can be asyncio or uvloop")
    if choice != "asyncio":
        try:
            factory: Callable[[], asyncio.AbstractEventLoop] = importlib.import_module("uvloop").new_event_loop
        except ImportError as error:
            if choice == "uvloop":
                raise UsageError(f"{LOOP_VARIABLE} asks for uvloop, which is not installed") from error
        else:
            return factory
    return asyncio.new_event_loop


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one: every channel on a server needs a descriptor."""
    try:
        import resource  # noqa: PLC0415 - Windows has none
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # macOS says "unlimited" and then refuses it
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_stray_exception(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    # The texts of asyncio and of the exception may name targets, which a server never logs: the type must do.
    error = context.get("exception")
    event(logger, logging.ERROR, "an internal task failed", exception=type(error).__name__ if error else "none")
