"""What the lab's tests share: a lab of their own each, where this machine lets one be made."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.network.lab import Lab
from tests.lab.network.tun import DEVICE
from tests.support.tools import need, need_root


@pytest.fixture(scope="session")
def may_build() -> None:
    """Skip what needs networks of its own where they cannot be made."""
    need_root()
    need("ip", "nft")
    if not DEVICE.exists():
        pytest.skip(f"needs {DEVICE}")
    try:
        with Lab() as lab:
            lab.host("first")
    except RuntimeError as error:  # root of a container, perhaps
        pytest.skip(f"needs network namespaces: {error}")


@pytest.fixture
def lab(may_build: None) -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
