"""Claims about those who try key after key: they are cut off, told apart in the log, and cost others little."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

import asyncssh
import pytest

from tests.support import loops
from tests.support.crowds import MIB, Footprint, Wellbehaved
from tests.support.polling import eventually
from tests.support.processes import WraithClient, WraithServer

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")

Record = Callable[[str, object], None]

RATE = 10  # connections a second
FLOOD_S = 4
LONG_FLOOD_S = 60
KEYS = [asyncssh.generate_private_key("ssh-ed25519") for _ in range(12)]  # two more than may be offered


async def try_keys(port: int) -> str:
    """Offer one key after the other; the words of the refusal."""
    try:
        connection = await asyncssh.connect(
            "127.0.0.1",
            port,
            username="guess",
            client_keys=KEYS,
            known_hosts=None,
            config=None,
            agent_path=None,
            preferred_auth=("publickey",),
        )
    except (asyncssh.Error, OSError) as error:
        return str(error)
    connection.abort()
    return "let in"


async def flood(port: int, seconds: int) -> list[str]:
    """Let RATE more come each second, whether the others are through or not."""
    tasks = []
    for _ in range(RATE * seconds):
        tasks.append(asyncio.create_task(try_keys(port)))
        await asyncio.sleep(1 / RATE)
    return await asyncio.gather(*tasks)


@pytest.mark.parametrize("seconds", [FLOOD_S, pytest.param(LONG_FLOOD_S, marks=pytest.mark.long)])
def test_10_connections_a_second_that_offer_unknown_keys(tmp_path: Path, seconds: int, record_property: Record) -> None:
    with (
        WraithServer(tmp_path) as server,
        WraithClient(server) as client,
        Wellbehaved(client) as good,
    ):
        before = Footprint(server)
        answers = loops.run(flood(server.port, seconds), "uvloop", timeout_s=seconds + 30)
        good.keeps_working(record_property, "login flood")
        assert len(answers) == RATE * seconds
        assert {answer for answer in answers if "Too many" not in answer} == set()
        before.grew_by_less_than(48 * MIB, record_property, "login flood")
        before.is_released()
        eventually(lambda: server.log().count("result=reject") == len(answers), "one line for each")
        assert len(re.findall(r"result=reject keys_tried=10 reason=unknown-key ", server.log())) == len(answers)
        with WraithClient(server, "--no-socks5"):
            pass


def test_the_limit_of_an_address_lets_others_in(tmp_path: Path) -> None:
    with WraithServer(tmp_path, "--max-connections-per-ip", "2") as server, WraithClient(server) as first:
        with WraithClient(server, "--no-socks5"):
            third = WraithClient(server, "--no-socks5")
            third.start()
            try:
                assert third.wait() == 4
            finally:
                third.end()
            refused = r"^\S+ INFO connection refused remote_addr=127\.0\.0\.1 reason=too-many-from-address$"
            server.eventually_logs(refused)
            assert first.running
        eventually(lambda: len(re.findall("connection closed", server.log())) == 1, "the second has left")
        with WraithClient(server, "--no-socks5"):
            assert "result=reject" not in server.log()
