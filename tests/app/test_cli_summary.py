"""Claims about the lines a command starts with."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from wraith.cli import main
from wraith.cli.summary import ConnectSummary, ServeSummary

SERVES = ServeSummary(
    addresses=["tcp://[::]:22"],
    host_key="SHA256:abc",
    host_key_is_new=False,
    tls_pin=None,
    authorized_keys=Path("/etc/wraith/authorized_keys"),
    nobody_may_log_in=False,
)


def test_serve_says_where_it_listens_and_by_which_key_it_is_known() -> None:
    text = SERVES.text()
    assert "tcp://[::]:22" in text
    assert "SHA256:abc" in text
    assert "/etc/wraith/authorized_keys" in text
    assert "(new)" not in text
    assert "(new)" in replace(SERVES, host_key_is_new=True).text()


def test_a_proxy_is_named_with_what_goes_through_it() -> None:
    assert "targets through  http://p:3128" in replace(SERVES, proxy="http://p:3128").text()
    connected = ConnectSummary("tcp://h:22", [], [], proxy="socks5h://p:1080").text()
    assert re.search(r"through +socks5h://p:1080", connected)
    assert "through" not in SERVES.text() + ConnectSummary("tcp://h:22", [], []).text()


def test_serve_says_who_may_log_in_only_when_nobody_may() -> None:
    assert "wraith keygen" not in SERVES.text()
    nobody = replace(SERVES, nobody_may_log_in=True).text()
    assert "wraith keygen" in nobody
    assert "picked up when it appears" in nobody
    assert "keygen" not in replace(SERVES, nobody_may_log_in=True, authorized_keys=None).text()


@pytest.mark.parametrize(
    ("addresses", "pin", "commands"),
    [
        (["tcp://[::]:22"], None, ["wraith connect HOST --host-key SHA256:abc"]),
        (["tcp://0.0.0.0:22", "tcp://[::]:22"], None, ["wraith connect HOST --host-key SHA256:abc"]),
        (["tcp://[::1]:2222"], None, ["wraith connect HOST:2222 --host-key SHA256:abc"]),
        (["tls://[::]:443"], None, ["wraith connect tls://HOST --host-key SHA256:abc"]),
        (
            ["tcp://[::]:22", "tls://[::]:8443"],
            "sha256//x=",
            [
                "wraith connect HOST --host-key SHA256:abc",
                "wraith connect tls://HOST:8443 --tls-pin sha256//x= --host-key SHA256:abc",
            ],
        ),
    ],
)
def test_serve_says_what_to_type_on_the_client(addresses: list[str], pin: str | None, commands: list[str]) -> None:
    assert replace(SERVES, addresses=addresses, tls_pin=pin).client_commands() == commands


def test_connect_says_what_listens_and_what_to_try() -> None:
    text = ConnectSummary("tls://h:443", ["127.0.0.1:1080"], [("127.0.0.1:5432", "db:5432")]).text()
    assert "tls://h:443" in text
    assert "curl --proxy socks5h://127.0.0.1:1080" in text
    assert "127.0.0.1:5432 to db:5432" in text
    assert "curl" not in ConnectSummary("tcp://h:22", ["/run/socks"], []).text()


def test_no_name_makes_a_line_of_its_own() -> None:
    odd = Path("/a\n\x1b[2J/keys")
    lines = replace(SERVES, authorized_keys=odd, nobody_may_log_in=True).text().split("\n")
    assert len(lines) == len(replace(SERVES, nobody_may_log_in=True).text().split("\n"))
    assert all(line.isprintable() for line in lines)


def test_no_command_is_called_that_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    texts = (replace(SERVES, nobody_may_log_in=True).text(), ConnectSummary("tcp://h:22", [], []).text())
    for words in [line.split() for text in texts for line in text.split("\n") if line.startswith("    wraith ")]:
        assert main([words[1], "--help"]) == 0
        help_text = capsys.readouterr().out
        assert all(word in help_text for word in words if word.startswith("--"))
