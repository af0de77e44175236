"""Cuts the large packets that kernels hand over whole (GSO) into those that would be on the wire.

A packet here begins with the virtio header that a TUN device with IFF_VNET_HDR puts before it (linux/virtio_net.h).
With it the kernel leaves up to 64 KiB of TCP or UDP payload in one piece, to be cut later into segments of `gso_size`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

VIRTIO = struct.Struct("=BBHHHH")  # flags, GSO type, header length, GSO size, checksum start, checksum offset
LENGTH = struct.Struct("!H")
SEQUENCE = struct.Struct("!I")

GSO_NONE = 0
GSO_UDP = 5  # VIRTIO_NET_HDR_GSO_UDP_L4; the others are TCP's, with or without the bit for ECN
UDP_HEADER = 8

FIN_PSH = 0x09  # of the last segment alone
CWR = 0x80  # of the first segment alone


@dataclass(frozen=True, slots=True)
class Shape:
    """How a packet will look on the wire: `count` segments of `size` payload bytes after `headers`, the last shorter.

    `total` is the length of the packet as it is, without the virtio header.
    """

    count: int
    size: int
    headers: int
    total: int

    def wire_bytes(self, first: int, end: int) -> int:
        """Count the bytes of segments `first` to before `end`, each with headers of its own."""
        payload = min(end * self.size, self.total - self.headers) - first * self.size
        return payload + (end - first) * self.headers


def shape_of(packet: bytes) -> Shape:
    total = len(packet) - VIRTIO.size
    _, kind, _, size, transport, _ = VIRTIO.unpack_from(packet)
    if kind == GSO_NONE:
        return Shape(1, total, 0, total)
    # TCP says how many words its header has, options included.
    own = UDP_HEADER if kind == GSO_UDP else (packet[VIRTIO.size + transport + 12] >> 4) * 4
    headers = transport + own
    return Shape(-(-(total - headers) // size), size, headers, total)


def cut(packet: bytes, shape: Shape, first: int, end: int) -> bytes:
    """Give segments `first` to before `end` as a packet of their own, large again if they are several."""
    if (first, end) == (0, shape.count):
        return packet
    flags, kind, _, size, transport, checksum = VIRTIO.unpack_from(packet)
    start = VIRTIO.size + shape.headers
    payload = packet[start + first * size : start + end * size]
    head = bytearray(packet[VIRTIO.size : start])
    _set_network_length(head, len(payload), first)
    old, new = shape.total - transport, shape.headers - transport + len(payload)
    # The checksum is still to be made: its field holds the sum of the pseudo header, in which the length is a term.
    _add(head, transport + checksum, new - old)
    if kind == GSO_UDP:
        LENGTH.pack_into(head, transport + 4, new)
    else:
        _set_tcp(head, transport, first * size, is_last=end == shape.count)
    several = end - first > 1
    virtio = VIRTIO.pack(
        flags, kind if several else GSO_NONE, shape.headers, size if several else 0, transport, checksum
    )
    return virtio + head + payload


def _set_network_length(head: bytearray, payload: int, first: int) -> None:
    if head[0] >> 4 == 6:
        LENGTH.pack_into(head, 4, len(head) - 40 + payload)
        return
    (number,) = LENGTH.unpack_from(head, 4)
    LENGTH.pack_into(head, 2, len(head) + payload)
    LENGTH.pack_into(head, 4, number + first & 0xFFFF)  # as the kernel numbers them
    LENGTH.pack_into(head, 10, 0)
    words = struct.unpack_from(f"!{(head[0] & 15) * 2}H", head)
    LENGTH.pack_into(head, 10, ~_folded(sum(words)) & 0xFFFF)


def _set_tcp(head: bytearray, transport: int, offset: int, *, is_last: bool) -> None:
    (sequence,) = SEQUENCE.unpack_from(head, transport + 4)
    SEQUENCE.pack_into(head, transport + 4, sequence + offset & 0xFFFFFFFF)
    if offset:
        head[transport + 13] &= ~CWR
    if not is_last:
        head[transport + 13] &= ~FIN_PSH


def _add(head: bytearray, at: int, difference: int) -> None:
    (value,) = LENGTH.unpack_from(head, at)
    # Arithmetic without carry out (RFC 1071): minus n is plus its complement.
    LENGTH.pack_into(head, at, _folded(value + (difference if difference >= 0 else 0xFFFF + difference)))


def _folded(total: int) -> int:
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
