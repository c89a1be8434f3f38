"""What the proxy says in its own name: problem details (RFC 9457) with a Proxy-Status field (RFC 9209). Pure: does no I/O.

An answer with this field comes from the proxy; one without it comes from the upstream. That is how a user tells them apart.
"""

from __future__ import annotations

import json
from http import HTTPStatus
from typing import Final

from proxy.errors import ProxyAuthenticationRequired, ProxyError

NAME: Final = "apim-auth-proxy"
CONNECTION_CLOSE: Final = b"Connection: close\r\n"
CONNECT_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"


def format_answer(error: ProxyError, *, with_content: bool, close: bool) -> bytes:
    """Return the whole response for an error.

    Args:
        error: what went wrong.
        with_content: False in answer to HEAD, which gets the fields only (RFC 9110 §9.3.2).
        close: whether the connection ends with this answer.
    """
    content = format_problem(error)
    fields = [
        f"HTTP/1.1 {error.status} {_reason(error.status)}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(content)}",
        f"Proxy-Status: {format_proxy_status(error)}",
        "Cache-Control: no-store",
    ]
    if error.retry_after_s is not None:
        fields.append(f"Retry-After: {error.retry_after_s}")
    if isinstance(error, ProxyAuthenticationRequired):
        fields.append(f'Proxy-Authenticate: Basic realm="{NAME}", charset="UTF-8"')
    if close:
        fields.append("Connection: close")
    head = "\r\n".join(fields).encode("ascii") + b"\r\n\r\n"
    return head + content if with_content else head


def format_problem(error: ProxyError) -> bytes:
    """Return the problem details object, as indented JSON with a final newline: a person reads it in a terminal."""
    problem: dict[str, str | int] = {
        "type": f"urn:{NAME}:{error.proxy_status}",
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.code:
        problem["code"] = error.code
    return json.dumps(problem, indent=2, ensure_ascii=False).encode() + b"\n"


def format_proxy_status(error: ProxyError) -> str:
    """Return the Proxy-Status value: an RFC 8941 list with one item, ours."""
    details = error.title if error.code == error.default_code else error.code
    escaped = "".join(c if " " <= c <= "~" else "?" for c in details).replace("\\", "\\\\").replace('"', '\\"')
    return f'{NAME}; error={error.proxy_status}; details="{escaped}"'


def _reason(status: int) -> str:
    if status == 421:
        return "Misdirected Request"
    return HTTPStatus(status).phrase
