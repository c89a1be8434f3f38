"""One HTTP/1.1 exchange over an open connection, for diagnosis: a GET out, a bounded response back. Does network I/O."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final

from proxy import __version__
from proxy.dialing.handshake import judge_handshake
from proxy.dialing.http_exchange import exchange
from proxy.doctor.connection import ProbeFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.dialing.http_exchange import Response
    from proxy.doctor.connection import Connection

RESPONSE_S: Final = 30.0
"""How long an API may take for the one call."""

CONTENT_LIMIT_BYTES: Final = 65_536


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
    sent = {"Host": host_field.decode("latin-1"), **fields}
    sent |= {"Accept": "*/*", "User-Agent": f"apim-auth-proxy/{__version__} check"}
    try:
        async with asyncio.timeout(RESPONSE_S):
            return await exchange(
                connection.reader, connection.writer, f"GET {target}", sent, limit_bytes=CONTENT_LIMIT_BYTES, cuts=True
            )
    except TimeoutError:
        raise ProbeFailed(
            f"It does not answer a request within {RESPONSE_S:g} s.",
            "Name a quicker path with --path, or ask its operator.",
        ) from None
    except ssl.SSLError as refused:  # a TLS 1.3 server judges our certificate behind the handshake
        failure = judge_handshake(refused, connection.writer.get_extra_info("ssl_object"))
        raise ProbeFailed(f"It {failure.reason}.", failure.advice) from None
    except (OSError, ValueError):
        raise _no_response() from None


def _no_response() -> ProbeFailed:
    return ProbeFailed(
        "It accepts a request and gives no HTTP response.",
        "If it requires a client certificate, name one in the route's `client_certificate`. Otherwise ask its operator; a "
        "firewall in between may also cut the connection.",
    )
