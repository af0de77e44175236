"""Pings from a host of the lab, to see round trips and losses without ping(8)."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from collections.abc import Mapping

from tests.lab.network.host import Host

ECHO = {socket.AF_INET: (socket.IPPROTO_ICMP, 8), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 128)}
HEADER = struct.Struct("!BBHHH")  # type, code, checksum and identifier (the kernel's), sequence number
SILENCE_S = 1.0  # after which those not yet answered count as lost, on a busy machine too
AT_ONCE = 20  # on their way at a time: few enough for any queue


def ping(
    host: Host, address: str, count: int = 5, *, size: int = 0, silence_s: float = SILENCE_S
) -> Mapping[int, float]:
    """Ping `count` times; the round trip in seconds of each that was answered, by its number."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol, echo = ECHO[family]
    sent: list[float] = []
    answered: dict[int, float] = {}
    settled = 0  # how many were answered, or given up because a later one was
    with host.inside():
        pinging = socket.socket(family, socket.SOCK_DGRAM, protocol)
    with pinging:
        pinging.setblocking(False)
        while settled < count:
            while len(sent) < min(count, settled + AT_ONCE):
                sent.append(time.monotonic())
                with contextlib.suppress(OSError):  # unreachable, which is no answer
                    pinging.sendto(HEADER.pack(echo, 0, 0, 0, len(sent) - 1) + bytes(size), (address, 0))
            if not select.select([pinging], [], [], silence_s)[0]:
                settled = len(sent)
                continue
            number = HEADER.unpack_from(pinging.recv(HEADER.size + size))[4]
            answered[number] = time.monotonic() - sent[number]
            settled = max(settled, number + 1)
    return answered
