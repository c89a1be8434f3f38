"""The server name and protocols that a TLS client asks for, read from its ClientHello. Does no I/O.

A redirected connection says in no other place which host it is for, and that has to be known before OpenSSL takes the
connection: a name that no route has is not answered by TLS at all. Nothing is decided here, and nothing is taken away: OpenSSL
gets the same bytes, and judges what this module passes over.

Sources: RFC 8446 §4.1.2, §5.1; RFC 6066 §3 (server_name); RFC 7301 §3.1 (ALPN); RFC 9849 (Encrypted Client Hello).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from proxy.errors import MalformedRequest

TLS_HANDSHAKE: Final = 0x16
"""The first byte of a TLS connection: ContentType handshake (RFC 8446 §5.1)."""

_CLIENT_HELLO: Final = 1
_SERVER_NAME: Final = 0
_ALPN: Final = 16
_ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
# Browsers' are 2 kB with a key share that withstands quantum computers. Envoy's tls_inspector takes no more than this, either.
_MESSAGE_LIMIT_BYTES: Final = 16_384
# The same in records of 64 bytes of content each; nobody's are that small.
_RECORDS_LIMIT_BYTES: Final = 20_480
_RECORD_LIMIT_BYTES: Final = 16_384  # RFC 8446 §5.1
_RECORD_HEADER_BYTES: Final = 5
_MESSAGE_HEADER_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a ClientHello asks for in plain sight.

    Attributes:
        server_name: as sent, ASCII; None: none.
        protocols: of ALPN, the preferred one first.
        has_ech: there is an encrypted ClientHello within, with a name of its own, or random bytes that look like one: nobody but
            the server that it is for can tell. The server name is the outer one then.
    """

    server_name: str | None
    protocols: tuple[bytes, ...]
    has_ech: bool


class ClientHelloReader:
    """Reads a ClientHello in whatever pieces it comes: of TCP, and of TLS records.

    Attributes:
        received: all bytes so far, for whoever takes the connection.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self._message = bytearray()
        self._at = 0  # where the next record begins

    def feed(self, data: bytes) -> ClientHello | None:
        """Take bytes, and return the ClientHello once it is complete.

        Raises:
            MalformedRequest: these bytes do not begin a TLS connection, or not one that has to be understood.
        """
        received = self.received
        received += data
        while len(received) >= self._at + _RECORD_HEADER_BYTES:
            start = self._at + _RECORD_HEADER_BYTES
            end = start + int.from_bytes(received[start - 2 : start], "big")
            if received[self._at] != TLS_HANDSHAKE or received[self._at + 1] != 3:
                raise _malformed("does not begin with a TLS handshake")
            if end == start or end - start > _RECORD_LIMIT_BYTES:
                raise _malformed("has a record of a size that TLS does not allow")
            self._check_message(bytes(received[start : min(end, start + _MESSAGE_HEADER_BYTES)]))
            if len(received) < end:
                break
            self._message += received[start:end]
            self._at = end
            needed = self._check_message(b"")
            if needed is not None and len(self._message) >= needed:
                return _parse(bytes(self._message[_MESSAGE_HEADER_BYTES:needed]))
        if len(received) > _RECORDS_LIMIT_BYTES:
            raise _malformed("is longer than that of any client")
        return None

    def _check_message(self, more: bytes) -> int | None:
        """Return how long the message is, once that is known; `more` is what follows in a record that is not complete."""
        head = bytes(self._message[:_MESSAGE_HEADER_BYTES]) + more
        if head and head[0] != _CLIENT_HELLO:
            raise _malformed("is another handshake message")
        if len(head) < _MESSAGE_HEADER_BYTES:
            return None
        needed = _MESSAGE_HEADER_BYTES + int.from_bytes(head[1:_MESSAGE_HEADER_BYTES], "big")
        if needed > _MESSAGE_LIMIT_BYTES:
            raise _malformed("is longer than that of any client")
        return needed


def _parse(body: bytes) -> ClientHello:
    """Return what the body of a ClientHello message says."""
    at = 2 + 32  # legacy_version, random
    _, at = _vector(body, at, 1)  # legacy_session_id
    _, at = _vector(body, at, 2)  # cipher_suites
    _, at = _vector(body, at, 1)  # legacy_compression_methods
    server_name: str | None = None
    protocols: tuple[bytes, ...] = ()
    seen: set[int] = set()
    extensions = b""
    if at < len(body):  # TLS 1.2 does without extensions (RFC 5246 §7.4.1.2)
        extensions, at = _vector(body, at, 2)
    if at != len(body):
        raise _malformed("has something behind its end")
    at = 0
    while at < len(extensions):
        kind = int.from_bytes(extensions[at : at + 2], "big")
        content, at = _vector(extensions, at + 2, 2)
        if kind in seen:  # RFC 8446 §4.2
            raise _malformed("has an extension twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            server_name = _parse_server_name(content)
        elif kind == _ALPN:
            protocols = _parse_protocols(content)
    return ClientHello(server_name, protocols, _ENCRYPTED_CLIENT_HELLO in seen)


def _parse_server_name(content: bytes) -> str:
    """Return the one host name: of each kind there is one at most, and there is one kind (RFC 6066 §3)."""
    names, end = _vector(content, 0, 2)
    if end != len(content) or names[:1] != b"\x00":
        raise _malformed("has a server name of an unknown kind")
    name, end = _vector(names, 1, 2)
    if end != len(names) or not name or not all(0x21 <= octet < 0x7F for octet in name):
        raise _malformed("has a server name that is none")
    return name.decode("ascii")


def _parse_protocols(content: bytes) -> tuple[bytes, ...]:
    listed, end = _vector(content, 0, 2)
    if end != len(content):
        raise _malformed("has a malformed list of protocols")
    found: list[bytes] = []
    at = 0
    while at < len(listed):
        one, at = _vector(listed, at, 1)
        found.append(one)
    return tuple(found)


def _vector(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    """Return what a length of `size` bytes stands before, and where it ends (RFC 8446 §3.4)."""
    start = at + size
    end = start + int.from_bytes(data[at:start], "big")
    if start > len(data) or end > len(data):
        raise _malformed("ends too early")
    return data[start:end], end


def _malformed(what: str) -> MalformedRequest:
    return MalformedRequest(f"What the client sent {what}.", code="client_hello_malformed")
