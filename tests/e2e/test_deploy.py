"""Claims about deploy/: systemd accepts the units and finds little exposed; fail2ban sees refusals and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncssh
import pytest

from tests.support.openssh import SshAgent
from tests.support.polling import LIMIT_S, eventually
from tests.support.processes import ROOT, WraithServer, environment, make_key, run_program, wraith
from tests.support.tools import need
from wraith.errors import ExitCode

DEPLOY = ROOT / "deploy"
UNITS = ("wraith-serve@", "wraith-connect@")
HARDENING = "NoNewPrivileges="  # where the part begins that both have in common
MAX_EXPOSURE = 2.0  # of 10; what is left is the network, which is what wraith is for


# systemd


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system with the units installed, an instance of each, and the programs they name."""
    need("systemd-analyze")
    root = tmp_path_factory.mktemp("root")
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    for name in UNITS:
        shutil.copy(DEPLOY / "systemd" / f"{name}.service", units / f"{name}main.service")
    for program in ("usr/local/bin/wraith", "bin/kill"):
        path = root / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755)
    stock = root / "usr/lib/systemd/system"
    stock.mkdir(parents=True)
    for kind in ("target", "slice"):
        for unit in Path("/lib/systemd/system").glob(f"*.{kind}"):
            shutil.copy(unit, stock, follow_symlinks=False)
    return root


def analyze(system: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (systemd_analyze,) = need("systemd-analyze")
    command: list[str | Path] = [systemd_analyze, *arguments, f"--root={system}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)


@pytest.mark.parametrize("name", UNITS)
def test_systemd_finds_nothing_wrong_with_a_unit(name: str, system: Path) -> None:
    done = analyze(system, "verify", "--man=no", f"{name}main.service")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_systemd_would_find_a_misspelt_line(system: Path, tmp_path: Path) -> None:
    other = tmp_path / "root"
    shutil.copytree(system, other, symlinks=True)
    unit = other / "etc/systemd/system/wraith-serve@main.service"
    unit.write_text(unit.read_text().replace("ProtectProc=", "ProtectProcs="))
    assert "ProtectProcs" in analyze(other, "verify", "--man=no", unit.name).stderr


@pytest.mark.parametrize("name", UNITS)
def test_little_of_the_system_is_exposed_to_a_unit(name: str, system: Path) -> None:
    done = analyze(system, "security", "--offline=true", "--no-pager", f"{name}main.service")
    exposure = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure, done
    assert float(exposure[1]) <= MAX_EXPOSURE, done.stdout


def test_both_units_are_hardened_alike() -> None:
    texts = [(DEPLOY / "systemd" / f"{name}.service").read_text() for name in UNITS]
    first, second = (text[text.index(HARDENING) :] for text in texts)
    assert first == second


def test_a_unit_gives_up_where_starting_again_would_not_help() -> None:
    fatal = {ExitCode.USAGE, ExitCode.UNUSABLE_FILE}
    expected = {
        "wraith-serve@": fatal,
        "wraith-connect@": fatal | {ExitCode.AUTHENTICATION_REFUSED, ExitCode.WRONG_PEER},
    }
    for name, codes in expected.items():
        text = (DEPLOY / "systemd" / f"{name}.service").read_text()
        (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", text, re.MULTILINE)
        assert {int(code) for code in line.split()} == {int(code) for code in codes}


@pytest.mark.parametrize("name", UNITS)
def test_the_flags_a_unit_names_are_flags(name: str, tmp_path: Path) -> None:
    command = name.removeprefix("wraith-").removesuffix("@")
    text = (DEPLOY / "systemd" / f"{name}.service").read_text()
    named = set(re.findall(r"\bWRAITH_([A-Z0-9_]+)=", text)) - {"DIR"}
    assert named
    listed = wraith(command, "--help", folder=tmp_path).out
    assert not [flag for flag in named if f"--{flag.lower().replace('_', '-')}" not in listed]


# fail2ban


@pytest.fixture(params=["logfmt", "json"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoggingServer]:
    need("fail2ban-regex")
    with LoggingServer(tmp_path, request.param) as running:
        yield running


class LoggingServer(WraithServer):
    """A server with a log in either format, and what fail2ban makes of it."""

    def __init__(self, tmp_path: Path, log_format: str) -> None:
        super().__init__(tmp_path, "--log-format", log_format, "--log-level", "debug")
        self._json = log_format == "json"

    def wait_ready(self) -> None:
        if not self._json:
            super().wait_ready()
            return
        self.host_key = self.eventually_logs(r'"serving", "host_key": "(SHA256:[^"]+)"')[1]
        self.port = int(self.eventually_logs(r'"listening", "address": "tcp://127.0.0.1:(\d+)"')[1])

    def wait_for_ends(self, count: int) -> None:
        eventually(lambda: self.log().count("connection closed") == count, f"{count} connections are over")

    def refused(self) -> Counter[str]:
        """Count the addresses that fail2ban would hold a refusal against."""
        return refused(self.log(), self.folder)


def refused(log: str, folder: Path) -> Counter[str]:
    (fail2ban_regex,) = need("fail2ban-regex")
    path = folder / "wraith.log"
    path.write_text(log)
    found = run_program(fail2ban_regex, "-o", "ip", path, DEPLOY / "fail2ban/filter.d/wraith.conf", folder=folder)
    assert found.code == 0, found
    return Counter(found.out.split())


def log_in(server: WraithServer, *attempts: dict[str, Any]) -> list[bool]:
    """Try to log in with asyncssh's client, once for each set of its options; which of them got in."""

    async def try_each() -> list[bool]:
        got_in = []
        for options in attempts:
            common: dict[str, Any] = {"username": "wraith", "agent_path": None, "known_hosts": None, "config": None}
            try:
                async with asyncssh.connect("127.0.0.1", server.port, **(common | options)):
                    got_in.append(True)
            except asyncssh.Error:
                got_in.append(False)
        return got_in

    return asyncio.run(try_each())


def test_a_refused_key_is_one_refusal(server: LoggingServer) -> None:
    stranger = {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]}
    known = {"client_keys": [server.client_key]}
    assert log_in(server, stranger, known, stranger) == [False, True, False]
    server.wait_for_ends(3)
    assert server.refused() == {"127.0.0.1": 2}


def test_an_agent_with_six_keys_is_no_refusal_when_it_logs_in_and_one_when_not(
    server: LoggingServer, tmp_path: Path
) -> None:
    with SshAgent(tmp_path / "agent") as agent:
        for number in range(6):
            agent.add(make_key(tmp_path / f"other-{number}"))
        assert log_in(server, {"agent_path": str(agent.socket)}) == [False]
        agent.add(server.client_key)
        assert log_in(server, {"agent_path": str(agent.socket)}) == [True]
    server.wait_for_ends(2)
    assert server.log().count("key offered") >= 2 * 6
    assert server.refused() == {"127.0.0.1": 1}


FORGED = "203.0.113.9"
LOGFMT_LINE = f"2026-06-02T07:44:42.456Z INFO auth attempt remote_addr={FORGED} user=x result=reject keys_tried=1"
JSON_LINE = json.dumps(
    {
        "time": "2026-06-02T07:44:42.456Z",
        "level": "INFO",
        "message": "auth attempt",
        "remote_addr": FORGED,
        "user": "x",
        "result": "reject",
    }
)
HOSTILE = (
    f"x remote_addr={FORGED} result=reject",
    f"x result=accept remote_addr={FORGED}",
    f'x" remote_addr={FORGED} user="x" result=reject',
    f'x\\" remote_addr={FORGED} result=reject "',
    f'x", "remote_addr": "{FORGED}", "result": "reject',
    f"\n{LOGFMT_LINE}\n",
    f"\r\n{JSON_LINE}\r\n",
    f"\u2028{LOGFMT_LINE}",
    f"\x1b[2K\r{LOGFMT_LINE}",
    LOGFMT_LINE,
    JSON_LINE,
    f"{'x' * 127}\\ result=accept",
    f"\x00\x7f\x85{LOGFMT_LINE}",
    "\\",
    '"',
)


def test_no_user_name_forges_anything(server: LoggingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client's own check of what it sends.
    monkeypatch.setattr("asyncssh.connection.saslprep", lambda name: name)
    stranger = {"client_keys": [asyncssh.generate_private_key("ssh-ed25519")]}
    assert not any(log_in(server, *(stranger | {"username": name} for name in HOSTILE)))
    server.wait_for_ends(len(HOSTILE))
    one_record_a_line(server)
    counted = server.refused()
    # A name with control characters is refused before any key: that is no attempt.
    attempts = sum("auth attempt" in line for line in server.log().splitlines())
    assert counted == {"127.0.0.1": attempts}
    assert attempts >= 8


def test_no_version_string_forges_anything(server: LoggingServer) -> None:
    for words in HOSTILE:
        with socket.create_connection(("127.0.0.1", server.port), LIMIT_S) as connection:
            connection.sendall(b"SSH-2.0-" + words.encode() + b"\r\n" + words.encode() + b"\r\n")
            connection.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while connection.recv(4096):
                    pass
    server.wait_for_ends(len(HOSTILE))
    one_record_a_line(server)
    assert server.refused() == {}


def one_record_a_line(server: LoggingServer) -> None:
    for line in server.log().splitlines():
        assert line.isascii()
        assert line.isprintable()
        if line.startswith("{"):
            json.loads(line)
        assert not line.startswith("2026-06-02")


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "host wraith[12]: ",  # as fail2ban makes lines of the journal
        "Nov 20 07:44:42 host wraith[12]: ",
        "2026-11-20T07:44:42.123456+00:00 host wraith[12]: ",
    ],
)
def test_a_refusal_is_seen_in_the_journal_and_in_syslog(prefix: str, tmp_path: Path) -> None:
    need("fail2ban-regex")
    log = "".join(f"{prefix}{line}\n" for line in (LOGFMT_LINE, JSON_LINE))
    assert refused(log, tmp_path) == {FORGED: 2}


def test_fail2ban_accepts_the_jail(tmp_path: Path) -> None:
    (fail2ban_client,) = need("fail2ban-client")
    shutil.copytree("/etc/fail2ban", tmp_path / "fail2ban", ignore=shutil.ignore_patterns("jail.d", "jail.local"))
    shutil.copytree(DEPLOY / "fail2ban", tmp_path / "fail2ban", dirs_exist_ok=True)
    told = run_program(fail2ban_client, "-c", tmp_path / "fail2ban", "-d", folder=tmp_path, env=environment(tmp_path))
    assert told.code == 0, told
    assert "['add', 'wraith', 'systemd']" in told.out
    assert "['set', 'wraith', 'addjournalmatch', '_SYSTEMD_SLICE=system-wraith.slice']" in told.out
    assert "['start', 'wraith']" in told.out
    for name in UNITS:
        assert "Slice=system-wraith.slice\n" in (DEPLOY / "systemd" / f"{name}.service").read_text()
