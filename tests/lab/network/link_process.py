"""The process that is an emulated link: moves packets between two TUN devices, late, slowly or not at all.

`python -m tests.lab.network.link_process FD FD CONDITIONS`: the descriptors are inherited, the conditions are JSON.
Each line on stdin is empty or new conditions, and is answered by one line of counters. It ends when stdin does, and so
with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import sys
import time
from dataclasses import asdict

from tests.lab.network.packet_path import Conditions, PacketPath
from tests.lab.network.tun import PACKET

STDIN = 0
PRECEDENCE = -10  # of this process, as nice(1) counts: a link does not wait for those who use it
AT_ONCE = 32  # packets read in a row before those that are due go out


class LinkProcess:
    """Two devices, and the path from each to the other."""

    def __init__(self, devices: tuple[int, int], conditions: Conditions) -> None:
        first, second = devices
        self._paths = {first: PacketPath(conditions), second: PacketPath(conditions)}
        self._to = {first: second, second: first}

    def run(self) -> None:
        """Move packets until stdin ends."""
        watched = [STDIN, *self._paths]
        while True:
            # epoll and poll count in milliseconds, select in microseconds.
            ready, _, _ = select.select(watched, [], [], self._wait_s())
            for device in ready:
                if device == STDIN:
                    if not self._obey():
                        return
                else:
                    self._read(device)
            self._deliver()

    def _wait_s(self) -> float | None:
        times = [at for path in self._paths.values() if (at := path.next_at()) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _read(self, device: int) -> None:
        path = self._paths[device]
        with contextlib.suppress(BlockingIOError):
            for _ in range(AT_ONCE):
                path.put(os.read(device, PACKET), time.monotonic())

    def _deliver(self) -> None:
        now = time.monotonic()
        for device, path in self._paths.items():
            to = self._to[device]
            for packet in path.arrived(now):
                with contextlib.suppress(OSError):  # that end is down: packets to it vanish
                    os.write(to, packet)

    def _obey(self) -> bool:
        line = os.read(STDIN, select.PIPE_BUF)  # lines are shorter, and so written at once
        if not line:
            return False
        if line.strip():
            conditions = Conditions(**json.loads(line))
            for path in self._paths.values():
                path.set(conditions)
        print(json.dumps([asdict(path.counters) for path in self._paths.values()]), flush=True)
        return True


if __name__ == "__main__":
    with contextlib.suppress(PermissionError):  # root of a container, perhaps
        os.nice(PRECEDENCE)
    LinkProcess((int(sys.argv[1]), int(sys.argv[2])), Conditions(**json.loads(sys.argv[3]))).run()
