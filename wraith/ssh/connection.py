"""asyncssh's connections with the bounds it lacks: a gate for what we send, limits for what the peer asks."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, cast

import asyncssh
from asyncssh.connection import SSHConnection
from asyncssh.constants import MSG_REQUEST_SUCCESS
from asyncssh.packet import SSHPacket, String

from ..errors import WraithError
from .budget import CreditBudget
from .channel import PACKETS_A_TURN, ChannelStream
from .forward_requests import ClientForwardRequests, ForwardedHandler, ServerForwardRequests

if TYPE_CHECKING:
    from .link import SSHLink

TURN = 4  # packets (128 KiB) a channel sends before the next in line
MAX_RECEIVED_PACKET = 64 << 10  # asyncssh takes 256 KiB; our channels announce 32, and 35000 is all RFC 4253 asks
MAX_UNPARSED = 512 << 10  # bytes that may pile up while asyncssh awaits something within a packet
MAX_DEFERRED = 4096  # answers waiting for a key exchange to end; the peer may send none in that time
MAX_WAITING_REQUESTS = 16  # global requests; above it the peer is not read until some are answered
REKEY_TIMEOUT_S = 30.0

# Names of asyncssh 2.24 that are not public. The bounds depend on them: where they differ, wraith
# does not start rather than run without bounds.
_CONNECTION_NAMES = (
    "_channels",
    "_deferred_packets",
    "_global_request_queue",
    "_client_version",
    "_inpbuf",
    "_kex_complete",
    "_max_recv_pktlen",
    "_owner",
    "_recv_encryption",
    "_rekey_bytes_sent",
    "_server_version",
    "_session_id",
    "_transport",
)
_METHOD_NAMES = (
    "_make_global_request",
    "_make_keepalive_request",
    "_report_global_response",
    "_send_global_request",
    "_send_kexinit",
    "add_channel",
    "connection_lost",
    "create_task",
    "data_received",
    "pause_writing",
    "remove_channel",
    "resume_writing",
    "send_channel_open_confirmation",
    "send_channel_open_failure",
    "send_newkeys",
    "send_packet",
)
_SERVER_METHOD_NAMES = ("_finish_userauth", "reload_config", "validate_public_key")


class IncompatibleLibrary(WraithError):
    """The installed asyncssh is not one that wraith's bounds were written for."""


class Bounds:
    """What a bounded connection keeps beside asyncssh's own state."""

    def __init__(self, budget: CreditBudget) -> None:
        self.budget = budget
        self.line: deque[ChannelStream] = deque()  # channels with bytes and window, waiting for the gate
        self.link: SSHLink | None = None
        self.buffer_high = False
        self.pump_scheduled = False
        self.rekey_timer: asyncio.TimerHandle | None = None
        self.handshake_timers: list[asyncio.TimerHandle] = []
        self.exchanged: Callable[[], None] | None = None  # hears of the peer's first NEWKEYS
        self.forwarded: ForwardedHandler | None = None  # of a client: takes what comes to its remote forwards
        self.probing = False  # a keepalive is out that was sent by `probe`
        self.heard = 0  # how often bytes came; a clock may stand still between a question and its answer


class BoundedConnection(SSHConnection):
    """Overrides of asyncssh's connection, for both sides."""

    bounds: Bounds

    @property
    def channels(self) -> list[ChannelStream]:
        """The channels there are, those being opened and those still being read included; all are ours."""
        return list(cast("dict[int, ChannelStream]", self._channels).values())

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be sent any more, whatever has been told of it yet."""
        return self._transport is None

    # The gate

    @property
    def gate_open(self) -> bool:
        """Whether channel data may be sent: the stream takes it and no key exchange is under way."""
        return not self.bounds.buffer_high and self._kex_complete and self._transport is not None

    def pause_writing(self) -> None:
        """Close the gate."""
        self.bounds.buffer_high = True

    def resume_writing(self) -> None:
        """Open the gate."""
        self.bounds.buffer_high = False
        self._pump()

    def stand_in_line(self, channel: ChannelStream) -> None:
        """Let a channel wait for its turn."""
        self.bounds.line.append(channel)
        if self.gate_open:
            self._schedule_pump()

    def _schedule_pump(self) -> None:
        if not self.bounds.pump_scheduled:
            self.bounds.pump_scheduled = True
            self._loop.call_soon(self._pump_scheduled)

    def _pump_scheduled(self) -> None:
        self.bounds.pump_scheduled = False
        self._pump()

    def _pump(self) -> None:
        """Give those in line their turns, a few packets each, and yield to the loop after PACKETS_A_TURN."""
        line = self.bounds.line
        left = PACKETS_A_TURN
        while line and self.gate_open:
            if left <= 0:
                self._schedule_pump()
                return
            left -= max(1, line.popleft().turn_came(min(TURN, left)))

    # Key exchange

    def watch_handshake(self, version_s: float, key_exchange_s: float) -> None:
        """End the connection if the peer's version line, or its first NEWKEYS, takes longer than this."""
        later = self._loop.call_later
        self.bounds.handshake_timers = [
            later(version_s, self._version_expired, version_s),
            later(key_exchange_s, self._first_exchange_expired, key_exchange_s),
        ]

    def _version_expired(self, seconds: float) -> None:
        if not (self._server_version and self._client_version):
            self.connection_lost(asyncssh.ConnectionLost(f"no SSH version line within {seconds:g} s"))

    def _first_exchange_expired(self, seconds: float) -> None:
        if self._recv_encryption is None:
            self.connection_lost(asyncssh.ConnectionLost(f"key exchange not finished within {seconds:g} s"))

    def _send_kexinit(self) -> None:
        super()._send_kexinit()
        self._stop_rekey_timer()
        self.bounds.rekey_timer = self._loop.call_later(REKEY_TIMEOUT_S, self._rekey_expired)

    def send_newkeys(self, k: bytes, h: bytes) -> None:
        """Finish our half of a key exchange, and open the gate."""
        super().send_newkeys(k, h)
        self._stop_rekey_timer()
        self._schedule_pump()

    def _rekey_expired(self) -> None:
        self.connection_lost(asyncssh.KeyExchangeFailed(f"key exchange not finished within {REKEY_TIMEOUT_S:g} s"))

    def _stop_rekey_timer(self) -> None:
        if self.bounds.rekey_timer is not None:
            self.bounds.rekey_timer.cancel()
            self.bounds.rekey_timer = None

    # What the peer sends

    def data_received(self, data: bytes, datatype: Any = None) -> None:
        """Let asyncssh parse, then look at what it had to put aside."""
        if self._transport is None:
            return
        self.bounds.heard += 1
        # RFC 4253, section 9 counts both directions; asyncssh counts what it sends.
        self._rekey_bytes_sent += len(data)
        super().data_received(data, datatype)
        if self._recv_encryption is not None and self.bounds.exchanged is not None:
            self.bounds.exchanged()
            self.bounds.exchanged = None
        if len(self._deferred_packets) > MAX_DEFERRED:
            self.connection_lost(asyncssh.ProtocolError("too many requests during a key exchange"))
        elif len(self._inpbuf) > MAX_UNPARSED:
            self.connection_lost(asyncssh.ProtocolError("too much data before an answer"))
        elif len(self._global_request_queue) > MAX_WAITING_REQUESTS and self.bounds.link is not None:
            self.bounds.link.pause_reading("requests")

    def report_global_response(self, result: bool | bytes) -> None:
        """Answer the global request whose turn it is; nothing once the connection has ended."""
        if self._global_request_queue and self._transport is not None:
            self._report_global_response(result)

    async def request(self, name: bytes, *arguments: bytes) -> bytes | None:
        """Make a global request; the body of the answer, or None when it was refused or the session ended."""
        kind, packet = await self._make_global_request(name, *arguments)
        return packet.get_remaining_payload() if kind == MSG_REQUEST_SUCCESS else None

    def probe(self) -> None:
        """Send a keepalive now, unless one of these is unanswered; what comes back shows in `bounds.heard`."""
        if not self.bounds.probing:
            self.bounds.probing = True
            self.create_task(self._probe())

    async def _probe(self) -> None:
        try:
            await self._make_keepalive_request()
        finally:
            self.bounds.probing = False

    def tell(self, name: bytes, *arguments: bytes) -> None:
        """Make a global request that nobody answers."""
        if self._transport is not None:
            self._send_global_request(name, *arguments, want_reply=False)

    def _report_global_response(self, result: bool | bytes) -> None:
        super()._report_global_response(result)
        if len(self._global_request_queue) <= MAX_WAITING_REQUESTS and self.bounds.link is not None:
            self.bounds.link.resume_reading("requests")

    def _cleanup(self, exc: Exception | None) -> None:
        self._stop_rekey_timer()
        for timer in self.bounds.handshake_timers:
            timer.cancel()
        self.bounds.line.clear()
        super()._cleanup(exc)
        self.bounds.link = None


# asyncssh's own classes narrow attributes that their common base declares wider.
class BoundedClientConnection(  # pyright: ignore[reportIncompatibleVariableOverride]
    ClientForwardRequests, BoundedConnection, asyncssh.SSHClientConnection
):
    """The client's side."""


class KeyJudge(Protocol):
    """What a server's owner decides about a login."""

    def asked(self) -> None:
        """Take note of a request to log in, whatever it offers."""
        ...

    def key_offered(self, user: str, blob: bytes) -> asyncssh.SSHKey | None:
        """Judge a public key or certificate: the key that its signature has to fit, or None for a refusal."""
        ...

    def key_proven(self, blob: bytes, proven: bool) -> None:
        """Take note whether the signature of what was offered fits."""
        ...


# asyncssh's own classes narrow attributes that their common base declares wider.
class BoundedServerConnection(  # pyright: ignore[reportIncompatibleVariableOverride]
    ServerForwardRequests, BoundedConnection, asyncssh.SSHServerConnection
):
    """The server's side."""

    async def _finish_userauth(self, begin_auth: bool, method: bytes, packet: SSHPacket) -> None:
        # asyncssh answers requests without a key, or under ever new names, for as long as they come.
        if self._owner is not None:
            cast("KeyJudge", self._owner).asked()
        await super()._finish_userauth(begin_auth, method, packet)

    async def reload_config(self) -> None:
        """Keep the options: asyncssh would make them again, in a thread, for each new user name."""

    async def validate_public_key(self, username: str, key_data: bytes, msg: bytes, signature: bytes) -> bool:
        """Let the owner judge what is offered (asyncssh calls this, with a `msg` when it is signed).

        asyncssh's own judgement is left out: it would decide on certificates by itself.
        """
        judge = cast("KeyJudge", self._owner)
        key = judge.key_offered(username, key_data)
        if key is None or not msg:
            return key is not None
        # RFC 4252, section 7: the session identifier is signed along with the request.
        proven = key.verify(String(self._session_id) + msg, signature)
        judge.key_proven(key_data, proven)
        return proven


def bound(connection: SSHConnection, budget: CreditBudget) -> BoundedConnection:
    """Make a fresh connection of asyncssh's, not yet started, a bounded one.

    asyncssh creates its connections itself, whatever it runs over; changing the class of the new
    object is the one way in. Raises IncompatibleLibrary.
    """
    missing = [name for name in _CONNECTION_NAMES if not hasattr(connection, name)]
    if missing:
        raise _incompatible(missing)
    server = isinstance(connection, asyncssh.SSHServerConnection)
    connection.__class__ = BoundedServerConnection if server else BoundedClientConnection
    assert isinstance(connection, BoundedConnection)
    connection.bounds = Bounds(budget)
    connection._max_recv_pktlen = MAX_RECEIVED_PACKET  # noqa: SLF001 - see _CONNECTION_NAMES
    return connection


def check_library() -> None:
    """Raise IncompatibleLibrary if asyncssh lacks what the bounds depend on."""
    missing = [name for name in _METHOD_NAMES if not callable(getattr(SSHConnection, name, None))]
    server = asyncssh.SSHServerConnection
    missing += [name for name in _SERVER_METHOD_NAMES if not callable(getattr(server, name, None))]
    if missing:
        raise _incompatible(missing)


def _incompatible(missing: list[str]) -> IncompatibleLibrary:
    return IncompatibleLibrary(
        f"asyncssh {asyncssh.__version__} has no {', '.join(missing)}: "
        "wraith's bounds need asyncssh 2.24 or one like it"
    )


check_library()
