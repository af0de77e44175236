"""Claims about what an emulated link decides, with time as an argument: delay, rate, queue, loss, large packets."""

from __future__ import annotations

import ipaddress
import random
import struct
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.lab.network.packet_path import Conditions, PacketPath
from tests.lab.network.segments import GSO_NONE, GSO_UDP, LENGTH, VIRTIO, cut, shape_of

GSO_TCP4, GSO_TCP6 = 1, 4
NEEDS_CHECKSUM = 1
SEGMENT = 1000
FIN_PSH_ACK = 0x19
V4 = ipaddress.ip_address("198.18.0.1").packed + ipaddress.ip_address("198.18.0.2").packed
V6 = ipaddress.ip_address("2001:db8::1").packed + ipaddress.ip_address("2001:db8::2").packed
SEQUENCE = 0xFFFFFF00  # wraps within the packet


def folded(*parts: bytes | bytearray) -> int:
    total: int = sum(word for part in parts for (word,) in struct.iter_unpack("!H", part))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def pseudo_header_sum(packet: bytes | bytearray) -> int:
    """Compute from scratch what the kernel leaves in the checksum field of a packet that it will finish later."""
    ip = packet[VIRTIO.size :]
    version = ip[0] >> 4
    addresses, protocol, start = (ip[12:20], ip[9], 20) if version == 4 else (ip[8:40], ip[6], 40)
    return folded(addresses, struct.pack("!HH", protocol, len(ip) - start))


def checksum_field(packet: bytes) -> int:
    *_, start, offset = VIRTIO.unpack_from(packet)
    return int(LENGTH.unpack_from(packet, VIRTIO.size + start + offset)[0])


def large(version: int, protocol: int, payload: bytes, size: int = SEGMENT) -> bytes:
    """Make a packet as a kernel hands it to a TUN device."""
    if protocol == 17:
        transport, kind, offset = struct.pack("!HHHH", 1, 2, 8 + len(payload), 0), GSO_UDP, 6
    else:
        flags = struct.pack("!BBHHH", 8 << 4, FIN_PSH_ACK, 1000, 0, 0) + bytes(12)
        transport, kind, offset = struct.pack("!HHII", 1, 2, SEQUENCE, 7) + flags, GSO_TCP4, 16
        kind = GSO_TCP4 if version == 4 else GSO_TCP6
    length = len(transport) + len(payload)
    if version == 4:
        ip = bytearray(struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0xFFFE, 0, 64, protocol, 0) + V4)
        LENGTH.pack_into(ip, 10, ~folded(ip) & 0xFFFF)
    else:
        ip = bytearray(struct.pack("!IHBB", 6 << 28, length, protocol, 64) + V6)
    virtio = VIRTIO.pack(NEEDS_CHECKSUM, kind, len(ip) + len(transport), size, len(ip), offset)
    packet = bytearray(virtio + ip + transport + payload)
    LENGTH.pack_into(packet, VIRTIO.size + len(ip) + offset, pseudo_header_sum(packet))
    return bytes(packet)


def plain(size: int) -> bytes:
    return VIRTIO.pack(0, GSO_NONE, 0, 0, 0, 0) + bytes(size)


@given(
    version=st.sampled_from((4, 6)),
    protocol=st.sampled_from((6, 17)),
    length=st.integers(SEGMENT + 1, 6 * SEGMENT),
    ends=st.sets(st.integers(1, 5)),
)
def test_a_large_packet_is_cut_into_correct_ones(version: int, protocol: int, length: int, ends: set[int]) -> None:
    payload = random.Random(length).randbytes(length)
    packet = large(version, protocol, payload)
    shape = shape_of(packet)
    assert shape.count == -(-length // SEGMENT)
    assert shape.wire_bytes(0, shape.count) == length + shape.count * shape.headers
    edges = [0, *sorted(end for end in ends if end < shape.count), shape.count]
    parts = [cut(packet, shape, *run) for run in pairwise(edges)]
    assert b"".join(part[VIRTIO.size + shape.headers :] for part in parts) == payload
    for part, (first, end) in zip(parts, pairwise(edges), strict=True):
        flags, kind, _, size, start, _ = VIRTIO.unpack_from(part)
        ip, rest = part[VIRTIO.size :][:start], part[VIRTIO.size + start :]
        assert (flags, kind != GSO_NONE, size) == (NEEDS_CHECKSUM, end - first > 1, SEGMENT if end - first > 1 else 0)
        assert checksum_field(part) % 0xFFFF == pseudo_header_sum(part) % 0xFFFF
        if version == 4:
            assert folded(ip) == 0xFFFF
            assert struct.unpack_from("!HH", ip, 2) == (len(ip) + len(rest), (0xFFFE + first) & 0xFFFF)
        else:
            assert LENGTH.unpack_from(ip, 4) == (len(rest),)
        if protocol == 17:
            assert LENGTH.unpack_from(rest, 4) == (len(rest),)
        else:
            assert struct.unpack_from("!I", rest, 4) == ((SEQUENCE + first * SEGMENT) & 0xFFFFFFFF,)
            assert rest[13] == (FIN_PSH_ACK if end == shape.count else FIN_PSH_ACK & ~0x09)


def test_an_uncut_packet_is_the_packet_itself() -> None:
    packet = large(4, 6, bytes(3 * SEGMENT))
    assert cut(packet, shape_of(packet), 0, 3) is packet


def test_packets_arrive_after_the_delay_and_in_order() -> None:
    path = PacketPath(Conditions(delay_s=0.05))
    path.put(plain(100), 1.0)
    path.put(plain(200), 1.01)
    assert path.next_at() == 1.05
    assert [*path.arrived(1.0499)] == []
    assert [*path.arrived(1.05)] == [plain(100)]
    assert [*path.arrived(2.0)] == [plain(200)]
    assert path.next_at() is None


def test_packets_leave_at_the_rate() -> None:
    path = PacketPath(Conditions(rate=100_000, queue=1 << 20))
    for _ in range(10):
        path.put(plain(1000), 5.0)
    path.put(plain(1000), 6.0)  # the link was idle since 5.1: that time is not made up for
    assert len([*path.arrived(5.0501)]) == 5
    assert len([*path.arrived(5.1001)]) == 5
    assert path.next_at() == 6.01


def test_a_large_packet_takes_the_time_of_its_segments_with_their_headers() -> None:
    packet = large(4, 6, bytes(4 * SEGMENT))
    headers = shape_of(packet).headers
    path = PacketPath(Conditions(rate=1e9, queue=1 << 20))
    path.put(packet, 0.0)
    assert path.next_at() == 4 * (SEGMENT + headers) / 1e9


def test_on_a_slow_link_the_first_segments_do_not_wait_for_the_last() -> None:
    path = PacketPath(Conditions(rate=100_000, queue=1 << 20))
    path.put(large(4, 6, bytes(4 * SEGMENT)), 0.0)
    first = path.next_at()
    assert first is not None
    assert first < 0.011
    assert len([*path.arrived(1.0)]) == 4


def test_what_the_queue_has_no_room_for_is_dropped_by_the_segment() -> None:
    path = PacketPath(Conditions(rate=1000, queue=2500))
    path.put(plain(1000), 0.0)
    path.put(large(4, 6, bytes(4 * SEGMENT)), 0.0)
    assert path.counters.overflowed == 3
    path.put(plain(1000), 0.0)
    assert path.counters.overflowed == 4
    assert sum(shape_of(each).count for each in path.arrived(60.0)) == 2


def test_an_idle_link_takes_a_packet_however_short_its_queue() -> None:
    path = PacketPath(Conditions(rate=1000, queue=0))
    path.put(plain(1000), 0.0)
    path.put(plain(1000), 0.5)
    path.put(plain(1000), 1.0)
    assert len([*path.arrived(60.0)]) == 2


def test_the_set_share_of_segments_is_lost_wherever_they_are() -> None:
    path = PacketPath(Conditions(loss=0.02), random.Random(1))
    for _ in range(1000):
        path.put(large(4, 6, bytes(9 * SEGMENT)), 0.0)
        path.put(plain(500), 0.0)
    arrived = sum(shape_of(each).count for each in path.arrived(0.0))
    assert arrived + path.counters.lost == path.counters.sent == 10_000
    assert 150 < path.counters.lost < 250


def test_everything_or_nothing_can_be_lost() -> None:
    for loss, expected in ((0.0, 3), (1.0, 0)):
        path = PacketPath(Conditions(loss=loss))
        path.put(large(6, 6, bytes(3 * SEGMENT)), 0.0)
        assert sum(shape_of(each).count for each in path.arrived(0.0)) == expected


def test_no_packet_overtakes_another_when_the_delay_becomes_less() -> None:
    path = PacketPath(Conditions(delay_s=1.0))
    path.put(plain(1), 0.0)
    path.set(Conditions(delay_s=0.1))
    path.put(plain(2), 0.1)
    assert [*path.arrived(0.9)] == []
    assert [*path.arrived(1.0)] == [plain(1), plain(2)]
