"""Claims about how much a command says, and in which form."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from wraith.cli import connecting, main, serving
from wraith.cli.flags import Verbosity
from wraith.errors import ExitCode
from wraith.logs import LogFormat


class Told:
    """Stands where a command would start to run, and keeps how much it was to say."""

    verbosity: Verbosity

    def __call__(self, *told: object) -> ExitCode:
        verbosity = told[-1]
        assert isinstance(verbosity, Verbosity)
        self.verbosity = verbosity
        return ExitCode.DONE


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Told:
    for name in [name for name in os.environ if name.startswith("WRAITH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))
    stand_in = Told()
    monkeypatch.setattr(connecting, "_run", stand_in)
    monkeypatch.setattr(serving, "_run", stand_in)
    return stand_in


@pytest.mark.parametrize(
    ("arguments", "environment", "level", "quiet", "tracebacks"),
    [
        (["serve"], {}, logging.INFO, False, False),
        (["serve", "-v"], {}, logging.DEBUG, False, False),
        (["serve", "-vv"], {}, logging.DEBUG, False, True),
        (["serve", "-v", "-v"], {}, logging.DEBUG, False, True),
        (["serve", "-q"], {}, logging.ERROR, True, False),
        (["serve", "--log-level", "warn"], {}, logging.WARNING, False, False),
        (["serve", "-vv", "--log-level", "error"], {}, logging.ERROR, False, True),
        (["serve"], {"WRAITH_LOG_LEVEL": "debug"}, logging.DEBUG, False, False),
        (["connect", "h"], {}, logging.WARNING, False, False),
        (["connect", "h", "-v"], {}, logging.INFO, False, False),
        (["connect", "h", "-vv"], {}, logging.DEBUG, False, True),
        (["connect", "h", "-v", "--log-level", "error"], {}, logging.ERROR, False, False),
        (["connect", "h"], {"WRAITH_LOG_LEVEL": "info"}, logging.INFO, False, False),
        (["connect", "h", "-q"], {}, logging.ERROR, True, False),
        (["connect", "h"], {"WRAITH_V": "2"}, logging.DEBUG, False, True),
        (["connect", "h"], {"WRAITH_Q": "1"}, logging.ERROR, True, False),
        (["connect", "h", "-v"], {"WRAITH_Q": "1"}, logging.INFO, False, False),
    ],
)
def test_how_much_is_said(
    *,
    arguments: list[str],
    environment: dict[str, str],
    level: int,
    quiet: bool,
    tracebacks: bool,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 0
    assert told.verbosity == Verbosity(level, quiet, tracebacks)


@pytest.mark.parametrize("command", [["serve"], ["connect", "h"]])
@pytest.mark.parametrize(
    ("arguments", "environment", "expected"),
    [
        ([], {}, LogFormat.LOGFMT),
        (["--log-format", "json"], {}, LogFormat.JSON),
        ([], {"WRAITH_LOG_FORMAT": "json"}, LogFormat.JSON),
        (["--log-format", "logfmt"], {"WRAITH_LOG_FORMAT": "json"}, LogFormat.LOGFMT),
    ],
)
def test_the_form_of_the_log_can_be_chosen(
    *,
    command: list[str],
    arguments: list[str],
    environment: dict[str, str],
    expected: LogFormat,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main([*command, *arguments]) == 0
    assert told.verbosity.log_format is expected
