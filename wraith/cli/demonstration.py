"""The demonstration: every transport carries 64 MiB on loopback, and a table says how it went."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import wraith
from wraith.errors import ExitCode, WraithError
from wraith.options import ConnectOptions, ServeOptions, TlsClientOptions, TlsServerOptions
from wraith.socks.listener import SocksListener
from wraith.specs import AddressPattern, ListenSpec, PermitOpen, Scheme, SocksSpec, TcpBind, parse_target
from wraith.ssh.key_files import generate_ed25519, public_line

from .demo_client import Fetched, fetch
from .demo_target import DemoTarget
from .terminal import complain, say, show

DEMO_BYTES = 64 << 20
TIME_LIMIT_S = 120.0  # for one transport; a slow machine takes 5
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How one transport did."""

    transport: Scheme
    size: int = 0
    seconds: float = 0.0
    intact: bool = False
    failure: str = ""
    socks_port: int = 0


async def demonstrate(*, keep: bool, size: int = DEMO_BYTES, transports: Sequence[Scheme] = tuple(Scheme)) -> ExitCode:
    """Try each transport and show the table; with `keep` leave the last one running until cancelled."""
    results: list[DemoResult] = []
    # Everything is made in this folder, and goes with it.
    with tempfile.TemporaryDirectory(prefix="wraith-demo-") as folder:
        async with DemoTarget(size) as target, contextlib.AsyncExitStack() as kept:
            expected = Fetched(size, target.sha256())
            for transport in transports:
                say(f"{transport.value}: {size >> 20} MiB through SOCKS5 ...")
                async with contextlib.AsyncExitStack() as stack:
                    result = await _try(transport, Path(folder), target.port, expected, stack)
                    results.append(result)
                    if keep and len(results) == len(transports):
                        await kept.enter_async_context(stack.pop_all())
            show_results(results)
            if keep and results[-1].intact:
                await _until_interrupted(results[-1].socks_port, target.port)
    return ExitCode.DONE if all(result.intact for result in results) else ExitCode.FAILED


async def _try(
    transport: Scheme, folder: Path, target_port: int, expected: Fetched, stack: contextlib.AsyncExitStack
) -> DemoResult:
    """Set a tunnel up, which lives as long as `stack`, and fetch the page through it."""
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            socks_port = await stack.enter_async_context(_tunnel(transport, folder, target_port))
            started = time.perf_counter()
            fetched = await fetch(socks_port, LOOPBACK, target_port)
            seconds = time.perf_counter() - started
    except TimeoutError:
        return DemoResult(transport, failure=f"not done after {TIME_LIMIT_S:.0f} s")
    except WraithError as error:
        return DemoResult(transport, failure=str(error))
    intact = fetched == expected
    failure = "" if intact else f"{fetched.size} of {expected.size} bytes, SHA-256 {fetched.sha256}"
    return DemoResult(transport, fetched.size, seconds, intact, failure, socks_port)


@contextlib.asynccontextmanager
async def _tunnel(transport: Scheme, folder: Path, target_port: int) -> AsyncIterator[int]:
    """Run a server, a session to it and a SOCKS port through that, and give the port."""
    place = folder / transport.value
    key = generate_ed25519(place / "id_ed25519", "wraith demo")
    authorized_keys = place / "authorized_keys"
    authorized_keys.write_text(public_line(key) + "\n")
    authorized_keys.chmod(0o600)
    serve_options = ServeOptions(
        key=place / "host_ed25519",
        authorized_keys=authorized_keys,
        listen=(ListenSpec(LOOPBACK, 0, transport),),
        tls=TlsServerOptions(folder=place / "tls"),
        permit_open=PermitOpen((AddressPattern(LOOPBACK, target_port),)),
    )
    async with wraith.serve(serve_options) as server:
        connect_options = ConnectOptions(
            host=LOOPBACK,
            port=parse_target(server.addresses[0]).port,
            transport=transport,
            identities=(place / "id_ed25519",),
            known_hosts=place / "known_hosts",
            host_keys=(server.host_key_fingerprint,),
            tls=TlsClientOptions(pins=(server.tls_pin,)) if server.tls_pin else TlsClientOptions(),
        )
        async with wraith.connect(connect_options) as session:
            socks = SocksListener(SocksSpec(TcpBind(LOOPBACK, 0)), session)
            await socks.start()
            try:
                port = parse_target(socks.addresses()[0]).port
                assert port is not None
                yield port
            finally:
                await socks.aclose()


async def _until_interrupted(socks_port: int, target_port: int) -> None:
    say("Still running; Ctrl-C ends it. Try:")
    show(f"curl --proxy socks5h://{LOOPBACK}:{socks_port} http://{LOOPBACK}:{target_port}/ | sha256sum")
    with contextlib.suppress(asyncio.CancelledError):  # which is how Ctrl-C comes, and what was waited for
        await asyncio.Event().wait()


def show_results(results: Sequence[DemoResult]) -> None:
    """Print the table on stdout, and the reasons of what failed on stderr."""
    from rich import box  # noqa: PLC0415 - takes a moment, which the transfers need not wait for
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("transport")
    for name in ("bytes", "seconds", "MiB/s"):
        table.add_column(name, justify="right")
    table.add_column("SHA-256")
    for result in results:
        rate = result.size / (1 << 20) / result.seconds if result.seconds else 0.0
        table.add_row(
            result.transport.value,
            f"{result.size:,}",
            f"{result.seconds:.2f}",
            f"{rate:.0f}",
            "[green]ok[/]" if result.intact else "[red]FAILED[/]",
        )
    Console(file=sys.stdout, highlight=False).print(table)
    for result in results:
        if not result.intact:
            complain(f"{result.transport.value}: {result.failure}")
