"""What the proxy says in its own name over HTTP/2: problem details, or for gRPC a status in trailers. Pure: does no I/O.

A gRPC client reads nothing but `grpc-status` and `grpc-message`. To any other status than 200 it makes up a message of its own,
"Received http2 header with status: 503", and nobody learns what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.errors import ProxyAuthenticationRequired, ProxyError
from proxy.relay.answers import NAME, format_problem, format_proxy_status

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field
    from proxy.relay.message import RequestHead

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_DEADLINE_EXCEEDED: Final = b"4"
_PERMISSION_DENIED: Final = b"7"
_RESOURCE_EXHAUSTED: Final = b"8"
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


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is a call of gRPC: by its content type, as everybody tells it. gRPC-Web is HTTP like any other."""
    if b"content-type" not in head.names:
        return False
    kind = head.value(b"content-type")
    return kind.startswith(b"application/grpc") and kind[len(b"application/grpc") :][:1] in (b"", b"+", b";")


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
    return [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", _GRPC_STATUSES.get(error.status, _INTERNAL)),
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
