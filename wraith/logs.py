"""Writes log records as lines of `key=value` fields that no peer can forge."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

OWN_LOGGERS = ("wraith", "wraith_transports", "wraith_acme")
FOREIGN_LOGGERS = ("asyncssh", "asyncio")  # asyncssh logs targets at INFO; asyncio quotes its exceptions
MAX_VALUE = 128  # characters of a field; a fingerprint has 50, a DNS name at most 253 of which 128 tell it apart
MAX_MESSAGE = 512  # characters; ours are short sentences
MAX_TRACEBACK = 8 << 10  # characters from the end, where the cause is

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]+")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9_.]")
# Printable ASCII only, and no "=": text that a careless caller formatted into a message is no field either.
_NOT_IN_A_MESSAGE = re.compile(r"[^ -<>-~]")
_LEVEL_NAMES = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log one event. Whatever a peer chose goes into `fields`; a field that is None is left out."""
    logger.log(level, "%s", message, extra={"fields": fields}, stacklevel=2)


def format_value(value: object) -> str:
    """Give a field's value: bare when it is plain, else a JSON string in ASCII; cut at MAX_VALUE characters."""
    text = _text_of(value)[:MAX_VALUE]
    return text if _PLAIN_VALUE.fullmatch(text) else _quoted(text)


class LogfmtFormatter(logging.Formatter):
    """One line a record: time in UTC, level, message, fields.

    With `tracebacks` the exception's traceback is one more quoted field; without it only the
    exception's type is told, because its text may quote what must not be logged.
    """

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; never raises, whatever was passed as argument or field."""
        parts = [_time_of(record), _LEVEL_NAMES.get(record.levelno, record.levelname), _message_of(record)]
        fields: object = getattr(record, "fields", None)
        if isinstance(fields, Mapping):
            parts.extend(
                f"{_NOT_IN_A_KEY.sub('_', str(key)) or '_'}={format_value(value)}"
                for key, value in fields.items()
                if value is not None
            )
        if record.exc_info and record.exc_info[0] is not None:
            parts.append(f"exception={format_value(record.exc_info[0].__name__)}")
            if self._tracebacks:
                lines = traceback.format_exception(*record.exc_info)
                parts.append(f"traceback={_quoted(''.join(lines)[-MAX_TRACEBACK:])}")
        return " ".join(parts)


class LineHandler(logging.Handler):
    """Writes formatted records to a text stream that may be closed, full or absent."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self._stream = stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line. A stream that cannot take it loses the line, and nothing else."""
        if self._stream is None:
            return
        try:
            self._stream.write(self.format(record) + "\n")
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            pass


def configure(level: int, stream: TextIO | None, *, tracebacks: bool = False) -> Callable[[], None]:
    """Send our loggers' records of `level` and above to `stream`, and silence asyncssh's and asyncio's.

    For the command line alone: the library leaves logging as its caller set it up. Calling it
    again replaces what the last call did. Returns what puts everything back as it was.
    """
    handler = LineHandler(stream)
    handler.setFormatter(LogfmtFormatter(tracebacks=tracebacks))
    handlers: dict[str, logging.Handler] = dict.fromkeys(OWN_LOGGERS, handler)
    handlers |= {name: logging.NullHandler() for name in FOREIGN_LOGGERS}
    undo: list[Callable[[], None]] = []
    for name, only in handlers.items():
        logger = logging.getLogger(name)
        undo.append(_restorer(logger))
        logger.handlers = [only]
        logger.propagate = False
        logger.setLevel(level if name in OWN_LOGGERS else logging.CRITICAL + 1)

    def restore() -> None:
        for step in undo:
            step()

    return restore


def _restorer(logger: logging.Logger) -> Callable[[], None]:
    handlers, propagate, level = list(logger.handlers), logger.propagate, logger.level

    def restore() -> None:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)

    return restore


def _time_of(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message_of(record: logging.LogRecord) -> str:
    try:
        message = record.getMessage()
    except Exception:  # a bad format string costs its arguments, not the event
        message = str(record.msg)
    return _NOT_IN_A_MESSAGE.sub(_escape, message[:MAX_MESSAGE])


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    return "\\u003d" if character == "=" else _quoted(character)[1:-1]


def _text_of(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, float):
        return f"{value:.2f}"
    try:
        return str(value)
    except Exception:  # a value that cannot show itself costs itself, not the event
        return f"<{type(value).__name__}>"


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")  # DEL is ASCII, so json leaves it as it is
