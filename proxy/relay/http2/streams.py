"""One stream of a connection: what has been said on it either way, and its windows (RFC 9113 §5). Pure: does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field

# `Stream.content_left` where no Content-Length says what is to come.
UNKNOWN: Final = -1


class Stream:
    """A stream that is open, half-closed, or kept because somebody still works for it.

    Attributes:
        id: RFC 9113 §5.1.1.
        user: whatever the connection's user wants to find again; the connection does not look at it.
        send_window: what we may send; below zero where the other side has reduced it (RFC 9113 §6.9.2).
        receive_window: what the other side may send.
        window: what `receive_window` is raised to.
        uncredited: received and passed on, but not yet given back.
        content_left: how much of the declared content has not come yet, or `UNKNOWN`.
        has_head: whether the message's fields have come.
        has_content: whether the message may have content: not a response to HEAD, 204 or 304.
        to_head: of a stream of ours: whether its request is HEAD.
        remote_ended: whether the other side has ended sending.
        local_ended: whether we have, or are going to with what is in `pending`.
        end_sent: whether we have said so.
        is_closed: whether nothing can be sent any more.
        is_unprocessed: of a stream of ours: that the upstream has done nothing for it (RFC 9113 §8.7), so it can be repeated.
        discards: how many bytes of content are still dropped before the stream is reset; `UNKNOWN`: none are.
        pending: content that waits for a window.
        pending_bytes: how much.
        trailers: they follow what is pending.
        is_queued: whether the connection knows that something is pending.
        is_blocked: whether its user was told to send no more for now.
        holds_place: whether it counts as one of the streams that the other side may have at a time.
    """

    __slots__ = (
        "content_left",
        "discards",
        "end_sent",
        "has_content",
        "has_head",
        "holds_place",
        "id",
        "is_blocked",
        "is_closed",
        "is_queued",
        "is_unprocessed",
        "local_ended",
        "pending",
        "pending_bytes",
        "receive_window",
        "remote_ended",
        "send_window",
        "to_head",
        "trailers",
        "uncredited",
        "user",
        "window",
    )

    def __init__(self, stream_id: int, send_window: int, receive_window: int) -> None:
        self.id = stream_id
        self.user: Any = None
        self.send_window = send_window
        self.receive_window = receive_window
        self.window = receive_window
        self.uncredited = 0
        self.content_left = UNKNOWN
        self.has_head = False
        self.has_content = True
        self.to_head = False
        self.remote_ended = False
        self.local_ended = False
        self.end_sent = False
        self.is_closed = False
        self.is_unprocessed = False
        self.discards = UNKNOWN
        self.pending: list[bytes] = []
        self.pending_bytes = 0
        self.trailers: list[Field] | None = None
        self.is_queued = False
        self.is_blocked = False
        self.holds_place = True
