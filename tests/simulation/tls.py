"""TLS without cryptography: a handshake of two records that may fail, records of content, and close_notify.

It stands where `ssl.SSLContext` and `ssl.SSLObject` do, so all of the product's own TLS transport is at work.
"""

from __future__ import annotations

import ssl
import struct
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.network import Endpoint

_HANDSHAKE: Final = 0x16
_ALERT: Final = 0x15
_CONTENT: Final = 0x17
_HEADER: Final = struct.Struct("!BI")
_RECORD: Final = 4_096


class Context:
    """Stands for an `ssl.SSLContext`.

    Args:
        versions: what is offered, or taken, by ALPN, the preferred one first.
    """

    def __init__(self, versions: tuple[str, ...] = ("http/1.1",)) -> None:
        self.versions = versions

    def wrap_bio(
        self, incoming: Any, outgoing: Any, *, server_side: bool = False, server_hostname: str | None = None
    ) -> Tls:
        tls = Tls(incoming, outgoing, server_hostname=server_hostname, server_side=server_side, versions=self.versions)
        tls.context = self
        return tls


class Tls:
    """Stands for an `ssl.SSLObject`, in both roles.

    Attributes:
        fault: how the server's side fails the handshake; empty: not at all.
        names: that the server's certificate carries; a client that asks for another does not trust it. Empty: all.
        versions: what is offered, or taken, by ALPN, the preferred one first.
        context: what made it.
        server_hostname: the name the client asks for.
        is_established: the handshake is complete.
    """

    session_reused = True
    session = None

    def __init__(
        self,
        incoming: Any,
        outgoing: Any,
        *,
        server_hostname: str | None,
        server_side: bool,
        versions: tuple[str, ...] = ("http/1.1",),
    ) -> None:
        self.fault = ""
        self.versions = versions
        self.is_established = False
        self._version: str | None = None
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
            self._put(_HANDSHAKE, f"{self.server_hostname or ''} {','.join(self.versions)}".encode())
        kind, content = self._take()
        if kind == _HANDSHAKE and self._server_side:
            self._answer(*content.decode().split(" "))
        elif kind == _HANDSHAKE and content.startswith(b"ok "):
            self._version = content[3:].decode() or None
        elif kind == _HANDSHAKE and content == b"untrusted":
            error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED]")
            error.verify_code = 20
            raise error
        else:
            name = content.decode("latin-1").upper() if kind == _ALERT else "WRONG_VERSION_NUMBER"
            raise ssl.SSLError(1, f"[SSL: TLSV1_ALERT_{name}] tlsv1 alert {name.replace('_', ' ').lower()}")
        self.is_established = True

    def _answer(self, name: str, offered: str) -> None:
        self.server_hostname = name
        versions = offered.split(",")
        self._version = next((each for each in self.versions if each in versions), None)
        # Who asks for no name has none to compare.
        is_other = bool(self.names and name) and name not in self.names
        if self.fault == "alert":
            self._put(_ALERT, b"internal_error")
        elif self.fault == "untrusted" or is_other:
            self._put(_HANDSHAKE, b"untrusted")
        elif self.versions and self._version is None:
            self._put(_ALERT, b"no_application_protocol")
        else:
            self._put(_HANDSHAKE, b"ok " + (self._version or "").encode())

    def read(self, _size: int = 0) -> bytes:
        kind, content = self._take()
        if (kind, content) == (_ALERT, b"close"):
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

    def selected_alpn_protocol(self) -> str | None:
        return self._version

    def cipher(self) -> None:
        return None

    def spoil(self, *, alerts: bool) -> None:
        """Send what is no record of content: an alert, or nothing that anybody knows."""
        self._put(_ALERT if alerts else 0x99, b"unknown_ca")

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


class Line:
    """A neighbour's end of a connection: bytes, in TLS or not.

    Args:
        endpoint: the connection.
        is_server: which side of TLS this is.
        name: that is asked for, of a client.
        versions: by ALPN; nothing: there is no TLS.

    Attributes:
        tls: None without.
        begins_at: with which of the bytes that have come the record began that was read last.
        has_ended: the other end has said that nothing more comes.
    """

    def __init__(
        self, endpoint: Endpoint, *, is_server: bool = False, name: str | None = None, versions: tuple[str, ...] = ()
    ) -> None:
        self.endpoint = endpoint
        self.begins_at = 0
        self.has_ended = False
        self.tls: Tls | None = None
        if versions:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.tls = Tls(
                self._incoming, self._outgoing, server_hostname=name, server_side=is_server, versions=versions
            )

    @property
    def unread(self) -> int:
        """How much has come and is not read yet."""
        return 0 if self.tls is None else self._incoming.pending

    @property
    def version(self) -> str | None:
        return None if self.tls is None else self.tls.selected_alpn_protocol()

    def shake_hands(self) -> bool:
        """Return whether the handshake is complete, having gone on with it.

        Raises:
            ssl.SSLError: it has failed.
        """
        if self.tls is None or self.tls.is_established:
            return True
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def take(self, data: bytes) -> None:
        """Take what has come."""
        if self.tls is not None:
            self._incoming.write(data)

    def read(self) -> Iterator[bytes]:
        """Yield what is inside the records that have come.

        Raises:
            ssl.SSLError: the other end has sent what is no content.
        """
        assert self.tls is not None
        while not self.endpoint.is_dead:
            self.begins_at = self.endpoint.taken - self._incoming.pending
            try:
                yield self.tls.read()
            except ssl.SSLWantReadError:
                return
            except ssl.SSLZeroReturnError:
                self.has_ended = True
                return

    def send(self, data: bytes) -> None:
        if self.tls is None:
            self.endpoint.write(data)
            return
        view = memoryview(data)
        while view and not self.endpoint.is_closing():
            view = view[self.tls.write(view) :]
        self.flush()

    def end(self) -> None:
        """End this direction."""
        self._say_farewell()
        self.endpoint.write_eof()

    def close(self) -> None:
        self._say_farewell()
        self.endpoint.close()

    def flush(self) -> None:
        if self.tls is not None and self._outgoing.pending:
            self.endpoint.write(self._outgoing.read())

    def _say_farewell(self) -> None:
        if self.tls is not None:
            try:
                self.tls.unwrap()
            except ssl.SSLWantReadError:
                self.flush()
