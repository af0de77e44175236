"""Claims about `--proxy` on the command line: what it shows, what help says, and what is not read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from wraith.cli import connecting, main, serving
from wraith.cli.flags import Verbosity
from wraith.errors import ExitCode
from wraith.options import ConnectOptions, ServeOptions


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ServeOptions | ConnectOptions]:
    """Collect the options that commands came to; nothing of them is run."""
    options: list[ServeOptions | ConnectOptions] = []

    def keep(given: ServeOptions | ConnectOptions, *_: Verbosity) -> ExitCode:
        options.append(given)
        return ExitCode.DONE

    for name in [name for name in os.environ if name.startswith("WRAITH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))
    monkeypatch.setattr(connecting, "_run", keep)
    monkeypatch.setattr(serving, "_run", keep)
    monkeypatch.setattr(connecting, "has_terminal", lambda: False)
    return options


@pytest.mark.parametrize(
    "url", ["me:s3cr3t@p", "socks5://me:s3cr3t/x@p", "socks5://me:s3cr3t@p:x", "http://s3cr3t%z@p"]
)
def test_a_wrong_proxy_shows_no_password_not_even_with_tracebacks(
    url: str, told: list[ServeOptions | ConnectOptions], capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["connect", "h"], ["serve"]):
        assert main([*command, "-vv", "--proxy", url]) == ExitCode.USAGE
        assert "s3cr3t" not in "".join(capsys.readouterr())


def test_each_side_says_what_goes_through_its_proxy(capsys: pytest.CaptureFixture[str]) -> None:
    for command, meaning in (("connect", "Reach the server through this proxy"), ("serve", "Open targets through")):
        assert main([command, "--help"]) == 0
        assert meaning in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "https_proxy", "SOCKS_PROXY"])
def test_the_proxy_variables_of_other_programs_are_not_read(
    name: str, told: list[ServeOptions | ConnectOptions], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "socks5://127.0.0.1:1")
    for command in (["connect", "h"], ["serve"]):
        assert main(command) == 0
        assert told[-1].proxy is None
