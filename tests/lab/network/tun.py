"""Opens TUN devices that carry packets of up to 64 KiB, as they leave TCP (linux/if_tun.h)."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

DEVICE = Path("/dev/net/tun")
PACKET = (64 << 10) + 128  # the largest there is, and room for the headers before it

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN, IFF_NO_PI, IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN, TUN_F_USO4, TUN_F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
TCP = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
UDP = TUN_F_USO4 | TUN_F_USO6


def open_tun(name: str) -> int:
    """Make a TUN device in the network namespace of this thread; it lasts until the descriptor is closed."""
    device = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | IFF_VNET_HDR))
        try:
            fcntl.ioctl(device, TUNSETOFFLOAD, TCP | UDP)
        except OSError:  # Linux before 6.2 has none for UDP, and cuts its packets itself
            fcntl.ioctl(device, TUNSETOFFLOAD, TCP)
    except BaseException:
        os.close(device)
        raise
    return device
