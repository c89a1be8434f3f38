"""Who is told what arrives on a connection, and what that connection grants. Pure: does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.relay.http2.fields import RequestFields, ResponseFields
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream


class Terms:
    """What we grant the other side of a connection.

    Attributes:
        streams: at a time; of a server only.
        stream_window: bytes under way on one stream.
        highest_stream_window: to what that grows where the sender uses it up.
        connection_window: bytes under way on all streams together.
        list_bytes: of the fields of one message, each with 32 bytes on top (RFC 9113 §6.5.2).
        field_count: the most fields of one message.
    """

    __slots__ = ("connection_window", "field_count", "highest_stream_window", "list_bytes", "stream_window", "streams")

    def __init__(
        self,
        streams: int = 100,
        stream_window: int = 262_144,
        highest_stream_window: int = 262_144,
        connection_window: int = 1 << 24,
        list_bytes: int = 65_536,
        field_count: int = 200,
    ) -> None:
        self.streams = streams
        self.stream_window = stream_window
        self.highest_stream_window = highest_stream_window
        self.connection_window = connection_window
        self.list_bytes = list_bytes
        self.field_count = field_count


class Receiver(Protocol):
    """Who is told what arrives on a connection."""

    def on_request(self, stream: Stream, request: RequestFields, ends: bool) -> None:
        """Take a new stream's request; `ends`: it has no content. Whoever takes it calls `Connection.release` in the end."""

    def on_oversize(self, stream: Stream, ends: bool) -> None:
        """Take a new stream whose request has more or larger fields than allowed; to be answered 431, and released."""

    def on_interim(self, stream: Stream, response: ResponseFields) -> None:
        """Take an interim response (RFC 9110 §15.2)."""

    def on_response(self, stream: Stream, response: ResponseFields, ends: bool) -> None:
        """Take the final response's head; `ends`: nothing follows."""

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        """Take content, to be given back by `Connection.credit` once it has been passed on."""

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        """Take the trailers, behind which nothing comes."""

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        """Take note that a stream is over before its time; `reason` says what the other side did wrong, if it did not reset it."""

    def on_fault(self, reason: str) -> None:
        """Take note that RST_STREAM or GOAWAY has been sent for what the other side did."""

    def on_closed(self, stream: Stream) -> None:
        """Both sides have ended the stream."""

    def on_writable(self, stream: Stream) -> None:
        """More content may be sent."""

    def on_settings(self) -> None:
        """Take note that the other side's settings have changed."""

    def on_goaway(self, code: int) -> None:
        """Take note that no further streams are taken; those that were not processed have been told as reset."""
