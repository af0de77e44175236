"""A security key in software (PROTOCOL.u2f), and an ssh-agent through which real clients use it."""

from __future__ import annotations

import base64
import hashlib
import socketserver
import struct
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

APPLICATION = "ssh:"
USER_PRESENT = 0x01  # somebody has touched it


def string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def mpint(number: int) -> bytes:
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


@dataclass
class SecurityKey:
    """An Ed25519 or ECDSA key that signs as a token does: over application, flags and a counter."""

    kind: str = "ed25519"  # or ecdsa
    flags: int = USER_PRESENT
    counter: int = 0
    private: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey = field(init=False)

    def __post_init__(self) -> None:
        generate = ed25519.Ed25519PrivateKey.generate
        self.private = generate() if self.kind == "ed25519" else ec.generate_private_key(ec.SECP256R1())

    @property
    def algorithm(self) -> bytes:
        return b"sk-ssh-ed25519@openssh.com" if self.kind == "ed25519" else b"sk-ecdsa-sha2-nistp256@openssh.com"

    @property
    def public_blob(self) -> bytes:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            point = string(self.private.public_key().public_bytes_raw())
        else:
            encoded = self.private.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
            point = string(b"nistp256") + string(encoded)
        return string(self.algorithm) + point + string(APPLICATION.encode())

    @property
    def public_line(self) -> str:
        return f"{self.algorithm.decode()} {base64.b64encode(self.public_blob).decode()} token"

    def sign(self, data: bytes) -> bytes:
        """Give a signature as SSH carries it."""
        self.counter += 1
        tail = struct.pack(">BI", self.flags, self.counter)
        message = hashlib.sha256(APPLICATION.encode()).digest() + tail + hashlib.sha256(data).digest()
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            signature = self.private.sign(message)
        else:
            r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(hashes.SHA256())))
            signature = mpint(r) + mpint(s)
        return string(self.algorithm) + string(signature) + tail


REQUEST_IDENTITIES, IDENTITIES_ANSWER = 11, 12
SIGN_REQUEST, SIGN_RESPONSE = 13, 14
FAILURE = 5


class TokenAgent:
    """Speaks the agent protocol for security keys, from `with` to the end of the block."""

    def __init__(self, folder: Path, *keys: SecurityKey) -> None:
        self.socket = folder / "token-agent.sock"
        self._keys = {key.public_blob: key for key in keys}
        agent = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(head := self.rfile.read(4)) == 4:
                    answer = agent.answer(self.rfile.read(int.from_bytes(head, "big")))
                    self.wfile.write(string(answer))

        self._server = socketserver.ThreadingUnixStreamServer(str(self.socket), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self.socket.unlink(missing_ok=True)

    def answer(self, request: bytes) -> bytes:
        if request[:1] == bytes([REQUEST_IDENTITIES]):
            listed = b"".join(string(blob) + string(b"token") for blob in self._keys)
            return bytes([IDENTITIES_ANSWER]) + struct.pack(">I", len(self._keys)) + listed
        if request[:1] == bytes([SIGN_REQUEST]):
            blob, rest = _take_string(request[1:])
            data, _flags = _take_string(rest)
            if blob in self._keys:
                return bytes([SIGN_RESPONSE]) + string(self._keys[blob].sign(data))
        return bytes([FAILURE])


def _take_string(data: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(data[:4], "big")
    return data[4:end], data[end:]
