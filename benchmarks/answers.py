"""One request, one answer: what a proxy is checked with before it is measured. Does I/O."""

from __future__ import annotations

import http.client
import ssl
from typing import TYPE_CHECKING

from benchmarks.processes import BenchmarkError

if TYPE_CHECKING:
    from benchmarks.rivals import Rival


def fetch(
    rival: Rival, target: str, host: str, *, secure: bool = False, content: bytes | None = None
) -> tuple[int, bytes]:
    """Return status and content of the answer to a GET, or to a POST if there is content to send.

    Args:
        rival: the proxy.
        target: the request target.
        host: of the Host field; and what CONNECT names, on port 443, where TLS runs inside.
        secure: inside TLS that is verified, after CONNECT where the proxy takes it.
        content: of the request.

    Raises:
        BenchmarkError: there was no answer, or the proxy's certificate is not what it should be.
    """
    try:
        connection = (
            _connect(rival, host) if secure else http.client.HTTPConnection("127.0.0.1", rival.port, timeout=10)
        )
        try:
            connection.putrequest(
                "GET" if content is None else "POST", target, skip_host=True, skip_accept_encoding=True
            )
            connection.putheader("Host", host)
            if content is not None:
                connection.putheader("Content-Length", str(len(content)))
            connection.endheaders(content)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"{rival.name} did not answer a request for {target}: {error}") from error


def _connect(rival: Rival, host: str) -> http.client.HTTPSConnection:
    context = ssl.create_default_context(cafile=rival.ca_file)
    if rival.tls_port is not None:
        return http.client.HTTPSConnection("127.0.0.1", rival.tls_port, timeout=10, context=context)
    connection = http.client.HTTPSConnection("127.0.0.1", rival.port, timeout=10, context=context)
    connection.set_tunnel(host, 443)
    return connection
