"""Faults of the past, this proxy's and its peers', to be put into the interpreted relay: does the simulation notice?

How to plant another: write a function that stands in for an attribute of a class or module of the product, and does what the fault
did; add a `Fault` with it to `FAULTS`, at the end, with words of the promise that it breaks (what `World.fail` is told). Then
``python -m tests.simulation.test_planted WORDS`` says after how many exchanges it is found, with WORDS of its name. Add the
number to `KNOWN` in `test_planted.py`, where the test looks first. One that is found nowhere has found a hole in the simulation.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Final
from unittest import mock

import pytest

import proxy.relay.client
import proxy.relay.exchange
import proxy.relay.http2.upstream
import proxy.relay_server
from proxy.dialing.resolver import Resolver
from proxy.identity.cache import TokenCache
from proxy.identity.source import TokenSource
from proxy.identity.sources import TokenSources
from proxy.relay.accepted_connection import AcceptedConnection
from proxy.relay.client import ClientConnection
from proxy.relay.destinations import Destination, Destinations
from proxy.relay.exchange import Exchange
from proxy.relay.http2.client import ClientStream
from proxy.relay.http2.upstream import Http2UpstreamConnection, UpstreamStream
from proxy.relay.known_client import KnownClient
from proxy.relay.message import HOP_BY_HOP
from proxy.relay.pool import UpstreamPool
from proxy.relay.replay import KeptContent
from proxy.relay.secure import SecureTransport
from proxy.relay.sides import CHUNKED, UNTIL_CLOSE
from proxy.relay.splice import Side, Splice, join
from proxy.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

if not str(proxy.relay.exchange.__file__).endswith(".py"):
    pytest.skip("compiled classes cannot be given faults", allow_module_level=True)


@dataclass(frozen=True)
class Fault:
    """A fault that can be planted.

    Attributes:
        name: what goes wrong.
        origin: where it was seen.
        where, what, fault: the attribute that is replaced, and by what.
        broken: words of the promise that is expected to be broken.
    """

    name: str
    origin: str
    where: Any
    what: str
    fault: Any
    broken: str

    @contextlib.contextmanager
    def planted(self) -> Iterator[None]:
        with mock.patch.object(self.where, self.what, self.fault):
            yield


async def _get_ready_unchecked(self: Any, *, new: bool) -> Any:
    await self._find_token()
    return await self._find_connection(new=new)


def _age_only_what_is_here(self: Any, slept_s: float) -> None:
    self._cache.age(slept_s)


def _keep_unasked(self: Any, data: bytes, take: Callable[..., None] = UpstreamConnection.data_received) -> None:
    if self.receiver is None:
        self._buffer += data
    else:
        take(self, data)


def _end_by_any_end(self: Any, exc: Any, lose: Callable[..., None] = UpstreamConnection.connection_lost) -> None:
    if self._mode == UNTIL_CLOSE:
        self.clean_end, exc = True, None
    lose(self, exc)


def _drop_no_field(self: Any, *arguments: Any, route: Callable[..., Destination] = Destinations._routed) -> Destination:
    return replace(route(self, *arguments), drop=HOP_BY_HOP)


def _lose_without_record(self: Any) -> None:
    self._cancel()


def _nothing(*_: object, **__: object) -> None:
    """Do nothing."""


def _expire_never(self: Any, _now: float) -> Any:
    return self.token


def _release_in_any_case(self: Any, *, is_whole: bool) -> None:  # noqa: ARG001  # the seam's signature
    self.receiver = None
    self.reused = True
    self.pool.release(self)


def _wait_for_ever(self: Any) -> None:
    self.deadline = inf


def _ask_for_no_name(
    self: Any, *arguments: Any, make: Callable[..., None] = SecureTransport.__init__, **options: Any
) -> None:
    make(self, *arguments, **{**options, "server_hostname": None})


async def _keep_the_flight(self: Any, name: str, lookup: Any, look_up: Callable[..., Any] = Resolver._look_up) -> Any:
    flight = self._flights.get(name)
    answer = await look_up(self, name, lookup)
    if not answer.addresses:
        self._flights[name] = flight
    return answer


def _one_source_for_all(
    self: Any, credential: str, target: Any, find: Callable[..., Any] = TokenSources.source_for
) -> Any:
    return next(iter(self._sources.values()), None) or find(self, credential, target)


def _cut_by_fin(self: Any) -> bool:
    self._protocol.eof_received()
    self.close()
    return False


def _end_chunks_by_end(self: Any, exc: Any, lose: Callable[..., None] = UpstreamConnection.connection_lost) -> None:
    receiver = self.receiver
    if self._mode == CHUNKED and receiver is not None and self.answered:
        self.receiver = None
        lose(self, exc)
        receiver.on_response_end(b"", b"")
    else:
        lose(self, exc)


def _keep_the_first(self: Any, content: bytes) -> None:
    self._size += len(content)
    if self._size <= self._limit:
        self._pieces.append(content)


def _record_twice(self: Any, outcome: str, code: str = "", record: Callable[..., None] = Exchange._record) -> None:
    record(self, outcome, code)
    if outcome == "aborted_client" and self._attempts > 0:
        record(self, outcome, code)


def _end_both(self: Any) -> bool:
    self.splice.close()
    return False


def _lose_early(relay: Any, client: Any, upstream: Any, on_end: Any) -> None:
    upstream.early = b""
    join(relay, client, upstream, on_end)


def _take_any_reset_for_unprocessed(
    self: Any, code: int, reason: str, take: Callable[..., None] = UpstreamStream.on_reset
) -> None:
    self._stream.is_unprocessed = True
    take(self, code, reason)


def _cut_by_the_end(self: Any) -> None:
    self.end(b"", b"")
    self.finish(request_complete=False)


def _give_to_the_first(self: Any, _stream: Any, content: bytes, ends: bool) -> None:
    user = next(iter(self.core.streams.values())).user
    if user is not None:
        user.on_content(content, ends)


def _encode_once(lines: bytes, encode: Callable[[bytes], bytes] = proxy.relay.http2.upstream._encode_lines) -> bytes:
    encoded = _ENCODED.setdefault(lines.partition(b"token-")[0], encode(lines))
    return encoded if b"token-" in lines else encode(lines)


def _keep_behind_a_close(self: Any, *, is_whole: bool, end: Callable[..., None] = Exchange._end_upstream) -> None:
    end(self, is_whole=is_whole or (self._response_complete and self._client.ends_with_response))


def _finish_and_forget(self: Any, *, is_whole: bool, finish: Callable[..., None] = UpstreamConnection.finish) -> None:
    if is_whole or self.transport.is_closing():
        finish(self, is_whole=is_whole)
    else:
        self.receiver = None


def _leave_late(self: Any, leave: Callable[..., None] = KnownClient.leave) -> None:
    asyncio.get_running_loop().call_later(1.0, leave, self)


def _drop_trailers(self: Any, _fields: Any) -> None:
    if self.receiver is not None:
        self._complete(self.receiver, b"", b"")


def _end_by_a_reset(self: Any, code: int, reason: str, take: Callable[..., None] = UpstreamStream.on_reset) -> None:
    if self.answered and self.receiver is not None and not reason:
        self._is_open = False
        self._complete(self.receiver, b"", b"")
    else:
        take(self, code, reason)


_ENCODED: Final[dict[bytes, bytes]] = {}


FAULTS: Final = (
    Fault(
        "A token that ends while a connection is opened is sent", "this project",
        Exchange, "_get_ready", _get_ready_unchecked, "with a token that ended",
    ),
    Fault(
        "A token asked for before a sleep looks new behind it", "this project, lost in a merge and found by the simulation",
        TokenSource, "wake", _age_only_what_is_here, "with a token that ended",
    ),
    Fault(
        "In an outage, the token is used past its end", "envoyproxy/envoy#44674",
        TokenCache, "usable", _expire_never, "with a token that ended",
    ),
    Fault(
        "After a 401, the same token is sent again", "this project, with several workers",
        TokenSource, "report_refusal", lambda *_, **__: True, "sent again with the token that was refused",
    ),
    Fault(
        "The client's own Authorization goes along", "peers that add the field and do not replace it",
        Destinations, "_routed", _drop_no_field, "for a token",
    ),
    Fault(
        "Bytes that nobody asked for are kept for the next request", "RFC 9112 §11.2, response splitting",
        UpstreamConnection, "data_received", _keep_unasked, "gets the response to",
    ),
    Fault(
        "A connection is kept although its response was not whole", "smuggling by reuse",
        UpstreamConnection, "finish", _release_in_any_case, "idle upstreams are left",
    ),
    Fault(
        "A response until the connection's end is whole by any end", "elazarl/goproxy#740 and its like",
        UpstreamConnection, "connection_lost", _end_by_any_end, "looks whole",
    ),
    Fault(
        "A cut response ends with FIN", "RFC 9112 §8, truncation",
        proxy.relay.client, "reset_connection", lambda transport: transport.close(), "looks whole",
    ),
    Fault(
        "A POST is sent again when its connection was lost", "proxies that repeat whatever they are given",
        proxy.relay.exchange, "_IDEMPOTENT", frozenset((b"GET", b"POST", b"PUT", b"HEAD", b"DELETE")), "(POST) came to an upstream",
    ),
    Fault(
        "The place of a connection that cannot be opened is lost", "this project's pool",
        UpstreamPool, "_give_up", _nothing, "places in the pool",
    ),
    Fault(
        "A client that leaves has no record, and stays counted", "this project, exchanges that ended twice or never",
        Exchange, "on_client_lost", _lose_without_record, "exchanges are counted",
    ),
    Fault(
        "A client that does not read is written to without end", "mitmproxy/mitmproxy#8246 and its like",
        ClientConnection, "pause_writing", _nothing, "bytes more than the limit",
    ),
    Fault(
        "An upstream that says nothing is waited for without end", "agents that hang behind their proxy",
        UpstreamConnection, "_await_response", _wait_for_ever, "has waited",
    ),
    Fault(
        "Whoever a name leads to is believed to be it", "clients that leave the certificate's name unchecked",
        SecureTransport, "__init__", _ask_for_no_name, "which is for",
    ),
    Fault(
        "A name that was not found is never asked for again", "look-ups that are shared and not cleaned up",
        Resolver, "_look_up", _keep_the_flight, "look-ups of names are left",
    ),
    Fault(
        "Tokens are kept without regard to the scope", "caches by credential alone",
        TokenSources, "source_for", _one_source_for_all, "with a token for",
    ),
    Fault(
        "A connection that has ended keeps its place among the accepted", "this project, connections counted for ever",
        AcceptedConnection, "leave", _nothing, "accepted connections are left",
    ),
    Fault(
        "An exchange is counted for ever", "this project, its limit of exchanges",
        KnownClient, "leave", _nothing, "exchanges are counted",
    ),
    Fault(
        "A TLS connection without close_notify counts as ended", "RFC 8446 §6.1, truncation",
        SecureTransport, "eof_received", _cut_by_fin, "looks whole",
    ),
    Fault(
        "A chunked response ends with its connection", "RFC 9112 §8, truncation",
        UpstreamConnection, "connection_lost", _end_chunks_by_end, "looks whole",
    ),
    Fault(
        "A request that was sent, and whose client leaves, has two records", "this project, exchanges that ended twice",
        Exchange, "_record", _record_twice, "has 2 records",
    ),
    Fault(
        "A tunnel whose bytes nobody takes ends with FIN", "this project, found by the simulation",
        Splice, "on_deadline", Splice.close, "sees a proper end",
    ),
    Fault(
        "One end's end ends both directions of a tunnel", "proxies without half-close",
        Side, "eof_received", _end_both, "sees a proper end",
    ),
    Fault(
        "A tunnel is cut with FIN", "RFC 9110 §9.3.6, truncation",
        Splice, "abort", Splice.close, "sees a proper end",
    ),
    Fault(
        "A tunnel is filled without end for whoever does not read", "tunnels without back-pressure",
        Side, "pause_writing", _nothing, "bytes more than the limit",
    ),
    Fault(
        "What comes with 101 is lost", "proxies that read ahead, and WebSocket behind them",
        proxy.relay.exchange, "join", _lose_early, "gets what the other end has not sent",
    ),
    Fault(
        "A name without a route may lead to any address", "DNS rebinding",
        proxy.relay_server, "check_destination", _nothing, "gets what is no TLS",
    ),
    Fault(
        "Any stream that is reset counts as not processed", "RFC 9113 §8.7, repeated POSTs",
        UpstreamStream, "on_reset", _take_any_reset_for_unprocessed, "(POST) came to an upstream",
    ),
    Fault(
        "A response that was cut ends its stream properly", "RFC 9113 §8.1, truncation",
        ClientStream, "cut", _cut_by_the_end, "looks whole",
    ),
    Fault(
        "Content goes to the connection's oldest stream", "responses crossed between streams",
        Http2UpstreamConnection, "on_content", _give_to_the_first, "forbids",
    ),
    Fault(
        "A request over HTTP/2 is counted for ever", "Rapid Reset, and its mends that lost count",
        ClientStream, "_leave", _nothing, "requests over HTTP/2 are left",
    ),
    Fault(
        "The encoded token of one request is used for all", "caches of encoded fields",
        proxy.relay.http2.upstream, "_encode_lines", _encode_once, "is sent with",
    ),
    Fault(
        "A request is sent again without the content that was not kept", "chosen by somebody who did not write the simulation",
        KeptContent, "add", _keep_the_first, "looks whole",
    ),
    Fault(
        "A connection is kept although half of a request was sent on it", "chosen by somebody who did not write the simulation",
        Exchange, "_end_upstream", _keep_behind_a_close, "gets content of another request",
    ),
    Fault(
        "A connection whose response came before its request's end is left open, and forgotten", "a seed that told of one",
        UpstreamConnection, "finish", _finish_and_forget, "neither used nor closed, and",
    ),
    Fault(
        "An exchange stays counted for a second behind its end", "limits that refuse what there is room for",
        KnownClient, "leave", _leave_late, "exchanges are counted, and",
    ),
    Fault(
        "Trailers are lost", "proxies that translate HTTP/2, and gRPC behind them",
        UpstreamStream, "on_trailers", _drop_trailers, "ends with trailers",
    ),
    Fault(
        "A call that is cut in front of its trailers looks whole", "RFC 9113 §8.1, truncation",
        UpstreamStream, "on_reset", _end_by_a_reset, "ends with trailers",
    ),
)  # fmt: skip
