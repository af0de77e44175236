"""The algorithms that are offered, and the keys and signatures that are taken."""

from __future__ import annotations

import asyncio
import base64
import logging
import struct

import asyncssh
import pytest
from asyncssh.encryption import get_encryption_algs
from asyncssh.kex import get_kex_algs
from asyncssh.mac import get_mac_algs
from asyncssh.public_key import get_public_key_algs
from hypothesis import given
from hypothesis import strategies as st

from tests.support.loops import run
from wraith.ssh import algorithms

EVERYTHING = {
    *algorithms.KEY_EXCHANGES,
    *algorithms.CIPHERS,
    *algorithms.MACS,
    *algorithms.SIGNATURES,
}


def rsa_blob(bits: int) -> bytes:
    modulus = (1 << (bits - 1) | 1).to_bytes(bits // 8 + 1, "big")
    fields = (b"ssh-rsa", b"\x01\x00\x01", modulus)
    return b"".join(struct.pack(">I", len(each)) + each for each in fields)


def test_aes_comes_first_where_the_cpu_has_it() -> None:
    assert algorithms.select(EVERYTHING, aes_first=True).encryption_algs[0] == "aes128-gcm@openssh.com"
    assert algorithms.select(EVERYTHING, aes_first=False).encryption_algs[0] == algorithms.CHACHA20


def test_both_orders_hold_the_same_ciphers() -> None:
    with_aes = algorithms.select(EVERYTHING, aes_first=True).encryption_algs
    without = algorithms.select(EVERYTHING, aes_first=False).encryption_algs
    assert sorted(with_aes) == sorted(without) == sorted(algorithms.CIPHERS)


def test_post_quantum_key_exchange_comes_first() -> None:
    assert algorithms.select(EVERYTHING, aes_first=True).kex_algs[0] == "mlkem768x25519-sha256"


def test_what_a_build_lacks_is_left_out_and_named() -> None:
    chosen = algorithms.select(EVERYTHING - {algorithms.POST_QUANTUM, "aes256-ctr"}, aes_first=True)
    assert chosen.missing == (algorithms.POST_QUANTUM, "aes256-ctr")
    assert algorithms.POST_QUANTUM not in chosen.kex_algs
    assert "aes256-ctr" not in chosen.encryption_algs


def test_a_missing_post_quantum_exchange_is_a_warning_and_the_rest_one_info(caplog: pytest.LogCaptureFixture) -> None:
    missing = {algorithms.POST_QUANTUM, "aes256-ctr", "aes128-ctr"}
    with caplog.at_level(logging.INFO):
        algorithms.report_missing(algorithms.select(EVERYTHING - missing, aes_first=True))
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.WARNING]


def test_this_build_lacks_nothing_and_offers_nothing_old() -> None:
    available = {
        name.decode()
        for names in (get_kex_algs(), get_encryption_algs(), get_mac_algs(), get_public_key_algs())
        for name in names
    }
    chosen = algorithms.installed()
    assert chosen.missing == ()
    offered = {*chosen.kex_algs, *chosen.encryption_algs, *chosen.mac_algs, *chosen.signature_algs}
    assert offered <= available
    assert not [name for name in offered if "sha1" in name or name in ("ssh-rsa", "ssh-dss") or "cbc" in name]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu aes sse\n", True),
        ("processor : 0\nflags\t\t: fpu sse\n", False),
        ("Features\t: fp asimd aes pmull\n", True),
        ("Features\t: half thumb neon\n", False),
        ("flags : vaes_not_this\n", False),
        ("cpu : POWER9\n", True),
        ("", True),
    ],
)
def test_aes_is_read_from_cpuinfo_and_assumed_where_nobody_says(text: str, expected: bool) -> None:
    assert algorithms.lists_aes(text) is expected


def test_recorded_key_types_are_asked_for_first() -> None:
    assert algorithms.host_key_algorithms()[0] == "ssh-ed25519"
    assert algorithms.host_key_algorithms({"ssh-rsa"})[:3] == ("rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519")
    assert sorted(algorithms.host_key_algorithms({"ssh-rsa"})) == sorted(algorithms.SIGNATURES)


def test_host_certificates_are_asked_for_only_when_wanted() -> None:
    assert not [name for name in algorithms.host_key_algorithms() if "cert" in name]
    with_certificates = algorithms.host_key_algorithms(certificates=True)
    assert with_certificates[0] == "ssh-ed25519-cert-v01@openssh.com"
    assert "sk-ssh-ed25519-cert-v01@openssh.com" in with_certificates
    assert "rsa-sha2-512-cert-v01@openssh.com" in with_certificates
    assert set(algorithms.SIGNATURES) < set(with_certificates)


def test_the_version_tells_no_more_than_major_and_minor() -> None:
    name, _, version = algorithms.version_string().partition("_")
    assert name == "wraith"
    assert [part.isdigit() for part in version.split(".")] == [True, True]


@pytest.mark.parametrize(
    ("bits", "accepted"), [(1024, False), (2047, False), (2048, True), (16384, True), (17000, False)]
)
def test_rsa_keys_have_a_least_and_a_most_size(bits: int, accepted: bool) -> None:
    assert (algorithms.why_unacceptable(rsa_blob(bits)) is None) is accepted


@given(st.binary(max_size=200))
def test_any_bytes_are_judged_without_an_exception(blob: bytes) -> None:
    algorithms.why_unacceptable(blob)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=5))
def test_fields_are_split_as_they_were_joined(fields: list[bytes]) -> None:
    blob = b"".join(struct.pack(">I", len(each)) + each for each in fields)
    assert algorithms.blob_fields(blob) == tuple(fields)
    assert algorithms.blob_fields(blob + b"\0") == ()


def test_sha1_signatures_verify_until_they_are_refused() -> None:
    private = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    shown = asyncssh.import_public_key(private.export_public_key())
    old, new = private.sign(b"data", b"ssh-rsa"), private.sign(b"data", b"rsa-sha2-256")
    assert shown.verify(b"data", old)  # what asyncssh does by itself
    algorithms.refuse_old_signatures(shown)
    assert not shown.verify(b"data", old)
    assert shown.verify(b"data", new)


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256"])
def test_other_keys_verify_as_before(kind: str) -> None:
    private = asyncssh.generate_private_key(kind)
    shown = asyncssh.import_public_key(private.export_public_key())
    algorithms.refuse_old_signatures(shown)
    assert shown.verify(b"data", private.sign(b"data", kind.encode()))


def test_a_server_offers_its_rsa_key_without_sha1(loop_name: str) -> None:
    host_key = asyncssh.generate_private_key("ssh-rsa", key_size=2048)
    [pair] = asyncssh.load_keypairs(host_key)
    algorithms.refuse_old_host_key_algorithms(pair)

    class Visit(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            visits.append(conn)

    visits: list[asyncssh.SSHServerConnection] = []

    async def negotiate(host_key_algorithm: str) -> str:
        shared = algorithms.installed().arguments()
        try:
            async with asyncssh.listen(
                "127.0.0.1", 0, server_factory=Visit, server_host_keys=[pair], config=None, gss_host=None, **shared
            ) as server:
                key = await asyncssh.get_server_host_key(
                    "127.0.0.1", server.get_port(), server_host_key_algs=[host_key_algorithm], config=None
                )
        finally:
            # The server's end is closed a little later than the client's.
            while visits:
                await visits.pop().wait_closed()
            await asyncio.sleep(0.01)
        assert key is not None
        return base64.b64encode(key.public_data).decode()

    assert run(negotiate("rsa-sha2-512"), loop_name) in host_key.export_public_key().decode()
    with pytest.raises(asyncssh.KeyExchangeFailed):
        run(negotiate("ssh-rsa"), loop_name)
