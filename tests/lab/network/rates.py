"""Measures the rate of plain TCP between two hosts of the lab, with iperf3."""

from __future__ import annotations

import json
import socket

from tests.lab.network.host import Host
from tests.lab.network.tcp_memory import await_tcp_memory
from tests.support.polling import eventually
from tests.support.tools import need

PORT = 5201  # iperf3's; each lab has hosts of its own, so that nobody else has it
LIMIT_S = 60.0


def tcp_mbit(sender: Host, receiver: Host, address: str, *flags: str) -> float:
    """Tell what arrives at `address` of the receiver, in Mbit/s; `flags` are iperf3's: how long or how much."""
    (iperf3,) = need("iperf3")
    await_tcp_memory()
    listening = receiver.popen(iperf3, "--server", "--one-off", "--bind", address)
    with receiver.inside():
        eventually(lambda: _is_taken(address), "iperf3 listens")
    done = sender.run(iperf3, "--client", address, "--json", *flags, limit_s=LIMIT_S)
    result = json.loads(done.stdout)
    assert "error" not in result, result["error"]
    listening.wait(LIMIT_S)
    return float(result["end"]["sum_received"]["bits_per_second"]) / 1e6


def _is_taken(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # then a bind fails for a listener alone
        try:
            probe.bind((address, PORT))
        except OSError:
            return True
    return False
