"""Which version of HTTP a connection of a client speaks: by ALPN under TLS, by its first bytes without. Does no I/O.

What HTTP/2 takes is imported when it is first spoken, so that whoever has none of it does not pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.relay.secure import SecureTransport

if TYPE_CHECKING:
    import asyncio

    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.http2.client import Http2ClientConnection
    from proxy.relay.state import Relay

# RFC 9113 §3.4. No request of HTTP/1.1 begins so: "PRI" is reserved for it.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def has_agreed_on_http2(transport: asyncio.BaseTransport) -> bool:
    """Whether the TLS handshake has ended in HTTP/2 (RFC 9113 §3.2)."""
    return isinstance(transport, SecureTransport) and transport.tls.selected_alpn_protocol() == "h2"


def begins_http2(data: bytes, least: int = 12) -> bool:
    """Whether a connection's first bytes are the preface of HTTP/2, or at `least` as many of it (RFC 9113 §3.3)."""
    return len(data) >= least and _PREFACE.startswith(data[: len(_PREFACE)])


def make_http2_client(
    relay: Relay, rule: DestinationRule, accepted: AcceptedConnection | None, peer: str
) -> Http2ClientConnection:
    """Return the protocol of a client's connection that speaks HTTP/2."""
    from proxy.relay.http2.client import Http2ClientConnection  # noqa: PLC0415  # see above

    return Http2ClientConnection(relay, rule, accepted, peer)
