"""What `wraith` makes of the flags about forwards, and of those that limit them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wraith.cli import connecting, main, serving
from wraith.errors import ExitCode
from wraith.options import ConnectOptions, ServeOptions
from wraith.specs import (
    ALL_ADDRESSES,
    LOCALHOST,
    AddressPattern,
    LocalForwardSpec,
    PermitListen,
    PermitOpen,
    RemoteForwardSpec,
    SocksSpec,
    TcpBind,
    TcpTarget,
    UnixBind,
    UnixTarget,
)


class Captured:
    """Stands where a command would start to run, and keeps what it was told."""

    def __init__(self) -> None:
        self.options: Any = None
        self.target: Any = None

    def __call__(self, options: ServeOptions | ConnectOptions, *rest: object) -> ExitCode:
        self.options = options
        self.target = rest[0] if len(rest) > 1 else None
        return ExitCode.DONE


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WRAITH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Captured:
    captured = Captured()
    monkeypatch.setattr(connecting, "_run", captured)
    monkeypatch.setattr(serving, "_run", captured)
    monkeypatch.setattr(connecting, "has_terminal", lambda: False)
    return captured


LOCAL = (
    LocalForwardSpec(TcpBind(LOCALHOST, 1), TcpTarget("a", 2)),
    LocalForwardSpec(UnixBind("/b"), UnixTarget("/c")),
)
REMOTE = (
    RemoteForwardSpec(TcpBind(ALL_ADDRESSES, 1), TcpTarget("a", 2)),
    RemoteForwardSpec(TcpBind(LOCALHOST, 0), None),
)


@pytest.mark.parametrize(
    ("arguments", "environment", "get", "expected"),
    [
        (
            ["connect", "h", "-L", "1:a:2", "--forward", "/b:/c"],
            {"WRAITH_FORWARD": "1:a:2\n/b:/c"},
            lambda o: (o.socks, o.forwards),
            ((), LOCAL),
        ),
        (
            ["connect", "h", "-R", "*:1:a:2", "--remote-forward", "0"],
            {"WRAITH_REMOTE_FORWARD": "*:1:a:2 0"},
            lambda o: (o.socks, o.remote_forwards),
            ((), REMOTE),
        ),
        (
            ["serve", "--permit-open", "a:1", "--permit-open", "*:2", "--permit-open", "/c"],
            {"WRAITH_PERMIT_OPEN": "a:1 *:2 /c"},
            lambda o: o.permit_open,
            PermitOpen((AddressPattern("a", 1), AddressPattern(None, 2)), frozenset({"/c"})),
        ),
        (
            ["serve", "--permit-listen", "1", "--permit-listen", "h:*", "--permit-listen", "/c"],
            {"WRAITH_PERMIT_LISTEN": "1 h:* /c"},
            lambda o: o.permit_listen,
            PermitListen((AddressPattern(None, 1), AddressPattern("h", None)), frozenset({"/c"})),
        ),
        (["serve", "--gateway-ports"], {"WRAITH_GATEWAY_PORTS": "1"}, lambda o: o.gateway_ports, True),
        (["serve", "--deny-private"], {"WRAITH_DENY_PRIVATE": "yes"}, lambda o: o.deny_private, True),
    ],
    ids=["forward", "remote-forward", "permit-open", "permit-listen", "gateway-ports", "deny-private"],
)
def test_each_flag_is_taken_from_the_command_line_or_the_environment(
    *,
    arguments: list[str],
    environment: dict[str, str],
    get: Callable[[Any], object],
    expected: object,
    told: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert main(arguments) == 0
    assert get(told.options) == expected
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(arguments[: 2 if arguments[0] == "connect" else 1]) == 0
    assert get(told.options) == expected


def test_stdio_is_taken_from_the_command_line_or_the_environment(
    told: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for flag in ("-W", "--stdio"):
        assert main(["connect", "h", flag, "[::1]:22"]) == 0
        assert (told.target, told.options.socks) == (TcpTarget("::1", 22), ())
    monkeypatch.setenv("WRAITH_STDIO", "t:1")
    assert main(["connect", "h"]) == 0
    assert told.target == TcpTarget("t", 1)


@pytest.mark.parametrize("flags", [["-L", "1:a:2"], ["-R", "1:a:2"], ["-R", "1"], ["-W", "a:1"], ["--no-socks5"]])
def test_the_socks_port_is_there_only_when_nothing_else_is_asked_for(flags: list[str], told: Captured) -> None:
    assert main(["connect", "h"]) == 0
    assert told.options.socks == (SocksSpec(),)
    assert main(["connect", "h", *flags]) == 0
    assert told.options.socks == ()


def test_a_socks_port_stands_beside_forwards_when_asked_for(told: Captured) -> None:
    assert main(["connect", "h", "-D", "1", "-L", "1:a:2", "-R", "3"]) == 0
    assert (len(told.options.socks), len(told.options.forwards), len(told.options.remote_forwards)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["connect", "h", "-L", "1:2"], "-L 1:2"),
        (["connect", "h", "-R", "x"], "-R x"),
        (["connect", "h", "-R", "/a"], "-R /a: the target is missing"),
        (["connect", "h", "-W", "a"], "-W a: the port is missing"),
        (["connect", "h", "-W", "/a"], "-W /a"),
        (["connect", "h", "-W", "a:1", "-D", "1"], "leave out -D"),
        (["connect", "h", "-W", "a:1", "-L", "1:a:1"], "leave out -L"),
        (["connect", "h", "-W", "a:1", "-R", "1"], "leave out -R"),
        (["serve", "--permit-open", "h"], "--permit-open h"),
        (["serve", "--permit-open", "/"], "--permit-open /"),
        (["serve", "--permit-listen", "h:x"], "--permit-listen h:x"),
        (["serve", "--permit-listen", "./a"], "--permit-listen"),
        (["serve", "--deny-private", "--proxy", "socks5://p"], "--deny-private"),
    ],
)
def test_a_wrong_forward_is_one_line_with_a_hint_and_exit_code_2(
    arguments: list[str], says: str, told: Captured, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert told.options is None


def test_a_forward_in_the_environment_does_not_stand_in_the_way_of_stdio(
    told: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SOCKS5": "1", "FORWARD": "1:a:2", "REMOTE_FORWARD": "3"}.items():
        monkeypatch.setenv(f"WRAITH_{name}", value)
    assert main(["connect", "h", "-W", "t:1"]) == 0
    assert told.target == TcpTarget("t", 1)
