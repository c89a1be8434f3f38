"""The API behind the gateway: it tells what reached it, and serves bodies of every kind to test a relay with.

Does I/O (answers requests). Text in the JSON stands for bytes one to one (ISO 8859-1), so nothing is lost; the values
of ``Authorization`` and of the subscription key are left out.

    /bytes/N        N bytes, the same every time, with Content-Length
    /chunked/N      the same bytes, chunked
    /slow/SECONDS   what any other path answers, after a wait
    /sse            server-sent events; ?count=5&interval=0.05
    /status/CODE    that status; ?reason=Text
    /websocket      echoes messages
    /echo           the request's content as it comes, streaming
    /redirect       302; ?to=/
    /fields         a response with the fields the query names, in order, duplicates too
    anything else   the request as JSON
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from urllib.parse import parse_qsl

from aiohttp import WSMsgType, web

from proxy.sandbox.gateway import SUBSCRIPTION_KEY_FIELD

_SHOWN_CLAIMS = ("appid", "azp", "roles", "aud", "exp", "iss", "ver")
_TEXT_LIMIT_BYTES = 65_536  # a longer body is described by its length and digest only
_BODY_LIMIT_BYTES = 2**30
_WAIT_LIMIT_S = 600.0
_BLOCK = bytes(range(251)) * 261  # 251 is prime, so no power-of-two shift maps the pattern onto itself
_REDACTED = "[redacted]"

_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FIELD_VALUE = re.compile(r"[ -~]*")

_Handler = Callable[[web.BaseRequest, str, Mapping[str, object]], Awaitable[web.StreamResponse]]


def deterministic_blocks(length: int) -> Iterator[bytes]:
    """Yield the content of ``/bytes/N`` in blocks: byte i is i mod 251."""
    full, rest = divmod(length, len(_BLOCK))
    for _ in range(full):
        yield _BLOCK
    if rest:
        yield _BLOCK[:rest]


async def answer(request: web.BaseRequest, claims: Mapping[str, object]) -> web.StreamResponse:
    """Answer one request that the gateway let through; `claims` are its token's."""
    path = request.raw_path.partition("?")[0]
    name, _, argument = path.removeprefix("/").partition("/")
    handler = _HANDLERS.get(name, _describe)
    try:
        return await handler(request, argument, claims)
    except ValueError:
        return web.Response(status=400, text=f"/{name} cannot be asked for like this; see docs/sandbox.md.\n")
    except ConnectionError:  # the client has gone in the middle of the answer: nobody reads what is returned here
        return web.Response(status=500)


async def _describe(request: web.BaseRequest, _argument: str, claims: Mapping[str, object]) -> web.StreamResponse:
    length, digest, kept = 0, hashlib.sha256(), bytearray()
    async for block in request.content.iter_any():
        length += len(block)
        digest.update(block)
        if len(kept) <= _TEXT_LIMIT_BYTES:
            kept += block
    content: dict[str, object] = {"length": length, "sha256": digest.hexdigest(), "text": None}
    if length <= _TEXT_LIMIT_BYTES:
        content["text"] = kept.decode("latin-1")
    return web.json_response(
        {
            "method": request.method,
            "target": _as_text(request.raw_path.encode("utf-8", "surrogateescape")),
            "http_version": f"{request.version.major}.{request.version.minor}",
            "fields": [[_as_text(name), _shown_value(name, value)] for name, value in request.raw_headers],
            "content": content,
            "token": {
                "present": "Authorization" in request.headers,
                "claims": {name: claims[name] for name in _SHOWN_CLAIMS if name in claims},
            },
        }
    )


def _as_text(raw: bytes) -> str:
    return raw.decode("latin-1")


def _shown_value(name: bytes, value: bytes) -> str:
    """Return a field's value, with what must not be repeated left out: the scheme word stays."""
    lowered = name.lower()
    if lowered == b"authorization":
        scheme, blank, _ = _as_text(value).partition(" ")
        return f"{scheme} {_REDACTED}" if blank else _REDACTED
    return _REDACTED if lowered == SUBSCRIPTION_KEY_FIELD.lower().encode() else _as_text(value)


async def _bytes(request: web.BaseRequest, argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    length = _count(argument)
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    response.content_length = length
    return await _stream(request, response, length)


async def _chunked(request: web.BaseRequest, argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "application/octet-stream"})
    if request.version.minor >= 1:
        response.enable_chunked_encoding()
    return await _stream(request, response, _count(argument))


async def _stream(request: web.BaseRequest, response: web.StreamResponse, length: int) -> web.StreamResponse:
    await response.prepare(request)
    if request.method != "HEAD":
        for block in deterministic_blocks(length):
            await response.write(block)
    return response


def _count(argument: str) -> int:
    if not (argument.isascii() and argument.isdigit()) or int(argument) > _BODY_LIMIT_BYTES:
        raise ValueError
    return int(argument)


async def _slow(request: web.BaseRequest, argument: str, claims: Mapping[str, object]) -> web.StreamResponse:
    await asyncio.sleep(_seconds(argument))
    return await _describe(request, "", claims)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= _WAIT_LIMIT_S:
        raise ValueError
    return seconds


async def _sse(request: web.BaseRequest, _argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    query = dict(_query(request))
    count, interval_s = _count(query.get("count", "5")), _seconds(query.get("interval", "0.05"))
    fields = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
    response = web.StreamResponse(headers=fields)
    await response.prepare(request)
    for number in range(count):
        if number:
            await asyncio.sleep(interval_s)
        await response.write(f"id: {number}\ndata: event {number}\n\n".encode())
    return response


async def _status(request: web.BaseRequest, argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    status = _count(argument)
    if not 200 <= status <= 999:
        raise ValueError
    reason = dict(_query(request)).get("reason")
    if reason is not None and _FIELD_VALUE.fullmatch(reason) is None:
        raise ValueError
    if status in {204, 304}:
        return web.Response(status=status, reason=reason)
    return web.Response(status=status, reason=reason, text=f"status {status}\n")


async def _websocket(request: web.BaseRequest, _argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    socket = web.WebSocketResponse()
    if not socket.can_prepare(request):
        return web.Response(status=426, text="/websocket is for WebSocket.\n", headers={"Upgrade": "websocket"})
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket


async def _echo(request: web.BaseRequest, _argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": request.headers.get("Content-Type", "text/plain")})
    if "Content-Encoding" in request.headers:
        response.headers["Content-Encoding"] = request.headers["Content-Encoding"]
    if request.content_length is not None or not request.body_exists:
        response.content_length = request.content_length or 0
    elif request.version.minor >= 1:
        response.enable_chunked_encoding()
    await response.prepare(request)
    async for block in request.content.iter_any():
        await response.write(block)
    return response


async def _redirect(request: web.BaseRequest, _argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    location = dict(_query(request)).get("to", "/")
    if _FIELD_VALUE.fullmatch(location) is None:
        raise ValueError
    return web.Response(status=302, headers={"Location": location})


async def _fields(request: web.BaseRequest, _argument: str, _claims: Mapping[str, object]) -> web.StreamResponse:
    response = web.Response(text="fields\n")
    for name, value in _query(request):
        if _FIELD_NAME.fullmatch(name) is None or _FIELD_VALUE.fullmatch(value) is None:
            raise ValueError
        response.headers.add(name, value)
    return response


def _query(request: web.BaseRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.raw_path.partition("?")[2], keep_blank_values=True)


_HANDLERS: Mapping[str, _Handler] = {
    "bytes": _bytes,
    "chunked": _chunked,
    "slow": _slow,
    "sse": _sse,
    "status": _status,
    "websocket": _websocket,
    "echo": _echo,
    "redirect": _redirect,
    "fields": _fields,
}
