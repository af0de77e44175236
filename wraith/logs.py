"""Writes log records as lines of fields, `key=value` or JSON, that no peer can forge."""

from __future__ import annotations

import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from typing import TextIO

OWN_LOGGERS = ("wraith", "wraith_transports", "wraith_acme")
FOREIGN_LOGGERS = ("asyncssh", "asyncio")  # asyncssh logs targets at INFO; asyncio quotes its exceptions
MAX_VALUE = 128  # characters of a field; a fingerprint has 50, a DNS name at most 253 of which 128 tell it apart
MAX_MESSAGE = 512  # characters; ours are short sentences
MAX_TRACEBACK = 8 << 10  # characters from the end, where the cause is
MAX_INTEGER = 2**53  # larger ones are strings in JSON: most readers keep numbers as floats

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9._:/@+-]+")
_NOT_IN_A_KEY = re.compile(r"[^A-Za-z0-9_.]")
# Printable ASCII only, and no "=": text that a careless caller formatted into a message is no field either.
_NOT_IN_A_MESSAGE = re.compile(r"[^ -<>-~]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_LEVEL_NAMES = {logging.WARNING: "WARN", logging.CRITICAL: "ERROR"}


def event(logger: logging.Logger, level: int, message: str, /, **fields: object) -> None:
    """Log one event. Whatever a peer chose goes into `fields`; a field that is None is left out."""
    logger.log(level, "%s", message, extra={"fields": fields}, stacklevel=2)


def format_value(value: object) -> str:
    """Give a field's value: bare when it is plain, else a JSON string in ASCII; cut at MAX_VALUE characters."""
    text = _text_of(value)[:MAX_VALUE]
    return text if _PLAIN_VALUE.fullmatch(text) else _quoted(text)


class LogFormat(Enum):
    """How a line of the log is written. The fields are the same in both."""

    LOGFMT = "logfmt"
    JSON = "json"


class LogfmtFormatter(logging.Formatter):
    """One line a record: time in UTC, level, message, then the fields as `key=value`.

    With `tracebacks` the exception's traceback is one more quoted field; without it only the
    exception's type is told, because its text may quote what must not be logged.
    """

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; never raises, whatever was passed as argument or field."""
        parts = [_time_of(record), _level_of(record), _message_of(record)]
        parts.extend(f"{key}={format_value(value)}" for key, value in _fields_of(record))
        if self._tracebacks and (told := _traceback_of(record)):
            parts.append(f"traceback={_quoted(told)}")
        return " ".join(parts)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII, with the fields of LogfmtFormatter after time, level and message."""

    def __init__(self, *, tracebacks: bool = False) -> None:
        super().__init__()
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format the record; never raises, whatever was passed as argument or field."""
        told: dict[str, str | int] = {
            "time": _time_of(record),
            "level": _level_of(record),
            "message": _strict(_raw_message_of(record)[:MAX_MESSAGE]),
        }
        if self._tracebacks and (text := _traceback_of(record)):
            told["traceback"] = _strict(text)
        for key, value in _fields_of(record):
            name = key
            while name in told:  # a second `message` would replace the first for whoever reads the line
                name += "_"
            told[name] = _json_value(value)
        return _quoted(told)


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


_FORMATTERS: Mapping[LogFormat, Callable[..., logging.Formatter]] = {
    LogFormat.LOGFMT: LogfmtFormatter,
    LogFormat.JSON: JsonFormatter,
}


def configure(
    level: int, stream: TextIO | None, *, log_format: LogFormat = LogFormat.LOGFMT, tracebacks: bool = False
) -> Callable[[], None]:
    """Send our loggers' records of `level` and above to `stream`, and silence asyncssh's and asyncio's.

    For the command line alone: the library leaves logging as its caller set it up. Calling it
    again replaces what the last call did. Returns what puts everything back as it was.
    """
    handler = LineHandler(stream)
    handler.setFormatter(_FORMATTERS[log_format](tracebacks=tracebacks))
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


def _level_of(record: logging.LogRecord) -> str:
    return _LEVEL_NAMES.get(record.levelno, record.levelname)


def _raw_message_of(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # a bad format string costs its arguments, not the event
        return str(record.msg)


def _message_of(record: logging.LogRecord) -> str:
    return _NOT_IN_A_MESSAGE.sub(_escape, _raw_message_of(record)[:MAX_MESSAGE])


def _fields_of(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    """Give the fields there are; of an exception its type alone."""
    fields: object = getattr(record, "fields", None)
    if isinstance(fields, Mapping):
        for key, value in fields.items():
            if value is not None:
                yield _NOT_IN_A_KEY.sub("_", str(key)) or "_", value
    if record.exc_info and record.exc_info[0] is not None:
        yield "exception", record.exc_info[0].__name__


def _traceback_of(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return "".join(traceback.format_exception(*record.exc_info))[-MAX_TRACEBACK:]


def _json_value(value: object) -> str | int:
    if isinstance(value, bool) or (type(value) is int and abs(value) < MAX_INTEGER):
        return value
    return _strict(_text_of(value)[:MAX_VALUE])


def _strict(text: str) -> str:
    """Replace halves of surrogate pairs: file names have them, and some readers refuse the whole line for one."""
    return _SURROGATE.sub("\ufffd", text)


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


def _quoted(value: str | Mapping[str, str | int]) -> str:
    return json.dumps(value).replace("\x7f", "\\u007f")  # DEL is ASCII, so json leaves it as it is
