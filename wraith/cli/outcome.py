"""How a command ends: one line that says what went wrong, and an exit code."""

from __future__ import annotations

import traceback
from collections.abc import Callable

from wraith.errors import ExitCode, UsageError, WraithError

from .terminal import complain, say


def guarded(command: str, work: Callable[[], ExitCode], *, tracebacks: bool | None = None) -> ExitCode:
    """Do a command's work; whatever it raises becomes one line on stderr and the code that goes with it.

    `tracebacks` is None for a command that has no -v to ask for them with.
    """
    try:
        return work()
    except WraithError as error:
        _show_traceback(error, tracebacks)
        complain(with_hint(str(error), command) if isinstance(error, UsageError) else str(error))
        return error.exit_code
    except BrokenPipeError:  # of stdout: whoever read it has seen enough
        return ExitCode.FAILED
    except Exception as error:  # the process's own boundary: a fault of ours ends it, in the same form
        _show_traceback(error, tracebacks)
        more = "; -vv shows where" if tracebacks is False else ""
        complain(f"an internal error, {type(error).__name__}: {error}{more}")
        return ExitCode.FAILED


def with_hint(message: str, command: str) -> str:
    """Add to the message of a usage error where to read more."""
    return f"{message.rstrip('. ')} (see `{command} --help`)"


def _show_traceback(error: Exception, tracebacks: bool | None) -> None:
    if tracebacks:
        say("".join(traceback.format_exception(error)).rstrip())
