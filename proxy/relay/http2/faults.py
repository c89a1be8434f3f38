"""Errors of the protocol: of a whole connection, or of one stream (RFC 9113 §5.4). Pure: does no I/O."""

from __future__ import annotations

from typing import Final

# RFC 9113 §7.
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD


class ConnectionFault(Exception):  # noqa: N818  # as in `proxy.errors`: named for what happened
    """The other side broke a rule after which nothing it says can be relied on (RFC 9113 §5.4.1).

    Attributes:
        code: goes into GOAWAY.
        reason: one of a few words, for metrics: ``framing``, ``flood_resets`` …
        detail: what happened, for a person.
    """

    def __init__(self, code: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail


class StreamFault(Exception):  # noqa: N818
    """One message or stream is at fault, and no other (RFC 9113 §5.4.2).

    Attributes:
        code: goes into RST_STREAM.
        reason: one of a few words, for metrics.
        detail: what happened, for a person.
    """

    def __init__(self, code: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.reason = reason
        self.detail = detail


class MalformedMessage(StreamFault):
    """Fields that no message may have, or content of another length than declared (RFC 9113 §8.1.1)."""

    def __init__(self, detail: str) -> None:
        super().__init__(PROTOCOL_ERROR, "malformed", detail)
