"""Waits until a condition holds, for as long as a busy machine may need and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

LIMIT_S = 20.0  # for a process to start, answer or end while other tests keep the machine busy
INTERVAL_S = 0.02


def eventually(condition: Callable[[], Value | None], what: str, limit_s: float = LIMIT_S) -> Value:
    """Ask `condition` until it gives something true, and return that. Raises AssertionError that names `what`."""
    deadline = time.monotonic() + limit_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {limit_s:.0f} s: {what}")
        time.sleep(INTERVAL_S)
