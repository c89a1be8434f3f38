"""Which versions of HTTP an API offers, and what the proxy uses them for, in words for those who know neither. Does no I/O."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from proxy.config.settings import Http2
from proxy.doctor.findings import error, ok

if TYPE_CHECKING:
    from proxy.doctor.findings import Finding


class Offer(Enum):
    """What an API has said in its TLS handshakes (RFC 7301)."""

    HTTP_1 = "HTTP/1.1"
    BOTH = "HTTP/1.1 and HTTP/2"
    HTTP_2 = "HTTP/2 only"
    UNKNOWN = "HTTP/1.1, and perhaps HTTP/2"


_NUMBERS: Final[dict[Offer, list[str]]] = {
    Offer.HTTP_1: ["1.1"],
    Offer.BOTH: ["1.1", "2"],
    Offer.HTTP_2: ["2"],
    Offer.UNKNOWN: ["1.1"],
}
_USES: Final[dict[tuple[Offer, Http2], str]] = {
    (Offer.HTTP_1, Http2.NEEDED): "The proxy uses that. gRPC needs HTTP/2, so gRPC calls to this API fail.",
    (Offer.HTTP_1, Http2.PREFERRED): "The proxy uses that, although the route has `http2: preferred`. gRPC calls fail.",
    (Offer.BOTH, Http2.NEEDED): "The proxy uses HTTP/1.1, and HTTP/2 for gRPC calls.",
    (
        Offer.BOTH,
        Http2.PREFERRED,
    ): "The proxy uses HTTP/2, as the route says (`http2: preferred`), and HTTP/1.1 for WebSockets.",
    (Offer.HTTP_2, Http2.NEEDED): "The proxy uses that for all requests. WebSockets, which need HTTP/1.1 here, fail.",
    (
        Offer.HTTP_2,
        Http2.PREFERRED,
    ): "The proxy uses that for all requests. WebSockets, which need HTTP/1.1 here, fail.",
    (Offer.UNKNOWN, Http2.NEEDED): "The proxy uses HTTP/1.1, and tries HTTP/2 for gRPC calls.",
    (Offer.UNKNOWN, Http2.PREFERRED): "The proxy tries HTTP/2 first, as the route says (`http2: preferred`).",
}


def judge_offer(subject: str, offer: Offer, http2: Http2) -> Finding:
    """Return the line on one API's versions; an error where the route leaves none that both speak."""
    numbers = _NUMBERS[offer]
    if http2 is not Http2.OFF:
        return ok(subject, f"It offers {offer.value}. {_USES[offer, http2]}", http_versions=numbers)
    if offer is Offer.HTTP_2:
        return error(
            subject,
            "It offers HTTP/2 only, and the route has `http2: off`.",
            "Remove that line.",
            http_versions=numbers,
        )
    return ok(
        subject,
        f"It offers {offer.value}. The proxy uses HTTP/1.1, as the route says (`http2: off`). gRPC calls fail.",
        http_versions=numbers,
    )
