"""A TLS handshake that fails inside a tunnel is logged with its cause, in our words (C8)."""

from __future__ import annotations

import asyncio
import ssl
from datetime import UTC, datetime
from shutil import which
from typing import TYPE_CHECKING

import pytest

from proxy.explanations.codes import CODES
from proxy.interception.authority import issue
from proxy.interception.contexts import ServerContexts
from proxy.interception.rsa import RSAKey
from proxy.relay.handshakes import _CAUSES, name_cause
from tests.wire.rig import HOST, PATIENCE_S, Peer, Rig, Trust, Wire, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
        (("-tls1_3", "-sigalgs", "RSA-PSS+SHA256"), "NO_COMMON_SIGNATURE"),
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


@pytest.mark.parametrize("is_split", [False, True], ids=["at once", "byte by byte"])
def test_a_client_that_takes_rsa_only_waits_for_an_rsa_certificate_and_gets_it(
    trust: Trust, uv_wire: Wire, is_split: bool
) -> None:
    """The handshake begins again from the bytes that came; others on the same context are shown what they were."""
    contexts = ServerContexts(issue([HOST], datetime.now(UTC), reason="created for tests"), [HOST])
    asked: list[bool] = []

    async def work(rig: Rig) -> None:
        key = await RSAKey().get()

        def fetch(host: str, on_arrival: Callable[[], None], /, *, rsa: bool = False) -> None:
            asked.append(rsa)
            contexts.show_rsa(host, key)
            asyncio.get_running_loop().call_later(0.01, on_arrival)

        rig.relay.server_context, rig.relay.fetch_context = contexts.context_for, fetch
        try:
            for ciphers, kind in (
                ("ECDHE-RSA-AES128-GCM-SHA256", "RSA"),
                ("ECDHE+AESGCM", "ECDSA"),
                ("ECDHE-ECDSA-AES128-SHA256", "ECDSA-AES128-SHA256"),  # what Java 7 has
                ("ECDHE-ECDSA-AES128-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256", "GCM"),
            ):
                client = await rig.client("forward")
                client.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
                await client.read_until()
                assert kind in await shake_hands(client, ciphers, is_split=is_split)
        finally:
            rig.relay.server_context, rig.relay.fetch_context = trust.contexts.context_for, None
        assert asked == [True]

    uv_wire.run(work)


async def shake_hands(client: Peer, ciphers: str, *, is_split: bool) -> str:
    """Completes a handshake of TLS 1.2; returns the cipher suite's name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(ciphers)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=HOST)
    while True:
        try:
            tls.do_handshake()
            break
        except ssl.SSLWantReadError:
            data = outgoing.read()
            if is_split:
                await client.send_split(data)
            else:
                client.send(data)
            await client.until(lambda peer: peer.received or peer.lost)
            incoming.write(client.take())
    cipher = tls.cipher()
    assert cipher is not None
    return cipher[0]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "CLIENT_DISTRUSTS_CA"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "CLIENT_DISTRUSTS_CA"),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", "CLIENT_FINDS_CERTIFICATE_EXPIRED"),
        ("NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_COMMON_SIGNATURE"),
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
