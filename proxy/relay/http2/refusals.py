"""What the proxy says in its own name over HTTP/2: problem details, or for gRPC a status in trailers. Pure: does no I/O.

A gRPC client reads nothing but `grpc-status` and `grpc-message`. To any other status than 200 it makes up a message of its own,
"Received http2 header with status: 503", and nobody learns what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyAuthenticationRequired, ProxyError, UpstreamUnreachable
from proxy.relay.answers import NAME, format_problem, format_proxy_status

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field
    from proxy.relay.message import RequestHead

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_DEADLINE_EXCEEDED: Final = b"4"
_PERMISSION_DENIED: Final = b"7"
_RESOURCE_EXHAUSTED: Final = b"8"
_UNIMPLEMENTED: Final = b"12"
_INTERNAL: Final = b"13"
_UNAVAILABLE: Final = b"14"
_UNAUTHENTICATED: Final = b"16"
_GRPC_STATUSES: Final[dict[int, bytes]] = {
    403: _PERMISSION_DENIED,
    407: _UNAUTHENTICATED,
    408: _DEADLINE_EXCEEDED,
    413: _RESOURCE_EXHAUSTED,
    421: _PERMISSION_DENIED,
    429: _RESOURCE_EXHAUSTED,
    431: _RESOURCE_EXHAUSTED,
    502: _UNAVAILABLE,
    503: _UNAVAILABLE,
    504: _DEADLINE_EXCEEDED,
}
_PERCENT: Final = 0x25
# The code of a call for which no HTTP/2 is spoken. It is not `UNAVAILABLE`, which clients repeat: only the configuration helps.
_NEEDS_HTTP2: Final = "grpc_needs_http2"


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is a call of gRPC: by its content type, as everybody tells it. gRPC-Web is HTTP like any other."""
    if b"content-type" not in head.names:
        return False
    kind = head.value(b"content-type")
    return kind.startswith(b"application/grpc") and kind[len(b"application/grpc") :][:1] in (b"", b"+", b";")


def refuse_grpc(destination: str, *, is_routed: bool) -> ProxyError:
    """Return why a call is not passed on: over HTTP/1.1 it would get no answer that its client understands.

    Args:
        destination: its name.
        is_routed: whether it is a route's, which has HTTP/2 switched off.
    """
    if is_routed:
        detail = (
            f"A gRPC call needs HTTP/2, and the route of {destination} has `http2: off`. Remove that from the route, and the call "
            "is passed on if the API offers HTTP/2."
        )
    else:
        detail = (
            f"A gRPC call needs HTTP/2, and no route names {destination}: requests of plain HTTP are passed on over HTTP/1.1. Add "
            "the host to a route, which connects to it with TLS, or connect without the proxy."
        )
    return UpstreamUnreachable(detail, code=_NEEDS_HTTP2)


def make_answer(error: ProxyError) -> tuple[list[Field], bytes]:
    """Return fields and content of the response for an error."""
    content = format_problem(error)
    fields = [
        (b":status", b"%d" % error.status),
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(content)),
        *_common_fields(error),
    ]
    return fields, content


def make_grpc_answer(error: ProxyError) -> list[Field]:
    """Return the only fields of the response to a call: Trailers-Only, in the protocol's words."""
    status = _UNIMPLEMENTED if error.code == _NEEDS_HTTP2 else _GRPC_STATUSES.get(error.status, _INTERNAL)
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", status),
        (b"grpc-message", _encode_message(f"{NAME}: {error.detail}")),
        *_common_fields(error),
    ]


def _common_fields(error: ProxyError) -> list[Field]:
    fields = [(b"proxy-status", format_proxy_status(error).encode("ascii")), (b"cache-control", b"no-store")]
    if error.retry_after_s is not None:
        fields.append((b"retry-after", b"%d" % error.retry_after_s))
    if isinstance(error, ProxyAuthenticationRequired):
        fields.append((b"proxy-authenticate", f'Basic realm="{NAME}", charset="UTF-8"'.encode("ascii")))
    return fields


def _encode_message(message: str) -> bytes:
    """Percent-encode what is not printable ASCII, and the percent sign."""
    encoded = bytearray()
    for byte in message.encode():
        if 0x20 <= byte <= 0x7E and byte != _PERCENT:
            encoded.append(byte)
        else:
            encoded += b"%%%02X" % byte
    return bytes(encoded)
