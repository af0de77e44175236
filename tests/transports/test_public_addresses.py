"""Which addresses `--deny-private` lets through: the global ones, however an IPv4 address is wrapped."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Run
from wraith_transports import DialError, DialFailure, is_public
from wraith_transports.tcp import DirectDialer

PUBLIC = ["8.8.8.8", "1.1.1.1", "192.0.0.9", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e"]
PRIVATE = {
    "unspecified": ["0.0.0.0", "0.0.0.1", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "RFC 1918": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1"],
    "carrier-grade NAT": ["100.64.0.1", "100.127.255.255"],
    "link-local": ["169.254.169.254", "fe80::1", "fe80::1%eth0"],
    "unique local": ["fc00::1", "fd12:3456::1"],
    "site-local": ["fec0::1", "feff::1"],
    "multicast": ["224.0.0.1", "239.255.255.250", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["255.255.255.255", "240.0.0.1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"],
    "benchmarks": ["198.18.0.1"],
    "discard": ["100::1"],
    "Teredo": ["2001:0:53aa:64c::1"],
    "NAT64 of a network's own": ["64:ff9b:1::808:808"],
    "no address": ["", "localhost", "127.1", "0x7f000001", "[::1]", "8.8.8.8 ", "\uff18.8.8.8"],
}
WRAPPINGS = {
    "mapped": "::ffff:{}",
    "NAT64": "64:ff9b::{}",
    "compatible": "::{}",
    "translated": "::ffff:0:{}",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_global_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("kind", PRIVATE)
def test_all_others_are_not(kind: str) -> None:
    assert [address for address in PRIVATE[kind] if is_public(address)] == []


@pytest.mark.parametrize("wrapping", WRAPPINGS.values(), ids=WRAPPINGS)
@given(address=st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_the_same_in_any_wrapping(wrapping: str, address: ipaddress.IPv4Address) -> None:
    assert is_public(wrapping.format(address)) == is_public(str(address))


@given(st.ip_addresses(v=4))
def test_a_6to4_address_is_judged_by_the_ipv4_address_it_leads_to(address: ipaddress.IPv4Address) -> None:
    prefix = int.from_bytes(address.packed, "big")
    wrapped = ipaddress.IPv6Address((0x2002 << 112) | (prefix << 80) | 1)
    assert is_public(str(wrapped)) == is_public(str(address))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost", "127.1", "0x7f.0.0.1", "0", "::"]
)
def test_what_is_dialled_is_what_was_judged(host: str, run: Run) -> None:
    async def scenario() -> DialFailure:
        with pytest.raises(DialError) as caught:
            await DirectDialer(allows=is_public).dial(host, 9)
        return caught.value.reason

    assert run(scenario()) is DialFailure.NOT_ALLOWED
