"""What is kept of an exchange in case it has to be sent again: the request's content, and a refusal that is being judged.

Content, not bytes of the wire, so that it can be sent in another version or on another stream. Both are bounded. Does no I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.relay.message import ResponseHead

# A gateway's refusal is under 200 bytes; an API's own 401 may be a page.
WITHHELD_BYTES: Final = 16_384


class KeptContent:
    """A request's content, as long as it is small.

    Args:
        limit: the most bytes kept.

    Attributes:
        is_whole: whether all that has been read is kept.
    """

    __slots__ = ("_limit", "_pieces", "_size", "is_whole")

    def __init__(self, limit: int) -> None:
        self.is_whole = True
        self._limit = limit
        self._pieces: list[bytes] = []
        self._size = 0

    def add(self, content: bytes) -> None:
        """Keep more of it, or nothing at all if that is too much."""
        if self.is_whole:
            self._size += len(content)
            if self._size <= self._limit:
                self._pieces.append(content)
            else:
                self.is_whole = False
                self._pieces = []

    @property
    def pieces(self) -> list[bytes]:
        """What is kept, in order; a list of its own."""
        return list(self._pieces)


class WithheldResponse:
    """A 401 that the client does not get before it has been judged.

    Attributes:
        head: its head.
        framing: how its end is told; see `sides`.
        trailers: field lines with CRLF, or nothing.
    """

    __slots__ = ("_pieces", "_size", "framing", "head", "trailers")

    def __init__(self, head: ResponseHead, framing: int) -> None:
        self.head = head
        self.framing = framing
        self.trailers = b""
        self._pieces: list[bytes] = []
        self._size = len(head.fields)

    def add(self, content: bytes) -> bool:
        """Keep content; False once there is more than is withheld."""
        self._pieces.append(content)
        self._size += len(content)
        return self._size <= WITHHELD_BYTES

    @property
    def content(self) -> bytes:
        """All content so far."""
        return b"".join(self._pieces)
