"""Reads HTTP/1.1 messages as a strict peer would, without the product's code, and makes content that tells whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def content_of(kind: bytes, number: int, size: int) -> bytes:
    """Return content that no other message has: `kind` is ``q`` for a request's, ``r`` for a response's."""
    mark = kind + b"%07d" % number
    return (mark * (size // 8 + 1))[:size]


def in_chunks(content: bytes, first: int) -> bytes:
    """Return content in two chunks at most, the first of so many bytes."""
    pieces = [piece for piece in (content[:first], content[first:]) if piece]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@dataclass
class Message:
    """A message as far as it has come.

    Attributes:
        length: of the content; -1: chunked; -2: until the connection ends.
    """

    first: bytes
    fields: list[tuple[bytes, bytes]]
    length: int
    content: bytearray = field(default_factory=bytearray)
    is_whole: bool = False

    @property
    def status(self) -> int:
        return int(self.first.split(b" ")[1])

    def values(self, name: bytes) -> list[bytes]:
        return [value for each, value in self.fields if each == name]

    def value(self, name: bytes) -> bytes:
        return b", ".join(self.values(name))


class Reader:
    """Takes bytes, gives messages: once when the head is there, once when the message is whole.

    Args:
        responses: what is read are responses.
        answers_head: asked at each response's head whether it answers HEAD.

    Attributes:
        message: what is being read; None between two messages.
    """

    def __init__(self, *, responses: bool, answers_head: Callable[[], bool] = bool) -> None:
        self.message: Message | None = None
        self._answers_head = answers_head
        self._responses = responses
        self.rest = bytearray()
        self._left = 0
        self._in_chunk = False

    def feed(self, data: bytes) -> Iterator[tuple[Message, bool]]:
        """Yield messages whose head has come (False), or which have become whole (True), in order.

        Raises:
            ValueError: that is no HTTP.
        """
        self.rest += data
        while True:
            if self.message is None:
                head, end, _ = self.rest.partition(b"\r\n\r\n")
                if not end:
                    return
                del self.rest[: len(head) + 4]
                yield self._begin(bytes(head)), False
            message = self.message
            assert message is not None
            if message.length == -1:
                self._read_chunks(message)
            else:
                size = len(self.rest) if message.length == -2 else min(self._left, len(self.rest))
                message.content += self.rest[:size]
                del self.rest[:size]
                self._left -= size
                message.is_whole = message.length >= 0 and self._left == 0
            if not message.is_whole:
                return
            self.message = None
            yield message, True

    def _begin(self, head: bytes) -> Message:
        first, *lines = head.split(b"\r\n")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
        message = self.message = Message(first, fields, 0)
        if self._responses and (self._answers_head() or message.status in (204, 304) or message.status < 200):
            self._left = 0
        elif message.value(b"transfer-encoding") == b"chunked":
            message.length = -1
        elif message.values(b"content-length"):
            self._left = message.length = int(message.value(b"content-length"))
        elif self._responses:
            message.length = -2
        return message

    def _read_chunks(self, message: Message) -> None:
        while True:
            if self._in_chunk:
                size = min(self._left, len(self.rest))
                message.content += self.rest[: min(size, max(self._left - 2, 0))]
                del self.rest[:size]
                self._left -= size
                if self._left:
                    return
                self._in_chunk = False
            line, end, _ = self.rest.partition(b"\r\n")
            if not end:
                return
            size = int(line.partition(b";")[0], 16)
            if size == 0:
                if len(self.rest) < len(line) + 4:
                    return
                if self.rest[len(line) : len(line) + 4] != b"\r\n\r\n":
                    raise ValueError("trailers that nobody sent")
                del self.rest[: len(line) + 4]
                message.is_whole = True
                return
            del self.rest[: len(line) + 2]
            self._left, self._in_chunk = size + 2, True
