"""TCP_USER_TIMEOUT: how long a connection lives whose peer acknowledges nothing."""

from __future__ import annotations

import contextlib
import socket

USER_TIMEOUT_MS = 30_000


def set_user_timeout(sock: socket.socket) -> None:
    """Have the kernel end the connection after USER_TIMEOUT_MS without an acknowledgement, where it can.

    Only for a connection whose peer always reads, as both ends of a transport do: Linux counts a
    window that stays closed as well, though its probes are answered, and would cut off a transfer
    that somebody has paused.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None:
        with contextlib.suppress(OSError):  # a peer may have left already
            sock.setsockopt(socket.IPPROTO_TCP, option, USER_TIMEOUT_MS)
