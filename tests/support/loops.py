"""Runs one coroutine on a fresh event loop and fails when it leaves anything behind."""

from __future__ import annotations

import asyncio
import gc
import importlib
import importlib.util
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

# Turns the loop is given to finish what was already cancelled or closed: done callbacks, connection_lost.
SETTLING_TURNS = 5

LOOPS: tuple[str, ...] = ("asyncio", "uvloop") if importlib.util.find_spec("uvloop") else ("asyncio",)


class LeftBehind(AssertionError):
    """The coroutine returned, and tasks or unhandled exceptions of it remained."""


def run(coro: Coroutine[Any, Any, Result], loop: str = "asyncio", timeout_s: float = 60) -> Result:
    """Run `coro` to its end on a new loop of the named kind, and return its result.

    Raises TimeoutError after `timeout_s`, with every task's place in its notes, and LeftBehind when
    tasks are still running at the end or an exception reached the loop with nobody to handle it.
    A failure of `coro` itself is raised as it is; what it left behind is then a note.
    """
    complaints: list[str] = []
    failure: BaseException | None = None

    def record(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        complaints.append(context.get("message", "unhandled") + (f": {error!r}" if error is not None else ""))

    async def supervise() -> Result:
        try:
            async with asyncio.timeout(timeout_s):
                return await _with_places_of_tasks(coro)
        finally:
            complaints.extend(f"still running: {name}" for name in await _unfinished())

    try:
        with asyncio.Runner(debug=False, loop_factory=_factory(loop)) as runner:
            runner.get_loop().set_exception_handler(record)
            try:
                return runner.run(supervise())
            except BaseException as error:
                failure = error
                raise
    finally:
        # What nobody retrieved is announced when the task is collected, which would else be in another test.
        gc.collect()
        if complaints and failure is None:
            raise LeftBehind("; ".join(complaints))
        if failure is not None:
            for complaint in complaints:
                failure.add_note(complaint)


async def _with_places_of_tasks(coro: Coroutine[Any, Any, Result]) -> Result:
    """Await `coro`; when cancelled (the time is up), say where every task was."""
    try:
        return await coro
    except asyncio.CancelledError as error:
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            error.add_note(f"waiting: {_place(task)}")
        raise


async def _unfinished() -> list[str]:
    for _ in range(SETTLING_TURNS):
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        if not rest:
            return []
        await asyncio.sleep(0)
    return sorted(_place(task) for task in asyncio.all_tasks() - {asyncio.current_task()})


def _place(task: asyncio.Task[Any]) -> str:
    stack = task.get_stack(limit=1)
    where = f"{stack[-1].f_code.co_filename}:{stack[-1].f_lineno}" if stack else "nowhere"
    return f"{task.get_name()} {getattr(task.get_coro(), '__qualname__', '?')} at {where}"


def _factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop]:
    match loop:
        case "asyncio":
            return asyncio.SelectorEventLoop
        case "uvloop":
            return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
        case _:
            raise ValueError(f"no such loop: {loop}")
