"""TLS over a plain transport through two memory BIOs, for both roles. Does I/O only through the transport below it.

Half the cost of the event loop's own TLS, because a record goes from the socket's buffer to the protocol above in one step.
To the transport below, a `SecureTransport` is a protocol; to the protocol above, it is a transport. A peer that closes
without close_notify has cut the stream (RFC 8446 §6.1): the protocol above is then told of an error, never of an end.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

_READ_BYTES: Final = 65_536  # more than a TLS record holds, so one read takes a whole record
# Records read in one turn of the event loop: a millisecond or two. One read from the socket brings 256 KB at the most, which of
# records of one byte are 11,000.
RECORDS_AT_ONCE: Final = 512


# OpenSSL's reasons where no certificate that is shown fits the client.
_NO_MATCH: Final = ("NO_SHARED_CIPHER", "NO_SUITABLE_SIGNATURE_ALGORITHM", "NO_SHARED_SIGNATURE_ALGORITHM")

_NOBODY: Final = asyncio.Protocol()


def _ignore(_error: Exception) -> None:
    """Take the place of what was to hear of a failure, once that is past."""


class SecureTransport(asyncio.Protocol, asyncio.Transport):
    """One TLS connection.

    Args:
        context: makes the TLS object.
        protocol: what runs above; it gets `connection_made` once the handshake is complete.
        on_failure: called with the error when the handshake fails; the protocol above then hears nothing at all.

    Attributes:
        tls: the TLS object.
        established: whether the handshake is complete.
        on_no_match: asked where nothing that the client offers fits, before it is told so, with the bytes it has sent; True:
            the transport below is in other hands now.
    """

    __slots__ = (
        "_closing",
        "_cut",
        "_ended",
        "_held",
        "_hello",
        "_incoming",
        "_is_behind",
        "_on_failure",
        "_outgoing",
        "_protocol",
        "_transport",
        "established",
        "on_no_match",
        "tls",
    )

    _transport: asyncio.Transport

    def __init__(
        self,
        context: ssl.SSLContext,
        protocol: asyncio.Protocol,
        on_failure: Callable[[Exception], None],
        *,
        server_hostname: str | None = None,
        server_side: bool = False,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._protocol = protocol
        self._on_failure = on_failure
        self.established = False
        self.on_no_match: Callable[[bytes], bool] | None = None
        self._hello = b""
        self._closing = False
        self._ended = False
        self._held = False
        self._is_behind = False
        self._cut: Exception | None = None

    # The protocol below.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the handshake."""
        self._transport = transport  # type: ignore[assignment]  # TCP and Unix sockets give a full transport
        self._handshake()

    def data_received(self, data: bytes) -> None:
        """Take records in, hand their content up in one piece."""
        self._incoming.write(data)
        if not self.established:
            if self.on_no_match is not None:
                self._hello += data
            if not self._handshake():
                return
        self._read()

    def eof_received(self) -> bool:
        """Tells the protocol above of a cut; a proper end has been handed up by `_read` before.

        OpenSSL is not asked: whether it takes a missing close_notify for an end depends on how it was built.
        """
        if not self.established:
            self._fail(ConnectionResetError("closed during the TLS handshake"))
        elif not self._ended and not self._closing:
            self._break(ConnectionResetError("closed without close_notify"))
        return self._ended and not self._closing

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass the news on, once."""
        if self.established:
            self._protocol.connection_lost(exc or self._cut)
        else:
            self._fail(exc or ConnectionResetError("closed during the TLS handshake"))
        # The protocol above holds this transport. Left in a ring, OpenSSL's buffers (up to 150 KB) would wait for the garbage
        # collector, which counts objects and not their size.
        self._protocol = _NOBODY
        self._on_failure = _ignore

    def pause_writing(self) -> None:
        """Pass back-pressure up."""
        if self.established:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """End back-pressure."""
        if self.established:
            self._protocol.resume_writing()

    # The transport above.

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Encrypts and sends; what is written after `close` is dropped, as transports do."""
        if self._closing:
            return
        size = len(data)
        try:
            written = self.tls.write(data)
            if written < size:  # one record at a time: OpenSSL's partial-write mode
                view = memoryview(data)
                while written < size:
                    written += self.tls.write(view[written:])
        except ssl.SSLError:
            self.abort()
            return
        self._transport.write(self._outgoing.read())

    def close(self) -> None:
        """Send close_notify, flush and close."""
        if self._closing:
            return
        self._closing = True
        self._notify_close()
        self._transport.close()

    def write_eof(self) -> None:
        """Send close_notify and end the sending side; reading goes on."""
        if not self._closing:
            self._notify_close()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether the sending side can be ended alone."""
        return True

    def abort(self) -> None:
        """Cuts the connection without close_notify, so that the peer can tell."""
        self._closing = True
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether `close` or `abort` was called, here or below."""
        return self._closing or self._transport.is_closing()

    def pause_reading(self) -> None:
        """Stop reading."""
        self._held = True
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Goes on reading."""
        self._held = False
        if not self._is_behind:
            self._transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        """Bytes not yet taken by the kernel."""
        return self._transport.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set where back-pressure starts and ends, in bytes."""
        self._transport.set_write_buffer_limits(high, low)

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401  # asyncio's own signature
        """Asks the transport below."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Replace the protocol above."""
        self._protocol = protocol  # type: ignore[assignment]  # only stream protocols run here

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return the protocol above."""
        return self._protocol

    # Within.

    def _handshake(self) -> bool:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            if self._outgoing.pending:
                self.on_no_match = None
                self._hello = b""
            self._flush()
            return False
        except ssl.SSLError as error:
            if self._gives_way(error):
                return False
            self._flush()  # the alert, so that the peer can tell why
            self._fail(error)
            return False
        self.established = True
        self._flush()
        self._protocol.connection_made(self)
        return not self._closing

    def _gives_way(self, error: ssl.SSLError) -> bool:
        """Whether somebody else goes on with this connection, of which the client has heard nothing yet."""
        ask, self.on_no_match = self.on_no_match, None
        if ask is None or not any(part in (error.reason or "") for part in _NO_MATCH):
            return False
        self._closing = True
        if ask(self._hello):
            self._protocol = _NOBODY
            self._on_failure = _ignore
            return True
        self._closing = False
        return False

    def _read(self) -> None:
        pieces: list[bytes] = []
        end: ssl.SSLError | None = None
        try:
            for _ in range(RECORDS_AT_ONCE):
                piece = self.tls.read(_READ_BYTES)
                if not piece:
                    end = ssl.SSLZeroReturnError()
                    break
                pieces.append(piece)
                if not self._incoming.pending:
                    break
            else:
                self._fall_behind()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            end = error
        if self._outgoing.pending:
            self._flush()
        if pieces:
            self._protocol.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if end is not None and not self._closing:
            self._on_end(end)

    def _fall_behind(self) -> None:
        """Leaves the records that are still there for a later turn of the event loop, so that others have theirs."""
        if not self._is_behind:
            self._is_behind = True
            self._transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._is_behind = False
        if self._transport.is_closing():
            return
        self._read()
        if not (self._held or self._is_behind or self._transport.is_closing()):
            self._transport.resume_reading()

    def _on_end(self, end: ssl.SSLError) -> None:
        if not isinstance(end, ssl.SSLZeroReturnError):
            self._break(end)
        elif not self._ended:
            self._ended = True
            if not self._protocol.eof_received():
                self.close()

    def _break(self, cut: Exception) -> None:
        self._cut = cut
        self.abort()

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    def _notify_close(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # WantRead: our close_notify is out, the peer's need not be waited for
            self.tls.unwrap()
        self._flush()

    def _fail(self, error: Exception) -> None:
        if not self._closing:
            self._closing = True
            self._on_failure(error)
            self._transport.close()
