"""What must arrive on the other side: the declared differences of a case, applied to what was sent. Pure.

Nothing here is taken from the product. What it computes is compared with what arrived, byte for byte; of a chunked body,
content and trailers are compared, because RFC 9112 §7.1 gives chunk boundaries and unknown extensions no meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.wire.messages import Head, Incomplete, name_of, split_chunked, split_head, split_responses
from tests.wire.rig import AUTHORIZATION, HOST

if TYPE_CHECKING:
    from tests.wire.corpus import Case

WITHOUT_CONTENT = (204, 304)


@dataclass(frozen=True, slots=True)
class Sent:
    """A message as it is compared: heads and trailers as bytes, content without its framing, and what follows it."""

    interim: tuple[bytes, ...]
    head: bytes
    content: bytes
    trailers: tuple[bytes, ...]
    rest: bytes


def expected_request(case: Case) -> Sent:
    """What the upstream must receive."""
    head, body = split_head(case.request.lstrip(b"\r\n"))
    method, target, _ = head.start.split(b" ")
    fields = [write_plainly(field) for field in head.fields if name_of(field) not in case.request_drops]
    if case.host:
        host = b"Host: " + HOST.encode()
        fields = [host if name_of(field) == b"host" else field for field in fields]
        if not head.values(b"host"):
            fields.insert(0, host)
    start = b"%b %b HTTP/1.1" % (method, case.target or target)
    if not case.version:
        assert head.start.endswith(b"HTTP/1.1")
    expected = bytes(Head(start, (*fields, *case.request_adds, AUTHORIZATION)))
    if head.is_chunked:
        content, trailers, _ = split_chunked(body)
        return Sent((), expected, content, _without(trailers, case.request_drops), b"")
    return Sent((), expected, body, (), b"")


def write_plainly(field: bytes) -> bytes:
    """A field that frames the message in the one form that everybody reads alike; others stay as they are."""
    name, _, value = field.partition(b":")
    if name.lower() == b"content-length":
        return b"%b: %d" % (name, int(value))
    return name + b": chunked" if name.lower() == b"transfer-encoding" else field


def read_request(raw: bytes) -> Sent:
    """What the upstream has received; `Incomplete` while some of it is missing."""
    head, body = split_head(raw)
    if head.is_chunked:
        content, trailers, rest = split_chunked(body)
        return Sent((), bytes(head), content, trailers, rest)
    size = int(b"".join(head.values(b"content-length")) or b"0")
    if len(body) < size:
        raise Incomplete
    return Sent((), bytes(head), body[:size], (), body[size:])


def expected_response(case: Case) -> Sent:
    """What the client must receive."""
    interim, head, body = split_responses(case.response)
    fields = [write_plainly(field) for field in head.fields if name_of(field) not in case.response_drops]
    passed = bytes(Head(b"HTTP/1.1" + head.start[8:], (*fields, *case.response_adds)))
    before = () if case.interim_drops else tuple(map(bytes, interim))
    if head.is_chunked and not _is_without_content(case, head):
        content, trailers, _ = split_chunked(body)
        return Sent(before, passed, content, () if case.dechunked else _without(trailers, case.response_drops), b"")
    return Sent(before, passed, body, (), b"")


def read_response(case: Case, raw: bytes, *, ended: bool) -> Sent:
    """What the client has received; `Incomplete` while some of it is missing."""
    interim, head, body = split_responses(raw)
    before = tuple(map(bytes, interim))
    if _is_without_content(case, head):
        return Sent(before, bytes(head), b"", (), body)
    if head.is_chunked:
        content, trailers, rest = split_chunked(body)
        return Sent(before, bytes(head), content, trailers, rest)
    lengths = head.values(b"content-length")
    if not lengths:
        if not ended:
            raise Incomplete
        return Sent(before, bytes(head), body, (), b"")
    size = int(lengths[0])
    if len(body) < size:
        raise Incomplete
    return Sent(before, bytes(head), body[:size], (), body[size:])


def _is_without_content(case: Case, head: Head) -> bool:
    return case.request.lstrip(b"\r\n").startswith(b"HEAD ") or head.status in WITHOUT_CONTENT


def _without(trailers: tuple[bytes, ...], drops: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(trailer for trailer in trailers if name_of(trailer) not in drops)
