"""A session channel (RFC 4254, section 6) that has no shell to give: one clear line, exit status 1."""

from __future__ import annotations

import asyncio

from asyncssh.packet import Boolean, SSHPacket, String, UInt32

from .channel import MSG_EXTENDED_DATA, MSG_FAILURE, MSG_REQUEST, MSG_SUCCESS, ChannelStream

STDERR = 1  # SSH_EXTENDED_DATA_STDERR
LINE = b"wraith: this server forwards connections and has no shell; use ssh -N with -L, -D or -W\r\n"


class RefusingChannel(ChannelStream):
    """Answers a request for a shell or a command with a line on stderr; refuses all else."""

    def process_packet(self, pkttype: int, pktid: int, packet: SSHPacket) -> bool:
        """Take a channel message (asyncssh calls this)."""
        if pkttype != MSG_REQUEST or self._close_sent:
            return super().process_packet(pkttype, pktid, packet)
        request = packet.get_string()
        wants_reply = packet.get_boolean()
        says_no = request in (b"shell", b"exec")
        # A terminal is granted and never made: ssh without one says a line of its own before ours.
        granted = says_no or request == b"pty-req"
        if wants_reply:
            self._send(MSG_SUCCESS if granted else MSG_FAILURE)
        if says_no:
            self._say_no()
        return True

    def _say_no(self) -> None:
        if self._peer_window >= len(LINE):
            self._send(MSG_EXTENDED_DATA, UInt32(STDERR), String(LINE))
        self._send(MSG_REQUEST, String(b"exit-status"), Boolean(False), UInt32(1))
        self.close()


def refuse_session(channel: ChannelStream) -> None:
    """Attach a protocol that drops whatever the client sends."""
    channel.attach(_Silent())


class _Silent(asyncio.Protocol):
    def data_received(self, data: bytes) -> None:
        """Drop what the client sends."""
