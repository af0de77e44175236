"""Claims about `wraith demo`: it measures real bytes, and believes nothing that does not fit."""

from __future__ import annotations

import asyncio
import hashlib
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.conftest import Run
from tests.support.consoles import LIMIT_S, environment, started, terminal
from tests.support.openers import DirectOpener
from tests.support.tools import need
from wraith.cli import demonstration
from wraith.cli.demo_client import Fetched, FetchFailed, fetch
from wraith.cli.demo_target import DemoTarget
from wraith.cli.demonstration import DemoResult, demonstrate, show_results
from wraith.errors import ExitCode
from wraith.socks import SocksListener
from wraith.specs import Scheme, SocksSpec, TcpBind, parse_target

TCP = (Scheme.TCP,)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def port_of(listener: SocksListener) -> int:
    await listener.start()
    return parse_target(listener.addresses()[0]).port or 0


@pytest.mark.parametrize("size", [0, 1, 65536, 1_000_001])
def test_what_the_target_sends_is_fetched_whole_through_a_socks_port(size: int, run: Run) -> None:
    async def scenario() -> None:
        opener = DirectOpener()
        listener = SocksListener(SocksSpec(TcpBind("127.0.0.1", 0)), opener)
        async with DemoTarget(size) as target:
            fetched = await fetch(await port_of(listener), "127.0.0.1", target.port)
            await listener.aclose()
            assert fetched == Fetched(size, target.sha256())
            assert [asked[:2] for asked in opener.asked] == [("127.0.0.1", target.port)]

    run(scenario())


def test_two_targets_send_different_bytes() -> None:
    assert DemoTarget(100).sha256() != DemoTarget(100).sha256()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"", "ended early"),
        (b"\x05", "ended early"),
        (b"\x05\xff", "password"),
        (b"\x05\x00\x05\x05\x00\x01", "error 5"),
        (b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00HTTP/1.1 404 Not Found\r\n\r\n", "something else"),
        (b"\x05\x00\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00HTTP/1.1 200 OK\r\n", "ended early"),
    ],
)
def test_a_port_that_answers_otherwise_is_a_failure_that_says_so(answer: bytes, says: str, run: Run) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.write_eof()
        await reader.read()
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        with pytest.raises(FetchFailed, match=says):
            await fetch(server.sockets[0].getsockname()[1], "127.0.0.1", 1)
        server.close()

    run(scenario())


def test_a_port_nobody_listens_on_is_a_failure(run: Run) -> None:
    with pytest.raises(FetchFailed, match="cannot be reached"):
        run(fetch(1, "127.0.0.1", 1))


def test_a_lost_doubled_or_swapped_part_changes_the_hash() -> None:
    chunks = list(DemoTarget(1 << 20)._chunks())

    def hash_of(parts: list[bytes]) -> str:
        return hashlib.sha256(b"".join(parts)).hexdigest()

    swapped = [chunks[1], chunks[0], *chunks[2:]]
    doubled = [chunks[0], *chunks[:-1]]
    assert len({hash_of(parts) for parts in (chunks, swapped, doubled, chunks[1:])}) == 4


def test_every_transport_passes(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert run(demonstrate(keep=False, size=3 << 20)) is ExitCode.DONE
    out = capsys.readouterr().out
    for scheme in Scheme:
        assert any(
            line.split()[:2] == [scheme.value, f"{3 << 20:,}"] and line.split()[-1] == "ok" for line in out.splitlines()
        )
    assert list(tmp_path.iterdir()) == []


def test_the_users_own_folder_is_not_touched(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WRAITH_DIR", str(tmp_path / "own"))
    assert run(demonstrate(keep=False, size=1, transports=TCP)) is ExitCode.DONE
    assert not (tmp_path / "own").exists()


def test_bytes_that_differ_fail_the_demo(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong(socks_port: int, host: str, port: int) -> Fetched:
        return Fetched(1, "0" * 64)

    monkeypatch.setattr(demonstration, "fetch", wrong)
    assert run(demonstrate(keep=True, size=2, transports=TCP)) is ExitCode.FAILED
    out, err = capsys.readouterr()
    assert out.count("FAILED") == 1
    assert "1 of 2 bytes" in err


def test_the_table_has_no_colour_where_nobody_sees_it(capsys: pytest.CaptureFixture[str]) -> None:
    show_results([DemoResult(Scheme.TCP, 64 << 20, 0.5, intact=True), DemoResult(Scheme.TLS, failure="broke")])
    out, err = capsys.readouterr()
    assert "\x1b" not in out
    assert "67,108,864" in out
    assert "128" in out
    assert err == "wraith: tls: broke\n"


TABLE = """
    from wraith.cli.demonstration import DemoResult, show_results
    from wraith.specs import Scheme
    show_results([DemoResult(Scheme.TCP, 1, 1.0, intact=True)])
"""


@pytest.mark.parametrize(("variable", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_no_color_is_honoured_on_a_terminal(variable: dict[str, str], coloured: bool) -> None:
    env = {name: value for name, value in environment(TERM="xterm-256color").items() if name != "NO_COLOR"}
    with terminal(TABLE, env=env | variable) as person:
        assert person.end() == 0
    assert ("\x1b[32m" in person.shown) is coloured


KEEP = """
    import sys
    from wraith.cli.demonstration import demonstrate
    from wraith.cli.running import run
    from wraith.errors import ExitCode
    from wraith.specs import Scheme
    work = lambda _: demonstrate(keep=True, size=1_000_000, transports=(Scheme.TCP,))
    sys.exit(run(work, when_stopped=ExitCode.FAILED))
"""


def test_what_is_kept_answers_the_curl_line_until_it_is_interrupted(tmp_path: Path) -> None:
    (curl,) = need("curl")
    with started(KEEP, env=environment(TMPDIR=str(tmp_path))) as process:
        assert process.stdout is not None
        line = next(line for line in process.stdout if line.startswith("curl "))
        command = shlex.split(line.partition("|")[0])
        fetched = subprocess.run([curl, "-s", *command[1:]], check=True, capture_output=True, timeout=LIMIT_S)
        assert len(fetched.stdout) == 1_000_000
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=LIMIT_S)
    assert process.returncode == ExitCode.DONE
    assert list(tmp_path.iterdir()) == []
