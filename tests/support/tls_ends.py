"""The two ends of a TLS connection, one of them driven by hand."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from tests.support.certificates import LOCALHOST
from wraith_transports import DuplexStream, memory_pair
from wraith_transports.memory import MemoryStream
from wraith_transports.testing.case import comes
from wraith_transports.testing.recorder import Recorder
from wraith_transports.tls import TlsStream, Verification, client_context
from wraith_transports.tls.stream import RECORD

SERVER = LOCALHOST.server_context().ssl_context
CLIENT = client_context(Verification(insecure=True))
OVERHEAD = 1024  # of records, for 64 KiB of plaintext


class HandDriven(Recorder):
    """A TLS client whose every byte the test decides about, on the far end of a memory pair."""

    def __init__(self, inner: DuplexStream, context: ssl.SSLContext = CLIENT) -> None:
        super().__init__()
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        inner.attach(self)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.incoming.write(data)

    def say(self, data: bytes) -> None:
        self.tls.write(data)
        self.stream.write(self.outgoing.read())

    def say_goodbye(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        self.stream.write(self.outgoing.read())

    def hear(self) -> bytes:
        """Decrypt what has arrived, up to the other's close_notify."""
        heard = b""
        while True:
            try:
                piece = self.tls.read(RECORD)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return heard
            if not piece:
                return heard
            heard += piece

    async def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.stream.write(self.outgoing.read())
                assert await comes(lambda: self.incoming.pending > 0)
            else:
                self.stream.write(self.outgoing.read())
                return

    @property
    def said_goodbye(self) -> bool:
        """Whether the other's close_notify was among what `hear` read."""
        try:
            return not self.tls.read(1)
        except ssl.SSLZeroReturnError:
            return True
        except ssl.SSLWantReadError:
            return False


async def served_by_hand(context: ssl.SSLContext = CLIENT) -> tuple[HandDriven, TlsStream, MemoryStream]:
    """Give a client driven by hand, the server's TlsStream, and the memory stream below that."""
    near, far = memory_pair()
    peer, served = HandDriven(near, context), TlsStream(far, SERVER, server_side=True)
    await asyncio.gather(peer.handshake(), served.handshake())
    return peer, served, far


def attached(stream: DuplexStream, recorder: Recorder | None = None) -> Recorder:
    recorder = recorder or Recorder()
    stream.attach(recorder)
    return recorder
