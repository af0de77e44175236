"""A local forward: every connection to one local address is carried to one target."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wraith_transports import DuplexStream

from .local_listener import MAX_CONNECTIONS, LocalListener
from .logs import event
from .opening import Opener, OpenFailed
from .specs import LocalForwardSpec
from .waiting import WaitingStream

logger = logging.getLogger(__name__)


class LocalForward:
    """What `-L` starts. A connection whose target cannot be reached is reset."""

    def __init__(self, spec: LocalForwardSpec, opener: Opener, *, max_connections: int = MAX_CONNECTIONS) -> None:
        self._spec = spec
        self._opener = opener
        self._listener = LocalListener(spec.bind, self._serve, label=f"-L {spec}", max_connections=max_connections)

    async def start(self) -> None:
        """Bind, and accept from here on. Raises AddressUnavailable."""
        await self._listener.bind()
        self._listener.begin()

    def addresses(self) -> Sequence[str]:
        """Where it listens, as `host:port` with the real port."""
        return self._listener.addresses()

    def stop(self) -> None:
        """Stop listening; connections live on. Idempotent."""
        self._listener.stop()

    async def aclose(self) -> None:
        """Stop, and end every connection. Idempotent; never raises."""
        await self._listener.aclose()

    async def _serve(self, stream: DuplexStream) -> None:
        waiting = WaitingStream(stream)
        try:
            remote = await waiting.open(self._opener, self._spec.target)
        except OpenFailed as error:
            event(
                logger,
                logging.INFO,
                "forwarded connection failed",
                target=self._spec.target,
                reason=error.reason.value,
            )
            # A reset tells the program that this is a failure, not an empty answer.
            await waiting.abort()
            return
        if remote is None:
            await waiting.close()
        else:
            await waiting.join(remote)
