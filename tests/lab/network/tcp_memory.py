"""Waits while other programs hold so much TCP memory that the kernel gives every connection tiny windows."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.polling import eventually

LIMIT_S = 60.0  # for another test run, perhaps, to get over its worst


def tcp_memory_is_plentiful() -> bool:
    """Compare the pages in use with the first bound of tcp_mem; both are the machine's, not a namespace's."""
    (bound, *_) = (int(each) for each in Path("/proc/sys/net/ipv4/tcp_mem").read_text().split())
    used = re.search(r"^TCP: .* mem (\d+)", Path("/proc/net/sockstat").read_text(), re.MULTILINE)
    return used is None or int(used[1]) < bound


def await_tcp_memory() -> None:
    """Wait until rates say something about links and programs again."""
    eventually(tcp_memory_is_plentiful, "the machine's TCP memory is below tcp_mem: see /proc/net/sockstat", LIMIT_S)
