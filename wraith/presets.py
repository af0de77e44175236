"""The transports by name: which outer carrier and which security each `--transport` stands for."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .specs import Scheme


class Outer(Enum):
    """What carries the bytes across the network."""

    TCP = "tcp"


class Security(Enum):
    """What protects the carrier, below SSH's own protection."""

    RAW = "raw"
    TLS = "tls"


@dataclass(frozen=True, slots=True)
class Preset:
    """What a transport's name stands for."""

    outer: Outer
    security: Security


PRESETS = {
    Scheme.TCP: Preset(Outer.TCP, Security.RAW),
    Scheme.TLS: Preset(Outer.TCP, Security.TLS),
}
