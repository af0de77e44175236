"""The watch over live sessions: those that have lost what their login rested on are ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from .key_ring import KeyRing
from .server_session import ServerSession

JUDGE_EVERY_S = 10.0  # and a session whose key is gone has ended well within a minute
GRACE_S = 2.0  # before the second look: an editor takes a file away for a moment when it saves

logger = logging.getLogger(__name__)


async def watch_sessions(
    keys: KeyRing,
    sessions: Callable[[], Iterable[ServerSession]],
    *,
    every_s: float = JUDGE_EVERY_S,
    grace_s: float = GRACE_S,
) -> None:
    """Judge every session again and again, by the files as they are, until cancelled.

    One whose options have changed goes on with the new ones. One that may no longer be is ended if
    that is still so after the grace.
    """
    while True:
        await asyncio.sleep(every_s)
        try:
            keys.refresh()
            doubtful = [session for session in sessions() if session.judge_again() is not None]
            if not doubtful:
                continue
            await asyncio.sleep(grace_s)
            keys.refresh()
            for session in doubtful:
                refusal = session.judge_again()
                if refusal is not None:
                    session.end(refusal)
        except Exception:  # contained here: one look, not the watch
            logger.exception("the sessions could not be judged again")
