"""The command line: the only place that writes to the terminal."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `wraith` with these arguments (default: the process's) and return its exit code.

    Nothing heavy is imported before this is called, so that Ctrl-C at any moment ends in one line.
    """
    try:
        from .app import invoke  # noqa: PLC0415 - see above

        return invoke(arguments)
    except KeyboardInterrupt:
        return 1
