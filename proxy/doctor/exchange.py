"""One HTTP/1.1 exchange over an open connection, for diagnosis: a GET out, a bounded response back. Does network I/O."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import httptools

from proxy import __version__
from proxy.dialing.handshake import judge_handshake
from proxy.doctor.connection import ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.doctor.connection import Connection

RESPONSE_S: Final = 30.0
"""How long an API may take for the one call."""

CONTENT_LIMIT_BYTES: Final = 65_536
_READ_LIMIT_BYTES: Final = 262_144
_BLOCK_BYTES: Final = 16_384


@dataclass(frozen=True, slots=True)
class Response:
    """A response, as far as it matters for a verdict.

    Attributes:
        status: the status code.
        fields: (lower-case name, value) in order.
        content: the first `CONTENT_LIMIT_BYTES` of it.
    """

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    content: bytes = field(repr=False)

    def values(self, name: bytes) -> list[bytes]:
        """Return the values of a field, in order."""
        return [value for known, value in self.fields if known == name]


async def get(connection: Connection, host_field: bytes, target: str, fields: Mapping[str, str]) -> Response:
    """Return the response to one GET, after which the connection is of no more use.

    Args:
        connection: fresh.
        host_field: the Host field's value.
        target: origin-form (RFC 9112 §3.2.1), visible ASCII.
        fields: further fields.

    Raises:
        ProbeFailed: no response came, or none that is HTTP.
    """
    lines = [f"GET {target} HTTP/1.1".encode("ascii"), b"Host: " + host_field]
    lines += [f"{name}: {value}".encode("latin-1") for name, value in fields.items()]
    lines += [b"Accept: */*", f"User-Agent: apim-auth-proxy/{__version__} check".encode(), b"Connection: close"]
    reading = _Reading()
    try:
        async with asyncio.timeout(RESPONSE_S):
            connection.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
            await connection.writer.drain()
            await reading.read_all(connection.reader)
    except TimeoutError:
        raise ProbeFailed(
            f"It does not answer a request within {RESPONSE_S:g} s.",
            "Name a quicker path with --path, or ask its operator.",
        ) from None
    except ssl.SSLError as refused:  # a TLS 1.3 server judges our certificate behind the handshake
        failure = judge_handshake(refused, connection.writer.get_extra_info("ssl_object"))
        raise ProbeFailed(f"It {failure.reason}.", failure.advice) from None
    except (OSError, httptools.HttpParserError):
        raise _no_response() from None
    if not reading.has_head:
        raise _no_response()
    return Response(
        reading.parser.get_status_code(), tuple(reading.fields), bytes(reading.content[:CONTENT_LIMIT_BYTES])
    )


def _no_response() -> ProbeFailed:
    return ProbeFailed(
        "It accepts a request and gives no HTTP response.",
        "If it requires a client certificate, name one in the route's `client_certificate`. Otherwise ask its operator; a "
        "firewall in between may also cut the connection.",
    )


class _Reading:
    """Collects one response from the callbacks of llhttp."""

    def __init__(self) -> None:
        self.fields: list[tuple[bytes, bytes]] = []
        self.content = bytearray()
        self.has_head = False
        self._is_complete = False
        self._is_interim = False
        self.parser = httptools.HttpResponseParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        # An interim response (RFC 9110 §15.2) is followed by the one that counts.
        self._is_interim = 100 <= self.parser.get_status_code() < 200
        if self._is_interim:
            self.fields.clear()
        self.has_head = not self._is_interim

    def on_body(self, block: bytes) -> None:
        self.content += block

    def on_message_complete(self) -> None:
        self._is_complete = not self._is_interim

    async def read_all(self, reader: asyncio.StreamReader) -> None:
        """Feed the parser until the response is complete, long enough, or cut."""
        length = 0
        while not self._is_complete and length < _READ_LIMIT_BYTES:
            block = await reader.read(_BLOCK_BYTES)
            if not block:
                return
            length += len(block)
            self.parser.feed_data(block)
