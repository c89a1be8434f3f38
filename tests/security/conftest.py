"""Certificates for all the security tests; making keys is slow."""

from __future__ import annotations

import pytest

from tests.wire.rig import Trust


@pytest.fixture(scope="session")
def trust() -> Trust:
    return Trust.create()
