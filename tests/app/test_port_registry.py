"""Claims about who holds a remote port: a credential, and which session of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from tests.conftest import Run
from wraith.specs import TcpBind
from wraith.ssh.offer import Credential
from wraith.ssh.port_registry import Claim, PortHeld, PortRegistry

PLACE = TcpBind("localhost", 8080)
OTHER_PLACE = TcpBind("localhost", 8081)


@dataclass(eq=False)
class FakeSession:
    """A session that answers a probe as it is told, and gives up its place when it is ended, or not."""

    registry: PortRegistry
    alive: bool = True
    gives_up: bool = True
    probed: int = 0
    ended: int = 0
    answer: asyncio.Event = field(default_factory=asyncio.Event)

    async def answers(self) -> bool:
        self.probed += 1
        await asyncio.sleep(0)
        return self.alive

    async def end_whole(self) -> None:
        self.ended += 1
        await asyncio.sleep(0)
        if self.gives_up:
            self.registry.release(PLACE, self)


@pytest.fixture
def ours() -> Credential:
    return Credential("SHA256:ours")


@pytest.fixture
def theirs() -> Credential:
    return Credential("SHA256:theirs")


def by(session: FakeSession, who: Credential | None, instance: bytes | None = None) -> Claim:
    return Claim(session, who, instance)


def test_another_credential_is_refused_whether_the_holder_lives_or_not(
    run: Run, ours: Credential, theirs: Credential
) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        for alive in (True, False):
            holder = FakeSession(registry, alive=alive)
            await registry.claim(PLACE, by(holder, ours, b"same"))
            for credential in (theirs, None):
                with pytest.raises(PortHeld) as held:
                    await registry.claim(PLACE, by(FakeSession(registry), credential, b"same"))
                assert held.value.since is None  # it is told nothing of the holder
            assert (holder.probed, holder.ended) == (0, 0)
            registry.release(PLACE, holder)

    run(scenario())


def test_the_same_credential_waits_while_the_holder_lives_and_is_told_since_when(run: Run, ours: Credential) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        holder = FakeSession(registry)
        await registry.claim(PLACE, by(holder, ours, b"one"))
        for instance in (None, b"two"):
            with pytest.raises(PortHeld) as held:
                await registry.claim(PLACE, by(FakeSession(registry), ours, instance))
            assert held.value.since is not None
        assert (holder.probed, holder.ended) == (2, 0)

    run(scenario())


@pytest.mark.parametrize("gives_up", [True, False])
def test_the_same_credential_takes_over_from_a_dead_holder(run: Run, ours: Credential, gives_up: bool) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        holder, heir = FakeSession(registry, alive=False, gives_up=gives_up), FakeSession(registry)
        await registry.claim(PLACE, by(holder, ours))
        await registry.claim(PLACE, by(heir, ours))
        assert (holder.probed, holder.ended) == (1, 1)
        registry.release(PLACE, holder)  # late: it is not the holder's any more
        with pytest.raises(PortHeld):
            await registry.claim(PLACE, by(FakeSession(registry), ours))

    run(scenario())


def test_the_same_process_is_served_without_a_probe(run: Run, ours: Credential) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        holder = FakeSession(registry)
        await registry.claim(PLACE, by(holder, ours, b"one"))
        await registry.claim(PLACE, by(FakeSession(registry), ours, b"one"))
        assert (holder.probed, holder.ended) == (0, 1)

    run(scenario())


def test_sessions_that_named_no_process_are_not_the_same_process(run: Run, ours: Credential) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        holder = FakeSession(registry)
        await registry.claim(PLACE, by(holder, ours, None))
        with pytest.raises(PortHeld):
            await registry.claim(PLACE, by(FakeSession(registry), ours, None))
        assert holder.probed == 1

    run(scenario())


def test_of_two_that_want_to_take_over_at_once_one_does(run: Run, ours: Credential) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        await registry.claim(PLACE, by(FakeSession(registry, alive=False), ours, b"old"))
        heirs = [by(FakeSession(registry), ours, name) for name in (b"one", b"two")]
        outcomes = await asyncio.gather(*(registry.claim(PLACE, each) for each in heirs), return_exceptions=True)
        assert sorted(type(each).__name__ for each in outcomes) == ["NoneType", "PortHeld"]

    run(scenario())


def test_places_have_nothing_to_do_with_each_other(run: Run, ours: Credential, theirs: Credential) -> None:
    async def scenario() -> None:
        registry = PortRegistry()
        session = FakeSession(registry)
        await registry.claim(PLACE, by(session, ours))
        await registry.claim(OTHER_PLACE, by(FakeSession(registry), theirs))
        with pytest.raises(PortHeld):
            await registry.claim(PLACE, by(session, ours))  # again by the session itself

    run(scenario())
