"""The server's side of a session: who gets in, what is counted, what is logged, what is never dialled."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from asyncssh.packet import Boolean, String, UInt32

from tests.support.ssh_peers import HOST_KEY, USER_KEY, log_in, logged, serving, session, until
from tests.support.ssh_rogues import (
    MSG_DATA,
    MSG_EXTENDED_DATA,
    MSG_OPEN,
    MSG_OPEN_FAILURE,
    MSG_REQUEST,
    MSG_SUCCESS,
    rogue_at_login,
    rogue_session,
)
from wraith.ssh.channel import open_direct_tcpip
from wraith.ssh.key_files import fingerprint
from wraith.ssh.server_session import is_reserved
from wraith_transports import memory_pair

Run = Callable[..., Any]
STRANGERS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(12)]


def fields(line: str) -> dict[str, str]:
    """Read the fields of a log line; quoted values are kept as they are."""
    return dict(re.findall(r"(\w+)=(\"(?:[^\"\\]|\\.)*\"|[^ ]+)", line))


def attempt(keys: list[asyncssh.SSHKey], *, user: str = "wraith", limit: int = 10) -> Any:
    """Log in with these keys: what came of it, and the lines that were logged."""

    async def scenario() -> tuple[Exception | None, list[str]]:
        async with logged() as lines, serving(max_auth_attempts=limit) as service:
            near, far = memory_pair()
            served = service.accept(far)
            failure: Exception | None = None
            try:
                client = await log_in(near, keys=keys, user=user)
            except asyncssh.Error as error:
                failure = error
            else:
                client.abort()
            await until(lambda: served.over)
        return failure, lines.lines

    return scenario()


def attempts(lines: list[str]) -> list[dict[str, str]]:
    return [fields(line) for line in lines if "auth attempt" in line]


@pytest.mark.parametrize(
    ("host", "reserved"),
    [
        ("wraith-control", True),
        ("WRAITH-CONTROL", True),
        ("Wraith-x.", True),
        ("wraith-..", True),
        ("wraith-control.example", True),
        ("wraith", False),
        ("wraithcontrol", False),
        ("my-wraith-control", False),
        (".wraith-control", False),
        ("", False),
    ],
)
def test_names_of_our_own_services_are_reserved(host: str, reserved: bool) -> None:
    assert is_reserved(host) is reserved


def test_an_agent_with_six_keys_is_one_accepted_attempt(run: Run) -> None:
    failure, lines = run(attempt([*STRANGERS[:5], USER_KEY]))
    assert failure is None
    [line] = attempts(lines)
    assert line["result"] == "accept"
    assert line["keys_tried"] == "6"
    assert line["key_fingerprint"] == fingerprint(USER_KEY)
    assert line["user"] == "wraith"
    assert "reason" not in line
    assert len([each for each in lines if "key offered" in each and " DEBUG " in each]) >= 6


def test_keys_that_are_all_unknown_are_one_rejected_attempt(run: Run) -> None:
    failure, lines = run(attempt(STRANGERS[:3]))
    assert isinstance(failure, asyncssh.PermissionDenied)
    [line] = attempts(lines)
    assert (line["result"], line["keys_tried"], line["reason"]) == ("reject", "3", "unknown-key")


def test_the_right_key_as_the_last_allowed_one_gets_in(run: Run) -> None:
    failure, lines = run(attempt([*STRANGERS[:3], USER_KEY], limit=4))
    assert failure is None
    assert attempts(lines)[0]["keys_tried"] == "4"


def test_more_keys_than_allowed_end_the_connection_before_the_right_one(run: Run) -> None:
    failure, lines = run(attempt([*STRANGERS[:4], USER_KEY], limit=4))
    assert isinstance(failure, asyncssh.DisconnectError)
    [line] = attempts(lines)
    assert (line["result"], line["keys_tried"]) == ("reject", "4")


def test_a_connection_that_offers_no_key_is_no_attempt(run: Run) -> None:
    async def scenario() -> list[str]:
        async with logged() as lines, serving() as service:
            near, far = memory_pair()
            served = service.accept(far)
            near.close()
            await until(lambda: served.over)
        return lines.lines

    lines = run(scenario())
    assert not attempts(lines)
    assert len([line for line in lines if "connection opened" in line]) == 1
    assert len([line for line in lines if "connection closed" in line]) == 1


@pytest.mark.parametrize(
    "user",
    [
        "two\nlines result=accept",
        "a=b c=d",
        "\x1b[31mred",
        'quote"d',
        "\u2028separator",
        "root result=accept",
        "nul\0",
        pytest.param("x" * 900, id="long"),
        pytest.param("y" * 5000, id="longer"),
    ],
)
def test_a_user_name_cannot_forge_a_line(run: Run, user: str) -> None:
    async def scenario() -> list[str]:
        async with (
            logged() as lines,
            serving(max_auth_attempts=1) as service,
            rogue_at_login(service) as (rogue, served),
        ):
            rogue.offer_key(STRANGERS[0], user)
            rogue.offer_key(STRANGERS[1], user)
            await until(lambda: served.over, "end of the connection")
        return lines.lines

    lines = run(scenario())
    assert lines
    for line in lines:
        assert line.isascii()
        assert line.isprintable()
        assert len(line) < 1000
        bare = re.sub(r"\"(?:[^\"\\]|\\.)*\"", "quoted", line)
        assert len(re.findall(r"(?<![^ ])result=", bare)) <= 1
        assert "result=accept" not in bare


@pytest.mark.parametrize("user", ["a", pytest.param("b" * 100, id="long"), "root"])
def test_the_user_name_does_not_matter(run: Run, user: str) -> None:
    failure, lines = run(attempt([USER_KEY], user=user))
    assert failure is None
    assert attempts(lines)[0]["user"] == user


def test_changing_the_user_name_does_not_reset_the_count(run: Run) -> None:
    async def scenario() -> list[str]:
        async with (
            logged() as lines,
            serving(max_auth_attempts=3) as service,
            rogue_at_login(service) as (rogue, served),
        ):
            for number in range(40):
                rogue.offer_key(STRANGERS[number % 2], f"user{number}")
            await until(lambda: served.over, "end of the connection")
        return lines.lines

    lines = run(scenario())
    [line] = attempts(lines)
    assert line["result"] == "reject"
    assert line["keys_tried"] == "2"
    assert len([each for each in lines if "key offered" in each]) <= 3 * 4


def test_every_key_counts_even_when_only_asked_about(run: Run) -> None:
    async def scenario() -> list[str]:
        async with (
            logged() as lines,
            serving(max_auth_attempts=3) as service,
            rogue_at_login(service) as (rogue, served),
        ):
            for key in STRANGERS:
                rogue.offer_key(key, "wraith")
            rogue.offer_key(USER_KEY, "wraith")
            await until(lambda: served.over, "end of the connection")
            assert not served.logged_in
        return lines.lines

    [line] = attempts(run(scenario()))
    assert (line["result"], line["keys_tried"]) == ("reject", "3")


@pytest.mark.parametrize("method", ["none", "password", "keyboard-interactive", "hostbased", "gssapi-with-mic", "x"])
def test_no_other_method_gets_in_however_often_it_is_tried(run: Run, method: str) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_at_login(service) as (rogue, served):
            for _ in range(5):
                rogue.send(50, String("wraith"), String("ssh-connection"), String(method), Boolean(False), String("x"))
            await until(lambda: rogue.count(51) == 5 or rogue.lost)
            assert not served.logged_in
            answers = [message.body for message in rogue.messages if message.kind == 51]
            assert set(answers) <= {String("publickey") + Boolean(False)}

    run(scenario())


def test_no_line_ever_names_a_target(run: Run) -> None:
    secret = "secret-target-name"

    async def scenario() -> list[str]:
        async with logged() as lines, serving() as service, session(service) as (client, served):
            for host in (secret, f"refuse.{secret}", f"raise.{secret}", f"wraith-{secret}", f"{secret}\nforged"):
                try:
                    channel = await open_direct_tcpip(client, host, 54321, ("198.51.100.7", 4))
                except Exception:  # refused, which is what is logged or not
                    continue
                channel.abort()
            await until(lambda: not served.channels)
        return lines.lines

    lines = run(scenario())
    assert lines
    for line in lines:
        assert secret not in line
        assert "54321" not in line
        assert "198.51.100.7" not in line


def test_reserved_and_unpermitted_targets_are_never_dialled(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, _):
            for number, host in enumerate(["wraith-control", "Wraith-Control.", "WRAITH-"]):
                rogue.open(number, host=host)
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) == 3)
            assert service.targets.dialled == []
            codes = {message.body[4:8] for message in rogue.messages if message.kind == MSG_OPEN_FAILURE}
            assert codes == {UInt32(1)}, "administratively prohibited"

    run(scenario())


@pytest.mark.parametrize(
    ("kind", "rest"),
    [
        (b"direct-streamlocal@openssh.com", String("/run/socket") + String("") + UInt32(0)),
        (b"tun@openssh.com", UInt32(1) + UInt32(0)),
        (b"x11", String("127.0.0.1") + UInt32(1)),
        (b"auth-agent@openssh.com", b""),
        (b"forwarded-tcpip", String("a") + UInt32(1) + String("b") + UInt32(2)),
        (b"no-such-kind", b"anything"),
    ],
)
def test_other_kinds_of_channel_are_refused(run: Run, kind: bytes, rest: bytes) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            rogue.send(MSG_OPEN, String(kind), UInt32(5), UInt32(1 << 20), UInt32(1 << 15), rest)
            await until(lambda: rogue.count(MSG_OPEN_FAILURE) == 1 or rogue.lost)
            assert not rogue.lost
            assert not served.channels
            await rogue.opened(6)

    run(scenario())


@pytest.mark.parametrize(
    ("request_name", "where"),
    [
        (b"tcpip-forward", String("localhost") + UInt32(80)),
        (b"streamlocal-forward@openssh.com", String("/tmp/x")),
        (b"cancel-tcpip-forward", String("localhost") + UInt32(8080)),
        (b"cancel-streamlocal-forward@openssh.com", String("/tmp/x")),
        (b"instance@wraith", String("too short")),
        (b"no-such-request", b"anything"),
    ],
)
def test_a_global_request_that_is_not_granted_harms_nothing(run: Run, request_name: bytes, where: bytes) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, _):
            rogue.send(80, String(request_name), Boolean(True), where)
            await until(lambda: rogue.count(82) or rogue.lost)
            assert (rogue.count(81), rogue.lost) == (0, False)

    run(scenario())


@pytest.mark.parametrize("wanted", [b"shell", b"exec"])
def test_a_shell_gets_one_line_and_status_1(run: Run, wanted: bytes) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            rogue.open_session(3)
            channel = await rogue.answered(3)
            extra = String("rm -rf /") if wanted == b"exec" else b""
            rogue.send(MSG_REQUEST, UInt32(channel.number), String(wanted), Boolean(True), extra)
            await until(lambda: rogue.count(97))
            said = [each.body for each in rogue.messages if each.kind == MSG_EXTENDED_DATA]
            assert len(said) == 1
            assert said[0].count(b"\n") == 1
            assert b"no shell" in said[0]
            status = [each.body for each in rogue.messages if each.kind == MSG_REQUEST]
            assert status == [String("exit-status") + Boolean(False) + UInt32(1)]
            assert rogue.count(MSG_SUCCESS) == 1
            rogue.send(97, UInt32(channel.number))
            await until(lambda: not served.channels)
            assert served.budget.granted == 0

    run(scenario())


def test_a_session_channel_swallows_what_is_sent_to_it(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, rogue_session(service) as (rogue, served):
            rogue.open_session(3)
            channel = await rogue.answered(3)
            sent = 0
            while sent < channel.window:
                rogue.data(channel.number, bytes(32 << 10))
                sent += 32 << 10
            await until(lambda: rogue.count(93))
            assert served.channels[0]._inbox.held == 0
            assert rogue.count(MSG_DATA) == 0
            assert service.targets.dialled == []

    run(scenario())


def test_the_host_key_that_is_shown_is_the_one_given(run: Run) -> None:
    async def scenario() -> None:
        async with serving() as service, session(service) as (client, _):
            shown = client.get_server_host_key()
            assert shown is not None
            assert shown.public_data == HOST_KEY.public_data

    run(scenario())
