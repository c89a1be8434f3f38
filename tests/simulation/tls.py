"""TLS without cryptography: a handshake of two records that may fail, records of content, and close_notify.

It stands where `ssl.SSLContext` and `ssl.SSLObject` do, so all of the product's own TLS transport is at work.
"""

from __future__ import annotations

import ssl
import struct
from typing import Any, Final

_HANDSHAKE: Final = 0x16
_ALERT: Final = 0x15
_CONTENT: Final = 0x17
_HEADER: Final = struct.Struct("!BI")
_RECORD: Final = 4_096


class Context:
    """Stands for an `ssl.SSLContext`."""

    def wrap_bio(
        self, incoming: Any, outgoing: Any, *, server_side: bool = False, server_hostname: str | None = None
    ) -> Tls:
        tls = Tls(incoming, outgoing, server_hostname=server_hostname, server_side=server_side)
        tls.context = self
        return tls


class Tls:
    """Stands for an `ssl.SSLObject`, in both roles.

    Attributes:
        fault: how the server's side fails the handshake; empty: not at all.
        names: that the server's certificate carries; a client that asks for another does not trust it. Empty: all.
        context: what made it.
        server_hostname: the name the client asks for.
    """

    session_reused = True
    session = None

    def __init__(self, incoming: Any, outgoing: Any, *, server_hostname: str | None, server_side: bool) -> None:
        self.fault = ""
        self.names: tuple[str, ...] = ()
        self.context: Context | None = None
        self.server_hostname = server_hostname
        self._incoming = incoming
        self._outgoing = outgoing
        self._server_side = server_side
        self._partial = b""
        self._has_begun = False
        self._has_ended = False

    def do_handshake(self) -> None:
        if not self._server_side and not self._has_begun:
            self._has_begun = True
            self._put(_HANDSHAKE, (self.server_hostname or "").encode())
        kind, content = self._take()
        if self._server_side:
            self.server_hostname = content.decode()
            # Who asks for no name has none to compare.
            is_other = bool(self.names and content) and self.server_hostname not in self.names
            self._put(
                *{"alert": (_ALERT, b"internal"), "untrusted": (_HANDSHAKE, b"untrusted")}.get(
                    self.fault or ("untrusted" if is_other else ""), (_HANDSHAKE, b"ok")
                )
            )
        elif content == b"untrusted":
            error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
            error.verify_code = 20
            raise error
        elif (kind, content) != (_HANDSHAKE, b"ok"):
            raise ssl.SSLError(1, "[SSL: TLSV1_ALERT_INTERNAL_ERROR]")

    def read(self, _size: int = 0) -> bytes:
        kind, content = self._take()
        if kind == _ALERT:
            raise ssl.SSLZeroReturnError
        if kind != _CONTENT:
            raise ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER]")
        return content

    def write(self, data: Any) -> int:
        if self._has_ended:
            raise ssl.SSLError(1, "[SSL: PROTOCOL_IS_SHUTDOWN]")
        piece = bytes(data[:_RECORD])
        self._put(_CONTENT, piece)
        return len(piece)

    def unwrap(self) -> None:
        if not self._has_ended:
            self._has_ended = True
            self._put(_ALERT, b"close")
        raise ssl.SSLWantReadError

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"

    def getpeercert(self) -> dict[str, object]:
        return {}

    def _put(self, kind: int, content: bytes) -> None:
        self._outgoing.write(_HEADER.pack(kind, len(content)) + content)

    def _take(self) -> tuple[int, bytes]:
        """Return one record; what is behind it stays in the BIO."""
        self._fill(_HEADER.size)
        kind, size = _HEADER.unpack_from(self._partial)
        self._fill(_HEADER.size + size)
        content, self._partial = self._partial[_HEADER.size :], b""
        return kind, content

    def _fill(self, size: int) -> None:
        self._partial += self._incoming.read(size - len(self._partial)) if size > len(self._partial) else b""
        if len(self._partial) < size:
            raise ssl.SSLWantReadError
