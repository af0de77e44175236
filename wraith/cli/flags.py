"""The flags that commands share, and which of two that exclude each other counts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from wraith.errors import UsageError
from wraith.logs import LogFormat

ENVIRONMENT = "Every flag can be given in the environment: WRAITH_ and its long name, as in WRAITH_LOG_LEVEL."


def flag(*names: str, text: str, value: str | None = None, **more: Any) -> Any:
    """Declare an option as typer.Option does, with the environment variable that every flag has.

    `value` is what help calls its value. Lists in the environment are split at white space, lists of
    paths at the platform's path separator.
    """
    variable = "WRAITH_" + max(names, key=len).strip("-").replace("-", "_").upper()
    # readable: a file that cannot be read is exit 3, said by whoever reads it, and not a usage error.
    return typer.Option(
        *names,
        envvar=variable,
        show_envvar=False,
        show_default=False,  # the text says it, in words
        metavar=value,
        help=text,
        readable=False,
        **more,
    )


class LogLevel(Enum):
    """The values of `--log-level`."""

    DEBUG = "debug"
    INFO = "info"
    WARN = "warn"
    ERROR = "error"

    @property
    def number(self) -> int:
        """The level as the logging module counts it."""
        return {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}[
            self.value
        ]


Quiet = Annotated[bool, flag("-q", text="Errors only.")]
Verbose = Annotated[int, flag("-v", text="Say more; -vv for debugging.", count=True)]


LogLevelChoice = Annotated[
    LogLevel | None,
    flag("--log-level", value="debug|info|warn|error", text="Default info for serve, warn for connect."),
]
LogFormatChoice = Annotated[LogFormat | None, flag("--log-format", value="logfmt|json", text="Default logfmt.")]


@dataclass(frozen=True, slots=True)
class Verbosity:
    """How much a command says, and in which form."""

    level: int
    quiet: bool  # no summary either
    tracebacks: bool
    log_format: LogFormat = LogFormat.LOGFMT

    @classmethod
    def chosen(
        cls,
        context: typer.Context,
        default: int,
        log_level: LogLevel | None = None,
        log_format: LogFormat | None = None,
    ) -> Verbosity:
        """Read -q and -v, each -v one level below `default`. Raises UsageError for both."""
        which = one_of(context, {"quiet": "-q", "verbose": "-v"})
        steps = int(context.params["verbose"]) if which == "verbose" else 0
        level = logging.ERROR if which == "quiet" else max(logging.DEBUG, default - 10 * steps)
        if steps >= 2:
            level = logging.DEBUG
        return cls(
            level=level if log_level is None else log_level.number,
            quiet=which == "quiet",
            tracebacks=steps >= 2,
            log_format=log_format or LogFormat.LOGFMT,
        )


def one_of(context: typer.Context, flags: Mapping[str, str]) -> str | None:
    """Tell which of the parameters that exclude each other was given, if any.

    `flags` maps parameter names to how a person writes them. One on the command line makes those in
    the environment not count. Raises UsageError for two at once.
    """
    given = [name for name in flags if context.params.get(name) and not _is_default(context, name)]
    chosen = [name for name in given if typed(context, name)] or given
    if len(chosen) > 1:
        names = " and ".join(flags[name] for name in chosen)
        raise UsageError(f"{names} exclude each other: give one of them")
    return chosen[0] if chosen else None


def typed(context: typer.Context, name: str) -> bool:
    """Whether a parameter's value comes from the command line."""
    return _source(context, name) == "COMMANDLINE"


def paths(context: typer.Context, name: str, values: Sequence[Path] | None) -> tuple[Path, ...]:
    """Give a list of paths; an environment variable may have empty places, as PATH may."""
    return tuple(value for value in values or () if typed(context, name) or value != Path())


def _is_default(context: typer.Context, name: str) -> bool:
    return _source(context, name) in ("DEFAULT", "DEFAULT_MAP")


def _source(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    return "DEFAULT" if source is None else source.name
