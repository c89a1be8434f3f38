"""A TLS handshake that fails inside a tunnel is logged with its cause, in our words (C8)."""

from __future__ import annotations

import asyncio
import ssl
from shutil import which
from typing import TYPE_CHECKING

import pytest

from proxy.explanations.codes import CODES
from proxy.relay.handshakes import _CAUSES, name_cause
from tests.wire.rig import HOST, PATIENCE_S, Rig, Wire, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence

NOTHING_OLD = ("-cipher", "ALL:@SECLEVEL=0")


async def try_openssl(rig: Rig, options: Sequence[str]) -> None:
    """Lets the real OpenSSL connect through the relay."""
    client = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-proxy", f"127.0.0.1:{rig.ports['forward']}", "-connect", f"{HOST}:443"),
        *("-servername", HOST, *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    await asyncio.wait_for(client.wait(), PATIENCE_S)


@pytest.mark.skipif(which("openssl") is None, reason="openssl is not installed")
@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), "NO_COMMON_CIPHER"),
        (("-tls1_2", "-sigalgs", "RSA+SHA256"), "NO_COMMON_CIPHER"),
        (("-tls1_3", "-sigalgs", "RSA-PSS+SHA256"), "CLIENT_TAKES_NO_ECDSA"),
        (("-tls1_1", *NOTHING_OLD), "NO_COMMON_TLS_VERSION"),
        (("-verify_return_error",), "CLIENT_DISTRUSTS_CA"),
    ],
)
def test_a_handshake_that_fails_is_logged_with_its_cause(uv_wire: Wire, options: tuple[str, ...], code: str) -> None:
    async def work(rig: Rig) -> None:
        await try_openssl(rig, options)
        await eventually(lambda: rig.records)
        assert (rig.records[-1].outcome, rig.records[-1].code) == ("tls_alert_received", code)

    uv_wire.run(work)


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "CLIENT_DISTRUSTS_CA"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "CLIENT_DISTRUSTS_CA"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "CLIENT_FINDS_CERTIFICATE_EXPIRED"),
        ("NO_SUITABLE_SIGNATURE_ALGORITHM", "CLIENT_TAKES_NO_ECDSA"),
        ("TLSV1_ALERT_PROTOCOL_VERSION", "NO_COMMON_TLS_VERSION"),
        ("PEER_DID_NOT_RETURN_A_CERTIFICATE", "TLS_HANDSHAKE_FAILED"),
        ("", "TLS_HANDSHAKE_FAILED"),
    ],
)
def test_openssls_reasons_have_names_of_ours(reason: str, code: str) -> None:
    error = ssl.SSLError(1, "[SSL] not for users")
    error.reason = reason
    assert name_cause(error) == code


def test_a_client_that_leaves_has_not_said_why() -> None:
    assert name_cause(ConnectionResetError()) == "TLS_HANDSHAKE_FAILED"
    assert {cause.code for cause in _CAUSES} <= set(CODES)
