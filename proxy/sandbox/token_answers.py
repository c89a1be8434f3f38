"""What the token endpoint sends: the good answer of either version, and the spoiled ones that faults call for.

Does I/O only in `strike`, which may wait, or break the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING

from aiohttp import web

from proxy.sandbox.aadsts import AadstsError
from proxy.sandbox.faults import TokenEndpointFault, TokenFault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.sandbox.grants import Version
    from proxy.sandbox.tokens import IssuedToken, TokenOrder

_OVERSIZE_BYTES = 1_200_000  # clients that bound an answer at a mebibyte must see more than that

_REMOVED: Mapping[TokenFault, str] = {
    TokenFault.NO_ACCESS_TOKEN: "access_token",
    TokenFault.EXPIRES_IN_MISSING: "expires_in",
}
_REPLACED: Mapping[TokenFault, tuple[str, object]] = {
    TokenFault.WRONG_TOKEN_TYPE: ("token_type", "mac"),
    TokenFault.EXPIRES_IN_ABSURD: ("expires_in", 10**15),
    TokenFault.EXPIRES_IN_NEGATIVE: ("expires_in", -1),
    TokenFault.EXPIRES_IN_WORD: ("expires_in", "soon"),
    TokenFault.OVERSIZE: ("padding", "x" * _OVERSIZE_BYTES),
}


def format_answer(
    order: TokenOrder, token: IssuedToken, version: Version, refresh_in_s: int | None
) -> dict[str, object]:
    """Return the success answer: numbers in version 2, strings of digits in version 1."""
    answer: dict[str, object] = {
        "token_type": "Bearer",
        "expires_in": order.lifetime_s,
        "ext_expires_in": order.lifetime_s,
    }
    if refresh_in_s is not None:
        answer["refresh_in"] = refresh_in_s
    if version == 1:
        answer |= {"expires_on": token.expires_at, "not_before": token.not_before_at}
        answer = {name: value if isinstance(value, str) else str(value) for name, value in answer.items()}
        answer["resource"] = order.audience
    return answer | {"access_token": token.access_token}


def spoil_answer(kind: TokenFault, answer: Mapping[str, object]) -> bytes:
    """Return the content of a 200 answer after the fault has been at it; other kinds leave it whole."""
    spoiled = dict(answer)
    if kind in _REMOVED:
        spoiled.pop(_REMOVED[kind], None)
    if kind in _REPLACED:
        name, value = _REPLACED[kind]
        spoiled[name] = value
    if kind is TokenFault.EXPIRES_IN_STRING:
        spoiled["expires_in"] = str(spoiled["expires_in"])
    content = json.dumps(spoiled).encode()
    return content[:-2] if kind is TokenFault.MALFORMED_JSON else content


async def strike(fault: TokenEndpointFault, request: web.Request) -> web.StreamResponse | None:
    """Return the answer of a fault that takes the place of the endpoint's work; None where the work goes on.

    Raises:
        AadstsError: 90033, where the fault is an error in JSON.
    """
    await asyncio.sleep(fault.delay_s)
    match fault.kind:
        case TokenFault.TOO_MANY_REQUESTS:
            return web.Response(status=429, text="Too Many Requests", headers=_retry_after(fault, "60"))
        case TokenFault.SERVER_ERROR_JSON:
            sentence = "The service is not available for a moment. Please try again."
            raise AadstsError(90033, sentence, status=fault.status or 503)
        case TokenFault.SERVER_ERROR_EMPTY:
            return web.Response(status=fault.status or 502, headers=_retry_after(fault, ""))
        case TokenFault.BAD_REQUEST_HTML:
            page = (
                "<!DOCTYPE html><html><head><title>Bad Request</title></head><body><h2>Bad Request</h2></body></html>"
            )
            return web.Response(status=400, text=page, content_type="text/html")
        case TokenFault.DEAD:
            return break_connection(request)
        case _:
            return None


async def cut(request: web.Request, content: bytes) -> web.StreamResponse:
    """Send half of the content, then break the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json; charset=utf-8"})
    response.content_length = len(content)
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):  # the client may have gone first
        await response.write(content[: len(content) // 2])
    break_connection(request)
    return response


def break_connection(request: web.Request) -> web.Response:
    """Break the connection; what is returned is never sent, the server only wants something."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _retry_after(fault: TokenEndpointFault, usual: str) -> dict[str, str]:
    value = usual if fault.retry_after is None else fault.retry_after
    return {"Retry-After": value} if value else {}
