"""Joins two duplex streams until both directions have ended."""

from __future__ import annotations

from wraith_transports import DuplexStream


async def splice(one: DuplexStream, other: DuplexStream, *, unread: bytes = b"") -> None:
    """Copy both ways between two streams; returns when both are gone.

    `unread` are bytes already taken from `one`, and go to `other` first. A half-close passes
    through; a stream that is lost takes the other with it. Cancelling aborts both.
    """
    raise NotImplementedError
