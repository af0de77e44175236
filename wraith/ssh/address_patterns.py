"""The addresses a peer may come from, as `from=` in authorized_keys and `source-address` in a certificate list them."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from .wildcards import matches_wildcard

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Stands for a peer that is known by its key and not by an address: a rule on addresses never lets it in.
KEY_PEERS = ipaddress.IPv6Network("100::/64")
MAX_SOURCE_ADDRESS = 46 + 3  # characters of one, as sshd: the longest IPv6 address and its prefix length

_SOURCE_ADDRESS = re.compile(r"[0-9a-fA-F.:/]+")
_INET_ATON = re.compile(r"[0-9a-fA-FxX.]+")


class BadAddressList(ValueError):
    """A list of addresses cannot be read; the text says which part, and why."""


@dataclass(frozen=True, slots=True)
class _Element:
    negated: bool
    network: Network | None  # None: a pattern
    pattern: str


@dataclass(frozen=True, slots=True)
class FromPatterns:
    """The list of a `from=`: addresses, networks and wildcards, each with or without `!`."""

    elements: tuple[_Element, ...]

    def matches(self, address: str) -> bool:
        """Whether one element matches and none with `!` does, as in sshd with UseDNS no: names never match."""
        peer = read_address(address)
        if peer is None or peer in KEY_PEERS:
            return False
        found = False
        for element in self.elements:
            if element.network is not None:
                hit = peer in element.network
            else:
                hit = matches_wildcard(element.pattern, str(peer))
            if hit and element.negated:
                return False
            found = found or hit
        return found


@dataclass(frozen=True, slots=True)
class SourceAddresses:
    """The list of a certificate's `source-address`: addresses and networks, and nothing else."""

    networks: tuple[Network, ...]

    def matches(self, address: str) -> bool:
        """Whether the peer's address is in one of them."""
        peer = read_address(address)
        if peer is None or peer in KEY_PEERS:
            return False
        return any(peer in network for network in self.networks)


def parse_from(text: str) -> FromPatterns:
    """Read the value of `from=`. Raises BadAddressList for what sshd would let nobody in by."""
    return FromPatterns(tuple(_parse_element(each) for each in text.split(",")))


def parse_source_addresses(text: str) -> SourceAddresses:
    """Read the value of a certificate's `source-address`. Raises BadAddressList."""
    networks = []
    for each in text.split(","):
        if len(each) > MAX_SOURCE_ADDRESS or not _SOURCE_ADDRESS.fullmatch(each):
            raise BadAddressList(f"{each[:64]!a} is not an address or network")
        network = _parse_network(each)
        if network is None:
            raise BadAddressList(f"{each!a} is not an address or network")
        networks.append(network)
    return SourceAddresses(tuple(networks))


def read_address(text: str) -> Address | None:
    """Read a peer's address, without its zone and never in the v4-mapped form; None when it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if isinstance(mapped, ipaddress.IPv4Address) else address


def _parse_element(text: str) -> _Element:
    negated = text.startswith("!")
    body = text.removeprefix("!")
    if not body:
        raise BadAddressList("an element of the list is empty")
    network = _parse_network(body)
    if network is None and _means_an_address(body):
        # sshd reads 127.1 and 0177.0.0.1 as addresses. As a pattern `!127.1` would keep nobody out.
        raise BadAddressList(f"{body[:64]!a} is an address in an unusual form: write it in full")
    # Lower case, as addresses are written; sshd lowers the pattern too.
    return _Element(negated, network, body.lower())


def _parse_network(text: str) -> Network | None:
    """Read an address or ADDRESS/BITS; None for anything else. Raises BadAddressList for a wrong length."""
    address, slash, bits = text.partition("/")
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return None
    if "%" in address:
        return None
    if slash and not (bits.isascii() and bits.isdecimal()):
        return None
    try:
        network = ipaddress.ip_network(text)
    except ValueError as error:
        raise BadAddressList(f"{text[:64]!a}: the address and the length of the network do not agree") from error
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise BadAddressList(f"{text[:64]!a}: IPv4 peers are matched by IPv4 addresses")
    return network


def _means_an_address(text: str) -> bool:
    if not _INET_ATON.fullmatch(text):
        return False
    try:
        socket.inet_aton(text)
    except OSError:
        return False
    return True
