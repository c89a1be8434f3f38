"""HTTP/1.1 messages as the tests read them: on purpose nothing but splitting bytes, and nothing of the product's. No I/O."""

from __future__ import annotations

from dataclasses import dataclass


class Incomplete(Exception):  # noqa: N818  # a signal: more bytes are to come
    """The bytes end before the message does."""


@dataclass(frozen=True, slots=True)
class Head:
    """A head: its first line, and its field lines without CRLF."""

    start: bytes
    fields: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"".join(line + b"\r\n" for line in (self.start, *self.fields)) + b"\r\n"

    def values(self, name: bytes) -> list[bytes]:
        """The values of a field, in order."""
        return [field.partition(b":")[2].strip() for field in self.fields if name_of(field) == name]

    @property
    def status(self) -> int:
        return int(self.start[9:12])

    @property
    def is_chunked(self) -> bool:
        return b"chunked" in b",".join(self.values(b"transfer-encoding")).lower()


def name_of(field: bytes) -> bytes:
    """The name of a field line, in lower case."""
    return field.partition(b":")[0].lower()


def split_head(raw: bytes) -> tuple[Head, bytes]:
    """A head, and what follows it."""
    head, end, rest = raw.partition(b"\r\n\r\n")
    if not end:
        raise Incomplete
    start, *fields = head.split(b"\r\n")
    return Head(start, tuple(fields)), rest


def split_chunked(raw: bytes) -> tuple[bytes, tuple[bytes, ...], bytes]:
    """Content, trailer lines without CRLF, and what follows a chunked body."""
    content = b""
    while True:
        line, end, raw = raw.partition(b"\r\n")
        if not end:
            raise Incomplete
        size = int(line.partition(b";")[0], 16)
        if size == 0:
            break
        if len(raw) < size + 2:
            raise Incomplete
        content += raw[:size]
        assert raw[size : size + 2] == b"\r\n"
        raw = raw[size + 2 :]
    trailers: list[bytes] = []
    while True:
        line, end, raw = raw.partition(b"\r\n")
        if not end:
            raise Incomplete
        if not line:
            return content, tuple(trailers), raw
        trailers.append(line)


def chunked(*pieces: bytes, trailers: bytes = b"") -> bytes:
    """A chunked body, one chunk a piece."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n" + trailers + b"\r\n"


def split_responses(raw: bytes) -> tuple[list[Head], Head, bytes]:
    """Interim heads, the final head, and what follows it."""
    interim: list[Head] = []
    while True:
        head, raw = split_head(raw)
        if head.status >= 200 or head.status == 101:
            return interim, head, raw
        interim.append(head)
