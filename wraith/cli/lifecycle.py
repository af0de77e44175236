"""What runs beside a command's own work: the service manager is kept told, and a SIGHUP is obeyed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from wraith.sd_notify import ServiceManager

STATUS_INTERVAL_S = 10.0  # how old the line of `systemctl status` may be


async def keep_told(manager: ServiceManager, status: Callable[[], str]) -> None:
    """Tell the manager that the event loop still turns, and what there is to say, until cancelled."""
    if not manager.listens:
        return
    interval = manager.watchdog_interval_s
    while True:
        if interval is not None:
            manager.alive()
        manager.status(status())
        await asyncio.sleep(STATUS_INTERVAL_S if interval is None else min(interval, STATUS_INTERVAL_S))


async def reload_at_each(hangup: asyncio.Event, manager: ServiceManager, reload: Callable[[], Awaitable[None]]) -> None:
    """Reload whenever the event is set, one at a time, until cancelled."""
    while True:
        await hangup.wait()
        hangup.clear()
        manager.reloading()
        await reload()
        manager.ready()


@contextlib.asynccontextmanager
async def alongside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines until the block is left. For what raises nothing, and may end or not."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
