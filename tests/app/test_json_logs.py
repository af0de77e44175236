"""Claims about the JSON log: the same fields as in the other format, one object a line, nothing forged."""

from __future__ import annotations

import io
import json
import logging
from enum import IntEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.logs import MAX_MESSAGE, MAX_VALUE, JsonFormatter, LogfmtFormatter, LogFormat, configure, event

anything = st.one_of(
    st.text(),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(['a", "result": "accept', "a\nb", "\r", "\x00", "\x7f", "\x85", "\u2028", "\ud800", "x" * 500]),
)


def record_of(message: object, *args: object, fields: object = None) -> logging.LogRecord:
    record = logging.LogRecord("wraith", logging.INFO, __file__, 1, message, args or None, None)
    record.created = 1780386282.1234
    record.fields = fields
    return record


def line_of(message: object, *args: object, fields: object = None) -> str:
    return JsonFormatter().format(record_of(message, *args, fields=fields))


def pairs_of(line: str) -> list[tuple[str, Any]]:
    """Parse a line as strictly as JSON can be, keeping names that come twice."""

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    parsed = json.loads(line, object_pairs_hook=list, parse_constant=no_constant)
    assert isinstance(parsed, list)
    return parsed


def test_an_event_is_one_object_with_time_level_message_and_fields() -> None:
    fields = {"remote_addr": "203.0.113.50", "remote_port": 51022, "user": "al ice", "duration": "0.88", "no": None}
    assert line_of("connection opened", fields=fields) == (
        '{"time": "2026-06-02T07:44:42.123Z", "level": "INFO", "message": "connection opened", '
        '"remote_addr": "203.0.113.50", "remote_port": 51022, "user": "al ice", "duration": "0.88"}'
    )


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("ü", '"\\u00fc"'),
        ("\x7f", '"\\u007f"'),
        ("a\nb", '"a\\nb"'),
        ("\U0001f600", '"\\ud83d\\ude00"'),
        ("\udc80", '"\\ufffd"'),  # a lone surrogate would make the line unreadable to strict readers
        (True, "true"),
        (7, "7"),
        (2**53, '"9007199254740992"'),  # what keeps numbers as floats would round it
        (1.0, '"1.00"'),
        (float("nan"), '"nan"'),
        (Number.ONE, '"1"'),
        (Path("/etc/key"), '"/etc/key"'),
    ],
)
def test_a_value_is_a_string_in_ascii_or_a_number_that_every_reader_keeps(value: object, shown: str) -> None:
    assert line_of("m", fields={"f": value}).endswith(f'"f": {shown}}}')


@given(st.dictionaries(st.text(), anything, max_size=4), anything)
def test_a_line_is_one_ascii_line_with_exactly_the_fields_there_are(fields: dict[str, object], message: object) -> None:
    line = line_of(message, fields=fields)
    assert line.isascii()
    assert line.isprintable()
    pairs = pairs_of(line)
    names = [name for name, _ in pairs]
    assert names[:3] == ["time", "level", "message"]
    assert len(names) == len(set(names)) == 3 + len(fields)
    assert pairs[0][1] == "2026-06-02T07:44:42.123Z"
    assert pairs[1][1] == "INFO"
    assert len(pairs[2][1]) <= MAX_MESSAGE
    for _, value in pairs[3:]:
        assert type(value) in (str, int, bool)
        assert len(str(value)) <= MAX_VALUE


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), anything, max_size=4))
def test_both_formats_tell_the_same(fields: dict[str, object]) -> None:
    names = {"time", "level", "message"}
    told = dict(pairs_of(line_of("m", fields=fields)))
    line = LogfmtFormatter().format(record_of("m", fields=fields))
    for name in fields:
        assert f" {name}=" in line
        assert name in told
    assert len(told) == len(fields) + len(names)


def test_a_field_cannot_stand_for_the_time_level_or_message() -> None:
    told = dict(pairs_of(line_of("m", fields={"message": "a", "level": "b", "message_": "c", "time": "d"})))
    assert (told["message"], told["level"]) == ("m", "INFO")
    assert {told[name] for name in ("message_", "message__", "level_", "time_")} == {"a", "b", "c", "d"}


@pytest.mark.parametrize("tracebacks", [False, True])
def test_an_exception_is_told_by_its_type_and_in_full_only_where_asked_for(tracebacks: bool) -> None:
    stream = io.StringIO()
    restore = configure(logging.INFO, stream, log_format=LogFormat.JSON, tracebacks=tracebacks)
    try:
        raise RuntimeError("secret")
    except RuntimeError:
        logging.getLogger("wraith.x").exception("a channel failed")
    restore()
    (line,) = stream.getvalue().splitlines()
    told = dict(pairs_of(line))
    assert told["exception"] == "RuntimeError"
    assert ("secret" in line) is tracebacks


class Unshowable:
    def __str__(self) -> str:
        raise ValueError("no")


def test_what_cannot_be_formatted_costs_itself_and_not_the_event() -> None:
    told = dict(pairs_of(line_of("%d of", "x", fields={"f": Unshowable(), "g": 1})))
    assert told["message"] == "%d of"
    assert told["f"] == "<Unshowable>"
    assert told["g"] == 1


def test_an_event_of_the_library_comes_out_as_json() -> None:
    stream = io.StringIO()
    restore = configure(logging.INFO, stream, log_format=LogFormat.JSON)
    event(logging.getLogger("wraith_transports.tcp"), logging.WARNING, "loud", n=1)
    restore()
    told = dict(pairs_of(stream.getvalue()))
    assert (told["level"], told["message"], told["n"]) == ("WARN", "loud", 1)
