"""An ASGI application for uvicorn: says what reached it, and answers in the ways such applications do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Fields = list[tuple[bytes, bytes]]
PIECES = [b"piece %d;" % number for number in range(20)]
ANSWERS: dict[str, tuple[int, Fields, list[bytes]]] = {
    "/large": (200, [(b"content-length", b"600000")], [b"large " * 100_000]),
    "/pieces": (200, [(b"content-type", b"text/event-stream")], PIECES),
    "/none": (204, [], []),
    "/status": (299, [(b"content-length", b"3")], [b"299"]),
    "/cookies": (200, [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"content-length", b"0")], []),
    "/moved": (302, [(b"location", b"/x?y#z"), (b"content-length", b"0")], []),
    "/unchanged": (304, [(b"etag", b'"x"')], []),
}


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    content, more = b"", True
    while more:
        event = await receive()
        content += event.get("body", b"")
        more = event.get("more_body", False)
    status, fields, pieces = ANSWERS.get(scope["path"], (200, [], []))
    if scope["path"] not in ANSWERS:
        given = [field for field in scope["headers"] if field[0] not in (b"authorization", b"connection")]
        seen = (scope["method"], scope["raw_path"], scope["query_string"], scope["http_version"], given)
        pieces = [repr((*seen, len(content), hashlib.sha256(content).hexdigest())).encode()]
        fields = [(b"content-length", b"%d" % len(pieces[0]))]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
