"""Claims about live sessions: they do what their login allows, as long as it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest

from tests.conftest import Run
from tests.support.certified import Draft, certified_pair
from tests.support.ssh_peers import USER_KEY, Served, Service, log_in, serving, turns, until
from wraith.opening import OpenFailed, OpenFailure
from wraith.ssh.channel import open_direct_tcpip
from wraith.ssh.connection import BoundedClientConnection
from wraith.ssh.key_ring import KeyRing
from wraith.ssh.server_session import ServerSession
from wraith.ssh.session_watch import watch_sessions
from wraith_transports import memory_pair

OTHER_KEY = asyncssh.generate_private_key("ssh-ed25519")
AUTHORITY = asyncssh.generate_private_key("ssh-ed25519")
LINE = USER_KEY.export_public_key().decode().strip()
AUTHORITY_LINE = AUTHORITY.export_public_key().decode().strip()


def write(path: Path, text: str) -> None:
    draft = path.with_name("draft")
    draft.write_text(text)
    draft.chmod(0o600)
    draft.replace(path)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write(tmp_path / "keys", LINE)
    return tmp_path / "keys"


def owner(served: Served) -> ServerSession:
    found = served.connection._owner
    assert isinstance(found, ServerSession)
    return found


async def enter(
    service: Service, *keys: asyncssh.SSHKey | asyncssh.SSHKeyPair
) -> tuple[BoundedClientConnection, Served]:
    near, far = memory_pair()
    served = service.accept(far)
    return await log_in(near, keys=keys or (USER_KEY,)), served  # type: ignore[arg-type]


@asynccontextmanager
async def watched(ring: KeyRing, service: Service) -> AsyncIterator[None]:
    def sessions() -> Iterable[ServerSession]:
        return [owner(served) for served in service.sessions if not served.over]

    task = asyncio.create_task(watch_sessions(ring, sessions, every_s=0.01, grace_s=0.01))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def opens(client: BoundedClientConnection, host: str, port: int) -> bool:
    try:
        stream = await open_direct_tcpip(client, host, port, ("127.0.0.1", 0))
    except OpenFailed as error:
        if error.reason is not OpenFailure.NOT_ALLOWED:
            raise
        return False
    stream.abort()
    return True


def test_a_session_opens_what_its_line_permits(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        write(keys, f'permitopen="db:5432" {LINE}')
        async with serving(keys=KeyRing(keys)) as service:
            client, _ = await enter(service)
            assert await opens(client, "db", 5432)
            assert not await opens(client, "db", 5433)
            assert not await opens(client, "DB", 5432)
            assert service.targets.dialled == [("db", 5432)]
            client.abort()

    run(scenario())


def test_a_session_whose_key_is_taken_out_ends_and_others_stay(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        other = OTHER_KEY.export_public_key().decode().strip()
        write(keys, f"{LINE}\n{other}")
        ring = KeyRing(keys)
        async with serving(keys=ring) as service, watched(ring, service):
            client, served = await enter(service)
            stays, still = await enter(service, OTHER_KEY)
            assert await opens(client, "a", 1)
            write(keys, other)
            await until(lambda: served.over, "end of the session")
            await until(client.is_closed, "end of the client")
            assert not still.over
            assert await opens(stays, "a", 1)
            stays.abort()

    run(scenario())


def test_options_that_change_are_in_force_for_sessions_that_go_on(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        ring = KeyRing(keys)
        async with serving(keys=ring) as service, watched(ring, service):
            client, served = await enter(service)
            assert await opens(client, "a", 1)
            write(keys, f"restrict {LINE}")
            grant = owner(served).grant
            await until(lambda: owner(served).grant is not grant and not _forwards(served), "the new options")
            assert not await opens(client, "a", 1)
            assert not served.over
            client.abort()

    run(scenario())


def _forwards(served: Served) -> bool:
    grant = owner(served).grant
    return grant is not None and grant.port_forwarding


@pytest.mark.parametrize("gone", ["authority", "revoked key", "revoked authority", "principal"])
def test_a_session_by_certificate_ends_with_what_it_rested_on(run: Run, tmp_path: Path, gone: str) -> None:
    async def scenario() -> None:
        lines, cas, revoked = tmp_path / "keys", tmp_path / "cas", tmp_path / "revoked"
        write(lines, f'cert-authority,principals="ops" {AUTHORITY_LINE}')
        write(cas, "")
        write(revoked, "")
        ring = KeyRing(lines, authorities=(cas,), revoked_keys=revoked)
        blob = Draft(principals=(b"ops",)).signed(USER_KEY, AUTHORITY)
        async with serving(keys=ring) as service, watched(ring, service):
            client, served = await enter(service, certified_pair(USER_KEY, blob))
            assert await opens(client, "a", 1)
            match gone:
                case "authority":
                    write(lines, "")
                case "revoked key":
                    write(revoked, LINE)
                case "revoked authority":
                    write(revoked, AUTHORITY.get_fingerprint())
                case _:
                    write(lines, f'cert-authority,principals="admin" {AUTHORITY_LINE}')
            await until(lambda: served.over, "end of the session")
            client.abort()

    run(scenario())


@pytest.mark.parametrize("what", ["certificate", "line"])
def test_a_session_ends_when_its_time_is_over(run: Run, keys: Path, what: str) -> None:
    async def scenario() -> None:
        now = 1_800_000_000.0
        blob = Draft(valid_before=int(now) + 10).signed(USER_KEY, AUTHORITY)
        line = "cert-authority {}" if what == "certificate" else 'expiry-time="20270115080009Z" {}'
        write(keys, line.format(AUTHORITY_LINE if what == "certificate" else LINE))
        ring = KeyRing(keys)
        async with serving(keys=ring) as service:
            near, far = memory_pair()
            served = service.accept(far)
            owner(served)._login._clock = lambda: now
            offered = certified_pair(USER_KEY, blob) if what == "certificate" else USER_KEY
            client = await log_in(near, keys=(offered,))  # type: ignore[arg-type]
            async with watched(ring, service):
                await turns()
                now += 9
                await turns()
                assert await opens(client, "a", 1)
                now += 1
                await until(lambda: served.over, "end of the session")
            client.abort()

    run(scenario())


def test_a_file_that_is_gone_for_a_moment_ends_no_session(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        ring = KeyRing(keys)
        async with serving(keys=ring) as service:
            client, served = await enter(service)
            judged = asyncio.Event()

            def sessions() -> list[ServerSession]:
                judged.set()
                return [owner(served)]

            keys.rename(keys.with_name("backup"))
            task = asyncio.create_task(watch_sessions(ring, sessions, every_s=0, grace_s=0.2))
            await judged.wait()
            write(keys, LINE)
            judged.clear()
            await judged.wait()  # the next look, after the grace
            assert not served.over
            assert await opens(client, "a", 1)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            client.abort()

    run(scenario())


def test_a_look_that_fails_is_not_the_last(run: Run, keys: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        looks = 0

        def sessions() -> list[ServerSession]:
            nonlocal looks
            looks += 1
            if looks == 1:
                raise ZeroDivisionError
            return []

        task = asyncio.create_task(watch_sessions(KeyRing(keys), sessions, every_s=0))
        await until(lambda: looks > 2, "another look")
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    run(scenario())
    assert "the sessions could not be judged again" in caplog.text


def test_a_certificate_that_is_refused_leaves_the_plain_key(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        expired = Draft(valid_before=1).signed(USER_KEY, AUTHORITY)
        write(keys, f"cert-authority {AUTHORITY_LINE}\nrestrict {LINE}")
        async with serving(keys=KeyRing(keys)) as service:
            client, served = await enter(service, certified_pair(USER_KEY, expired), USER_KEY)
            grant = owner(served).grant
            assert grant is not None
            assert grant.offer.certificate is None
            assert not grant.port_forwarding
            client.abort()

    run(scenario())


def test_a_certificate_without_its_key_is_nothing(run: Run, keys: Path) -> None:
    async def scenario() -> None:
        write(keys, f"cert-authority {AUTHORITY_LINE}")
        blob = Draft().signed(USER_KEY, AUTHORITY)
        thief = certified_pair(USER_KEY, blob)
        thief._key = OTHER_KEY  # type: ignore[attr-defined]
        async with serving(keys=KeyRing(keys)) as service:
            near, far = memory_pair()
            served = service.accept(far)
            session = owner(served)
            with pytest.raises(asyncssh.PermissionDenied):
                await log_in(near, keys=(thief,))  # type: ignore[arg-type]
            await until(lambda: served.over, "end of the session")
            assert session.grant is None

    run(scenario())
