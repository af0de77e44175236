"""Chooses how connections are made: directly, or through the proxy a URL names."""

from __future__ import annotations

from ..tcp import DirectDialer, Family
from ..transport import Dialer
from .http import HttpConnectDialer
from .socks import SocksDialer
from .url import ProxyScheme, ProxyUrl


def dialer_for(proxy: ProxyUrl | None, family: Family = Family.ANY, *, peer_always_reads: bool = False) -> Dialer:
    """Make the dialer. With a proxy, `family` is about the connection to the proxy, which resolves all else.

    A peer that always reads, as a server of ours does, is taken for lost when it acknowledges nothing.
    """
    direct = DirectDialer(family=family, peer_always_reads=peer_always_reads)
    if proxy is None:
        return direct
    if proxy.scheme is ProxyScheme.HTTP:
        return HttpConnectDialer(direct, proxy)
    return SocksDialer(direct, proxy)
