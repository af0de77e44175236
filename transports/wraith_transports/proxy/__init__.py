"""Connections through SOCKS5 and HTTP proxies."""

from __future__ import annotations

from .choice import dialer_for
from .http import HttpConnectDialer
from .socks import SocksDialer
from .url import ProxyScheme, ProxyUrl

__all__ = ["HttpConnectDialer", "ProxyScheme", "ProxyUrl", "SocksDialer", "dialer_for"]
