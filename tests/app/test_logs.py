"""Claims about log lines: one line an event, and no input can forge one."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wraith.logs import MAX_VALUE, LineHandler, LogfmtFormatter, configure, event, format_value

LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (?:DEBUG|INFO|WARN|ERROR) (?P<message>[ -<>-~]*?)"
    r'(?P<fields>(?: [A-Za-z0-9_.]+=(?:[A-Za-z0-9._:/@+-]+|"(?:[^"\\]|\\["\\/bfnrtu])*"))*)'
)
FIELD = re.compile(r' ([A-Za-z0-9_.]+)=([A-Za-z0-9._:/@+-]+|"(?:[^"\\]|\\.)*")')
anything = st.one_of(
    st.text(),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.sampled_from(['a" result="accept', "a\nb", "\r", "\x00", "\x7f", "\x85", "\u2028", "\ud800", "a=b", "x" * 500]),
)


@pytest.fixture
def logged() -> Iterator[tuple[io.StringIO, Callable[[], str]]]:
    stream = io.StringIO()
    restore = configure(logging.DEBUG, stream)
    yield stream, stream.getvalue
    restore()


def line_of(message: object, *args: object, fields: object = None) -> str:
    record = logging.LogRecord("wraith", logging.INFO, __file__, 1, message, args or None, None)
    record.fields = fields
    return LogfmtFormatter().format(record)


def test_an_event_is_time_level_message_and_fields() -> None:
    record = logging.LogRecord("wraith", logging.INFO, __file__, 1, "connection opened", None, None)
    record.created = 1780386282.1234
    record.fields = {"remote_addr": "203.0.113.50", "remote_port": 51022, "user": "al ice", "duration": 0.876}
    assert LogfmtFormatter().format(record) == (
        "2026-06-02T07:44:42.123Z INFO connection opened "
        'remote_addr=203.0.113.50 remote_port=51022 user="al ice" duration=0.88'
    )


class Colour(Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("SHA256:abc+/def", "SHA256:abc+/def"),
        ("", '""'),
        ("sha256//abc=", '"sha256//abc="'),
        ("ü", '"\\u00fc"'),
        ("\x7f", '"\\u007f"'),
        ("a\nb", '"a\\nb"'),
        ('"', '"\\""'),
        (True, "true"),
        (1.0, "1.00"),
        (Colour.RED, "red"),
        (Path("/etc/key"), "/etc/key"),
    ],
)
def test_a_value_is_bare_or_a_json_string(value: object, shown: str) -> None:
    assert format_value(value) == shown


def test_a_long_value_is_cut() -> None:
    assert format_value("x" * 1000) == "x" * MAX_VALUE
    assert len(json.loads(format_value(" " * 1000))) == MAX_VALUE


def test_a_value_that_cannot_show_itself_costs_only_itself() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError

    assert line_of("m", fields={"a": Broken(), "b": 1}).endswith(' m a="<Broken>" b=1')


def test_a_field_that_is_none_is_left_out() -> None:
    assert line_of("m", fields={"a": None, "b": 1}).endswith(" m b=1")


def test_a_message_cannot_carry_fields() -> None:
    assert line_of("user %s", "x result=accept").endswith(" user x result\\u003daccept")


def test_arguments_that_do_not_fit_the_message_cost_only_themselves() -> None:
    assert line_of("a %d", "b").endswith(" a %d")


@given(anything, st.dictionaries(st.text(), anything, max_size=4))
def test_no_input_makes_a_second_line_or_an_unescaped_field(message: object, fields: dict[str, object]) -> None:
    line = line_of("%s", message, fields=fields)
    assert line.isascii()
    assert line.isprintable()
    match = LINE.fullmatch(line)
    assert match is not None
    found = FIELD.findall(match["fields"])
    assert len(found) == len(fields)
    for (_, shown), value in zip(found, fields.values(), strict=True):
        assert shown == format_value(value)


@given(anything)
def test_a_value_reads_back(value: object) -> None:
    shown = format_value(value)
    text = json.loads(shown) if shown.startswith('"') else shown
    if isinstance(value, str):
        assert text == value[:MAX_VALUE]


def test_an_exception_is_one_line_without_its_text_unless_tracebacks_are_wanted() -> None:
    stream = io.StringIO()
    for tracebacks in (False, True):
        restore = configure(logging.DEBUG, stream, tracebacks=tracebacks)
        try:
            raise RuntimeError("secret")
        except RuntimeError:
            logging.getLogger("wraith.x").exception("a channel failed")
        restore()
    quiet, loud = stream.getvalue().splitlines()
    assert quiet.endswith("ERROR a channel failed exception=RuntimeError")
    assert "traceback=" in loud
    assert "secret" in loud


def test_events_below_the_level_are_not_written() -> None:
    stream = io.StringIO()
    restore = configure(logging.WARNING, stream)
    event(logging.getLogger("wraith_transports.tcp"), logging.INFO, "quiet")
    event(logging.getLogger("wraith_transports.tcp"), logging.WARNING, "loud", n=1)
    restore()
    assert stream.getvalue().endswith("WARN loud n=1\n")
    assert stream.getvalue().count("\n") == 1


def test_a_field_may_have_any_name(logged: tuple[io.StringIO, Callable[[], str]]) -> None:
    event(logging.getLogger("wraith"), logging.INFO, "m", message="a", level="b", logger="c")
    assert logged[1]().endswith("INFO m message=a level=b logger=c\n")


@pytest.mark.parametrize("name", ["asyncssh", "asyncssh.sftp", "asyncio"])
def test_foreign_loggers_never_reach_our_handlers_nor_anyone(
    name: str, logged: tuple[io.StringIO, Callable[[], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger(name).critical("target example.com")
    assert logged[1]() == ""
    assert capsys.readouterr().err == ""


def test_configuring_twice_writes_each_event_once(logged: tuple[io.StringIO, Callable[[], str]]) -> None:
    again = configure(logging.INFO, logged[0])
    event(logging.getLogger("wraith"), logging.INFO, "once")
    again()
    assert logged[1]().count("once") == 1


def test_restoring_leaves_the_loggers_as_they_were() -> None:
    logger = logging.getLogger("wraith")
    before = (list(logger.handlers), logger.propagate, logger.level)
    configure(logging.DEBUG, io.StringIO())()
    assert (list(logger.handlers), logger.propagate, logger.level) == before


class FullStream(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_closed_full_or_absent_stream_loses_the_line_and_nothing_else() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (closed, FullStream(), None):
        handler = LineHandler(stream)
        handler.emit(logging.LogRecord("wraith", logging.INFO, __file__, 1, "m", None, None))
