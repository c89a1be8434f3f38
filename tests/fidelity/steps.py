"""Exchanges in steps: what matters is when and how something passes, and not only what. Does I/O over loopback.

Each returns what became of its steps, in words that the bytes and their order decide, the same for every way.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from tests.fidelity.transcript import Message, read_message, read_responses
from tests.wire.messages import Incomplete, chunked
from tests.wire.rig import HOST

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.fidelity.ways import Way
    from tests.wire.rig import Peer

    Facts = dict[str, str]
    Play = Callable[[Way], Awaitable[Facts]]

# What has not passed by then is held back; all of it is a matter of milliseconds where it passes. It is waited for in so many
# looks: while the machine stalls nobody looks, so that nothing counts as held back that had no chance to pass.
HELD_S: Final = 2.0
_LOOK_S: Final = 0.05
# A client that has only ended sending looks the same at first; to find out takes time.
_GONE_S: Final = 5.0
# Time in which a proxy could say something of its own.
_SILENCE_S: Final = 0.2

_HOST_LINE: Final = b"Host: " + HOST.encode() + b"\r\n"
_CODED: Final = b"Transfer-Encoding: chunked\r\n"
_GET: Final = b"GET /x HTTP/1.1\r\n" + _HOST_LINE + b"\r\n"
_OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class NotReached(Exception):  # noqa: N818  # an outcome that is shown, not a fault
    """The request did not reach the upstream; the text says what became of it."""


async def holds(peer: Peer, happened: Callable[[Peer], object], within_s: float = HELD_S) -> bool:
    """Whether something comes to hold of a peer in time."""
    for _ in range(round(within_s / _LOOK_S)):
        with contextlib.suppress(AssertionError):
            await peer.until(happened, _LOOK_S)
            return True
    return bool(happened(peer))


async def soon(happened: Callable[[], object], within_s: float = HELD_S) -> bool:
    """Whether something that no single peer can tell comes to hold in time."""
    for _ in range(round(within_s / 0.002)):
        if happened():
            return True
        await asyncio.sleep(0.002)
    return bool(happened())


async def reach_upstream(way: Way, client: Peer) -> Peer:
    """Returns the upstream's connection on which the request has begun to arrive.

    Raises:
        NotReached: none has; the proxy may have answered itself.
    """
    await soon(lambda: way.upstream.heard() or client.lost or client.ended or client.received)
    if not way.upstream.heard():
        # What the client has may be an interim response of the proxy's own.
        await asyncio.sleep(_SILENCE_S)
    if not way.upstream.heard():
        start = bytes(client.received[9:12]).decode("latin-1")
        raise NotReached(f"answers {start} itself" if start else "gives no answer")
    return await way.upstream.next()


async def begin(way: Way, request: bytes) -> tuple[Peer, Peer]:
    """Sends a request; returns both ends once it has begun to arrive."""
    client = await way.connect()
    client.send(way.form(request))
    return client, await reach_upstream(way, client)


def _has(text: bytes) -> Callable[[Peer], object]:
    return lambda peer: text in peer.received


async def _when(peer: Peer, text: bytes) -> str:
    return "passes at once" if await holds(peer, _has(text)) else "is held back"


async def _an_event(way: Way) -> Facts:
    client, upstream = await begin(way, _GET)
    upstream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + _CODED + b"\r\n9\r\ndata: 1\n\n\r\n")
    first = await _when(client, b"data: 1\n\n")
    upstream.send(chunked(b"data: 2\n\n"))
    last = await holds(client, _has(b"data: 2\n\n"))
    return {"first event": first, "last event": "arrives" if last else "is lost"}


async def _a_head_before_its_content(way: Way) -> Facts:
    client, upstream = await begin(way, _GET)
    upstream.send(_OK[:-2])
    return {"head": await _when(client, b"\r\n\r\n")}


async def _an_upload_as_it_comes(way: Way) -> Facts:
    client, upstream = await begin(way, b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + _CODED + b"\r\n5\r\nfirst\r\n")
    return {"first piece": await _when(upstream, b"first")} | await _finish_upload(client, upstream)


async def _finish_upload(client: Peer, upstream: Peer) -> Facts:
    if not client.transport.is_closing():
        client.send(chunked(b"second"))
    return {"last piece": "arrives" if await holds(upstream, _has(b"second")) else "is lost"}


async def _a_continue(way: Way) -> Facts:
    client = await way.connect()
    client.send(way.form(b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"))
    if not await soon(lambda: way.upstream.heard() or client.received):
        return {"request": "is held back"}
    await asyncio.sleep(_SILENCE_S)
    if client.received:
        return {"100": "is said by the proxy"}
    upstream = await reach_upstream(way, client)
    is_expected = await holds(upstream, _has(b"100-continue"))
    upstream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
    passed = await _when(client, b"HTTP/1.1 100 Continue\r\n\r\n")
    client.send(b"body")
    arrived = await holds(upstream, _has(b"body"))
    return {
        "Expect": "reaches the upstream" if is_expected else "ends at the proxy",
        "100": passed,
        "content": "arrives" if arrived else "is lost",
    }


async def _no_continue(way: Way) -> Facts:
    client = await way.connect()
    client.send(way.form(b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + b"Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"))
    if not await soon(lambda: way.upstream.heard() or client.received):
        return {"request": "is held back"}
    await asyncio.sleep(_SILENCE_S)
    if client.received:
        return {"100": "is said by the proxy"}
    upstream = await reach_upstream(way, client)
    upstream.send(b"HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n")
    return {"417": await _when(client, b"HTTP/1.1 417 ")}


async def _early_hints(way: Way) -> Facts:
    client, upstream = await begin(way, _GET)
    upstream.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n")
    passed = await _when(client, b"HTTP/1.1 103 ")
    upstream.send(_OK)
    return {"103": passed, "answer": "arrives" if await holds(client, _has(b"\r\n\r\nok")) else "is lost"}


async def _an_early_answer(way: Way) -> Facts:
    client, upstream = await begin(way, b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + _CODED + b"\r\n5\r\nfirst\r\n")
    await holds(upstream, _has(b"first"))
    upstream.send(_OK)
    return {"answer": await _when(client, b"\r\n\r\nok")} | await _finish_upload(client, upstream)


async def _both_directions(way: Way) -> Facts:
    client, upstream = await begin(way, b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + _CODED + b"\r\n")
    upstream.send(b"HTTP/1.1 200 OK\r\n" + _CODED + b"\r\n")
    for turn in (b"turn-1", b"turn-2", b"turn-3"):
        client.send(b"6\r\n%b\r\n" % turn)
        if not await holds(upstream, _has(turn)):
            return {"upload": "waits for the answer's end"}
        upstream.send(b"6\r\n%b\r\n" % turn)
        if not await holds(client, _has(turn)):
            return {"answer": "waits for the upload's end"}
    return {"three turns": "pass"}


def _ending(message: Message | None, peer: Peer) -> str:
    """How a message that was cut looks to who reads it."""
    if message is None:
        return "gets nothing of it"
    is_framed = message.head.is_chunked or message.head.values(b"content-length")
    if message.is_complete and (is_framed or not peer.reset):
        return "takes it for complete"
    return "sees that it is cut" if peer.ended or peer.lost else "waits on"


async def _cut_response(way: Way, response: bytes, *, reset: bool) -> Facts:
    client, upstream = await begin(way, _GET)
    upstream.send(response)
    await holds(client, _has(response[-4:]))
    if reset:
        upstream.cut()
    else:
        upstream.close()
    await holds(client, lambda peer: peer.ended or peer.lost)
    _, message = read_responses(bytes(client.received), ended=client.ended or client.lost)
    if message is not None and message.head.status >= 500:
        return {"client": f"gets {message.head.status} instead"}
    return {"client": _ending(message, client)}


async def _cut_in_length(way: Way) -> Facts:
    return await _cut_response(way, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", reset=False)


async def _cut_in_chunks(way: Way) -> Facts:
    return await _cut_response(way, b"HTTP/1.1 200 OK\r\n" + _CODED + b"\r\n8\r\nhalf", reset=False)


async def _cut_between_chunks(way: Way) -> Facts:
    return await _cut_response(way, b"HTTP/1.1 200 OK\r\n" + _CODED + b"\r\n4\r\nha\r\n\r\n", reset=False)


async def _reset_until_close(way: Way) -> Facts:
    return await _cut_response(way, b"HTTP/1.1 200 OK\r\n\r\nhalf", reset=True)


async def _cut_upload(way: Way) -> Facts:
    client, upstream = await begin(way, b"PUT /x HTTP/1.1\r\n" + _HOST_LINE + _CODED + b"\r\n4\r\nhalf\r\n")
    await holds(upstream, _has(b"half"))
    client.close()
    await holds(upstream, lambda peer: peer.ended or peer.lost)
    try:
        message = read_message(bytes(upstream.received), ended=upstream.ended, is_request=True)
    except Incomplete:
        message = None
    return {"upstream": _ending(message, upstream)}


async def _client_leaves(way: Way) -> Facts:
    client, upstream = await begin(way, _GET)
    await upstream.read_until()
    client.close()
    is_told = await holds(upstream, lambda peer: peer.ended or peer.lost, _GONE_S)
    return {"upstream": "is told" if is_told else "is not told"}


async def _half_close(way: Way) -> Facts:
    client = await way.connect()
    client.send(way.form(_GET))
    upstream = await reach_upstream(way, client)
    upstream.kept_open = True
    await upstream.read_until()
    client.end()
    await asyncio.sleep(_SILENCE_S)
    if not upstream.lost:
        upstream.send(_OK)
    return {"answer": "arrives" if await holds(client, _has(b"\r\n\r\nok")) else "never comes"}


async def _pipelined(way: Way) -> Facts:
    client = await way.connect()
    client.send(way.form(_GET.replace(b"/x", b"/1")) + way.form(_GET.replace(b"/x", b"/2")))
    for _ in range(2):
        upstream = await reach_upstream(way, client) if not client.received else await way.upstream.next()
        number = (await upstream.read_until()).partition(b" HTTP/1.")[0][-1:]
        upstream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nanswer-%b" % number)
        way.upstream.release(upstream)
    in_order = await holds(client, _has(b"answer-2")) and client.received.find(b"answer-1") < client.received.find(
        b"answer-2"
    )
    return {"answers": "come in order" if in_order else "do not come, or not in order"}


async def _websocket(way: Way) -> Facts:
    client, upstream = await begin(
        way,
        b"GET /x HTTP/1.1\r\n"
        + _HOST_LINE
        + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    )
    await upstream.read_until()
    upstream.send(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n\x81\x02hi"
    )
    passed = await _when(client, b"HTTP/1.1 101 ")
    down = await holds(client, _has(b"\x81\x02hi"))
    client.send(b"\x81\x82\0\0\0\0yo")
    up = await holds(upstream, lambda peer: _unmask(bytes(peer.received)) == b"yo")
    return {"101": passed, "frames": "pass both ways" if down and up else "do not pass"}


def _unmask(frame: bytes) -> bytes:
    """The payload of a short text frame; the mask is its sender's own (RFC 6455 §5.3)."""
    if frame[:2] != b"\x81\x82" or len(frame) < 8:
        return b""
    return bytes(frame[6 + index] ^ frame[2 + index] for index in range(2))


async def _kept_alive(way: Way) -> Facts:
    client, upstream = await begin(way, _GET)
    await upstream.read_until()
    upstream.send(_OK)
    await holds(client, _has(b"\r\n\r\nok"))
    is_closed = await holds(client, lambda peer: peer.ended or peer.lost, _SILENCE_S)
    return {"client's connection": "is closed" if is_closed else "stays open"}


STEPS: Final[Mapping[str, Play]] = {
    "step: server-sent events, one now and one later": _an_event,
    "step: a head whose content comes later": _a_head_before_its_content,
    "step: an upload in pieces": _an_upload_as_it_comes,
    "step: Expect, and the upstream says 100": _a_continue,
    "step: Expect, and the upstream refuses": _no_continue,
    "step: 103 while the answer is not known yet": _early_hints,
    "step: an answer before the upload's end": _an_early_answer,
    "step: upload and answer in turns": _both_directions,
    "step: the upstream closes within a length": _cut_in_length,
    "step: the upstream closes within a chunk": _cut_in_chunks,
    "step: the upstream closes between chunks": _cut_between_chunks,
    "step: the upstream resets a response until close": _reset_until_close,
    "step: the client leaves amid its chunked upload": _cut_upload,
    "step: the client leaves while it waits": _client_leaves,
    "step: the client half-closes behind its request": _half_close,
    "step: two pipelined requests": _pipelined,
    "step: a WebSocket": _websocket,
    "step: a connection after its first exchange": _kept_alive,
}
