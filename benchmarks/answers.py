"""One request, one answer, over a plain socket: what a proxy is checked with before it is measured. Does I/O."""

from __future__ import annotations

import http.client


def fetch(port: int, target: str, host: str, content: bytes | None = None) -> tuple[int, bytes]:
    """Returns status and content of the answer to a GET, or to a POST if there is content to send."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.putrequest("GET" if content is None else "POST", target, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host)
        if content is not None:
            connection.putheader("Content-Length", str(len(content)))
        connection.endheaders(content)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
