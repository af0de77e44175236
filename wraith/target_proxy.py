"""The server's proxy: dials targets through it, and tells the operator when it does not work."""

from __future__ import annotations

import asyncio
import logging

from wraith_transports import Dialer, DuplexStream, ProxyFailed, ProxyFailure
from wraith_transports.proxy import ProxyUrl, dialer_for

from .logs import event

SAY_AGAIN_S = 60.0  # every channel of every client meets the same broken proxy

# The proxy's own troubles. What it says of a target is the client's to hear, and never logged (adr/006).
_OWN = frozenset({ProxyFailure.UNREACHABLE, ProxyFailure.BAD_CREDENTIALS, ProxyFailure.BAD_ANSWER})

logger = logging.getLogger(__name__)


class TargetProxy:
    """Dialer for targets. Clients hear of a broken proxy as a connection that failed; the log says why."""

    def __init__(self, proxy: ProxyUrl, dialer: Dialer | None = None) -> None:
        """Use `proxy`; `dialer` goes through it."""
        self._proxy = proxy
        self._dialer = dialer_for(proxy) if dialer is None else dialer
        self._silent_until: dict[ProxyFailure, float] = {}

    def describe(self) -> str:
        """Name the proxy."""
        return self._dialer.describe()

    async def dial(self, host: str, port: int) -> DuplexStream:
        """Have the proxy connect; see Dialer.dial."""
        try:
            return await self._dialer.dial(host, port)
        except ProxyFailed as error:
            if error.failure in _OWN:
                self._tell(error.failure, asyncio.get_running_loop().time())
            raise

    def _tell(self, failure: ProxyFailure, now: float) -> None:
        if now < self._silent_until.get(failure, now):
            return
        self._silent_until[failure] = now + SAY_AGAIN_S
        event(logger, logging.WARNING, "the proxy for targets failed", proxy=self._proxy, failure=failure.value)
