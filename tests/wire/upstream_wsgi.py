"""A WSGI application (PEP 3333) for gunicorn: says what reached it, and answers in the ways such applications do."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PIECES = [b"piece %d;" % number for number in range(20)]
ANSWERS: dict[str, tuple[str, list[tuple[str, str]], list[bytes]]] = {
    "/large": ("200 OK", [("Content-Length", "600000")], [b"large " * 100_000]),
    "/pieces": ("200 OK", [("Content-Type", "text/event-stream")], PIECES),
    "/none": ("204 No Content", [], []),
    "/status": ("299 Nobody Knows", [("Content-Length", "3")], [b"299"]),
    "/cookies": ("200 OK", [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Content-Length", "0")], []),
    "/moved": ("302 Found", [("Location", "/x?y#z"), ("Content-Length", "0")], []),
    "/unchanged": ("304 Not Modified", [("ETag", '"x"')], []),
}


def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
    content = environ["wsgi.input"].read()
    status, fields, pieces = ANSWERS.get(environ["PATH_INFO"], ("200 OK", [], []))
    if environ["PATH_INFO"] not in ANSWERS:
        seen = (environ["REQUEST_METHOD"], environ["RAW_URI"], environ.get("HTTP_X_CASE"), environ["HTTP_HOST"])
        pieces = [repr((*seen, len(content), hashlib.sha256(content).hexdigest())).encode()]
        fields = [("Content-Length", str(len(pieces[0])))]
    start_response(status, fields)
    return pieces
