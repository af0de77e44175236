"""The SOCKS port of `wraith connect`: carries each connection to the target it asks for."""

from __future__ import annotations

from collections.abc import Sequence

from wraith.errors import UsageError
from wraith.local_listener import MAX_CONNECTIONS, LocalListener
from wraith.opening import Opener
from wraith.specs import SocksSpec
from wraith_transports import DuplexStream

from .conversation import STALL_TIMEOUT_S, serve_socks
from .credentials import Credentials


class SocksListener:
    """What `-D` starts. Names are sent to the other side as they are, never resolved here."""

    def __init__(
        self,
        spec: SocksSpec,
        opener: Opener,
        *,
        credentials: Credentials | None = None,
        open_to_all: bool = False,
        stall_timeout_s: float = STALL_TIMEOUT_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        """Say where to listen, and who may use it.

        With `credentials` every client must log in. Without, the address must be one that only this
        machine can reach, unless `open_to_all`.
        """
        self._spec = spec
        self._opener = opener
        self._credentials = credentials
        self._open_to_all = open_to_all
        self._stall_timeout_s = stall_timeout_s
        self._listener = LocalListener(spec.bind, self._serve, label=f"-D {spec}", max_connections=max_connections)

    async def start(self) -> None:
        """Bind, and accept from here on. Raises AddressUnavailable, or UsageError if strangers could use it."""
        await self._listener.bind()
        # Judged by what was bound, because a name may stand for any address.
        if self._credentials is None and not self._open_to_all and not self._listener.is_private():
            await self._listener.aclose()
            raise UsageError(
                f"-D {self._spec}: everybody who reaches this address could use the session without a password; "
                "bind 127.0.0.1, or give --socks5-auth-file or --socks5-open"
            )
        self._listener.begin()

    def addresses(self) -> Sequence[str]:
        """Where it listens, as `host:port` with the real port, or a path."""
        return self._listener.addresses()

    def stop(self) -> None:
        """Stop listening; connections live on. Idempotent."""
        self._listener.stop()

    async def aclose(self) -> None:
        """Stop, and end every connection. Idempotent; never raises."""
        await self._listener.aclose()

    async def _serve(self, stream: DuplexStream) -> None:
        await serve_socks(stream, self._opener, self._credentials, stall_timeout_s=self._stall_timeout_s)
