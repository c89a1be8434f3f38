"""One request and its response: finds a token and a connection, sends, passes the response down, says how it ended. Does I/O.

The exchange is what joins a client connection and an upstream connection, and the only thing that does. When either side goes,
the exchange lets go of the other at once, so a response can never reach another request.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from proxy.dialing.resolver import Attempt
from proxy.errors import (
    ClientError,
    IdentityPlatformUnavailable,
    ProxyError,
    UpstreamClosed,
    UpstreamTimeout,
)
from proxy.policy.refusal import Refusal, judge_refusal
from proxy.relay.answers import CONNECTION_CLOSE
from proxy.relay.chunked import format_chunk, format_last_chunk
from proxy.relay.head import format_request_head, format_response_head
from proxy.relay.recording import ended, note_trace
from proxy.relay.secure import SecureTransport
from proxy.relay.splice import Splice
from proxy.relay.standing import check_upgrade
from proxy.tasks import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.identity.source import AccessToken
    from proxy.relay.client import ClientConnection
    from proxy.relay.destinations import Destination
    from proxy.relay.message import RequestHead, ResponseHead
    from proxy.relay.record import TraceNote
    from proxy.relay.upstream import UpstreamConnection

_KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
# RFC 9110 §9.2.2. TRACE is idempotent as well, and refused: see `ClientConnection`.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
# A gateway's refusal is under 200 bytes; an API's own 401 may be a page.
_HELD_BYTES: Final = 16_384
# How often a token may reach its end while its connection is being opened.
_ROUNDS: Final = 3


class Exchange:
    """One request and its response.

    Attributes:
        client: who sent the request.
        request: its head.
        upstream: the connection that serves it; None before one is found and after it has been let go.
        request_complete: whether the request has been read whole.
        response_begun: whether a byte of a final response has been written to the client.
        response_complete: whether the response has been written whole.
        sent_bytes: response content passed to the client.
    """

    __slots__ = (
        "_attempts",
        "_chunks_pass",
        "_closes_client",
        "_continued",
        "_destination",
        "_head_sent_at",
        "_held",
        "_held_content",
        "_held_head",
        "_kept",
        "_kept_bytes",
        "_name_wait",
        "_pending",
        "_pending_bytes",
        "_received_bytes",
        "_replayed",
        "_reused",
        "_started",
        "_status",
        "_target",
        "_task",
        "_token",
        "_token_wait",
        "_upstream_s",
        "client",
        "request",
        "request_complete",
        "response_begun",
        "response_complete",
        "sent_bytes",
        "upstream",
    )

    def __init__(self, client: ClientConnection, request: RequestHead, destination: Destination, target: bytes) -> None:
        self.client = client
        self.request = request
        self.upstream: UpstreamConnection | None = None
        self.request_complete = False
        self.response_begun = False
        self.response_complete = False
        self.sent_bytes = 0
        self._destination = destination
        self._target = target
        self._started = time.monotonic()
        self._head_sent_at = 0.0
        self._upstream_s: float | None = None
        self._status = 0
        self._received_bytes = 0
        self._token: AccessToken | None = None
        self._token_wait: tuple[float, float] | None = None
        self._name_wait: tuple[float, float] | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._kept: list[bytes] | None = []
        self._kept_bytes = 0
        self._attempts = 0
        self._replayed = False
        self._continued = False
        self._chunks_pass = request.minor == 1
        self._closes_client = not request.keeps_alive
        self._held: list[bytes] | None = None
        self._held_head: ResponseHead | None = None
        self._held_content = b""
        self._reused = False

    # The request.

    def start(self) -> None:
        """Send what there is of the request: at once where a token and a connection are at hand."""
        tokens = self._destination.tokens
        if tokens is not None:
            self._token = tokens.peek(self._started)
            if self._token is None:
                self._spawn(self._prepare)
                return
        connection = self._destination.pool.take()
        if connection is None:
            self._spawn(self._prepare)
        else:
            self._send(connection)

    def on_request_content(self, content: bytes, *, chunked: bool) -> None:
        """Pass content up; keep a copy while it is small, in case the request must be sent again."""
        self._received_bytes += len(content)
        self._pass_up(format_chunk(content) if chunked else content)

    def on_request_end(self, trailers: bytes | None) -> None:
        """Take note that the request is complete.

        Args:
            trailers: of a chunked request: field lines with CRLF, or nothing; None for any other framing.
        """
        if trailers is not None:
            self._pass_up(format_last_chunk(trailers))
        self.request_complete = True
        if self.upstream is not None:
            self.upstream.await_response()
        if self.response_complete:
            self._finish_upstream(fit=True)
            self._end(outcome="ok")

    def _pass_up(self, wire: bytes) -> None:
        if self._kept is not None:
            self._kept_bytes += len(wire)
            if self._kept_bytes <= self.client.relay.limits.replay_bytes:
                self._kept.append(wire)
            else:
                self._kept = None
        if self.upstream is not None:
            self.upstream.transport.write(wire)
        elif not self.response_complete:
            self._pending.append(wire)
            self._pending_bytes += len(wire)
            if self._pending_bytes > self.client.relay.limits.buffer_bytes:
                self.client.hold_reading()

    def _spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        what = f"an exchange with {self._destination.name}"
        self._task = asyncio.get_running_loop().create_task(guard(work, self._on_task_failed, what))

    def _on_task_failed(self, error: ProxyError) -> None:
        self._task = None
        self._held = None
        self.fail(error)

    async def _prepare(self) -> None:
        """Get ready, then send. The slow path: the first request, or a stale pool."""
        connection = await self._get_ready(new=False)
        self._task = None
        self._send(connection)

    async def _retry(self) -> None:
        """Send the request again from its beginning, on a new connection."""
        connection = await self._get_ready(new=True)
        self._task = None
        self._send(connection)

    async def _get_ready(self, *, new: bool) -> UpstreamConnection:
        """Wait for all that a request needs; the only way to it but for what is at hand at once.

        Args:
            new: whether the connection may not be a kept-alive one.

        Returns:
            A connection. The token is usable at this moment: its end is checked behind every wait (invariant 2).
        """
        tokens, pool = self._destination.tokens, self._destination.pool
        for _ in range(_ROUNDS):
            await self._find_token()
            connection = await self._find_connection(new=new)
            if tokens is None or (self._token is not None and time.monotonic() < self._token.usable_until_mono):
                return connection
            pool.release(connection)
            new = False  # the one that has just come back was never used
        raise IdentityPlatformUnavailable(
            "Access tokens reached their end as fast as connections to the upstream were opened. The request was not sent.",
            code="expired_on_arrival",
        )

    async def _find_token(self) -> None:
        tokens = self._destination.tokens
        if tokens is None:
            return
        started = time.monotonic()
        self._token = tokens.peek(started)
        if self._token is None:
            wait_s = self.client.relay.timeouts.token_s
            try:
                async with asyncio.timeout(wait_s):
                    self._token = await tokens.acquire()
            except TimeoutError:
                raise IdentityPlatformUnavailable(
                    f"The identity platform gave no token within {wait_s:g} s (timeouts.token_s). The request was not sent.",
                    retry_after_s=5,
                ) from None
            finally:
                waited_s = time.monotonic() - started
                self._token_wait = (started - self._started, waited_s)
                self.client.relay.counters.token_wait.observe(waited_s)

    async def _find_connection(self, *, new: bool) -> UpstreamConnection:
        attempt = Attempt()
        try:
            return await self._destination.pool.acquire(attempt, new=new)
        finally:
            if attempt.name_wait is not None:
                begun, waited_s = attempt.name_wait
                self._name_wait = (begun - self._started, waited_s)

    def _send(self, connection: UpstreamConnection) -> None:
        self.upstream = connection  # first, so that no fault leaves it behind
        destination, request = self._destination, self.request
        added = destination.added if self._token is None else destination.added + self._token.field_line
        head = format_request_head(
            request,
            self._target,
            destination.host_field,
            destination.drop,
            added,
            upgrades=self._upgrades,
        )
        self._attempts += 1
        connection.begin(self)
        self._reused = connection.reused
        if self._reused:
            self.client.relay.counters.reused += 1
        self._head_sent_at = time.monotonic()
        if self._pending:
            head += b"".join(self._pending)
            self._pending = []
            self._pending_bytes = 0
            self.client.release_reading()
        connection.transport.write(head)
        if self.request_complete:
            connection.await_response()

    def _repeat(self) -> None:
        """Send the request again from its beginning; only where all of it that was read has been kept."""
        self.upstream = None
        self._pending = list(self._kept or ())
        self._spawn(self._retry)

    @property
    def _upgrades(self) -> bool:
        """Whether the client asks for the one protocol that is passed on (RFC 6455 §4.1)."""
        return self.request.upgrade is not None and self.request.upgrade.lower() == b"websocket"

    # The response.

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx response down; HTTP/1.0 has none (RFC 9110 §15.2)."""
        if head.status == 100:
            self._continued = True
        if self.request.minor == 1:
            self.client.write(format_response_head(head, b"", chunked=True))

    def on_upgraded(self, connection: UpstreamConnection, head: ResponseHead, rest: bytes) -> None:
        """Pass 101 down and join the two connections (RFC 9110 §7.8)."""
        if not self._upgrades or not self.request_complete:
            connection.detach()
            self.fail(UpstreamClosed("The upstream switched protocols (101) although nobody asked it to."))
            return
        try:
            check_upgrade(self.client, self.request, self._destination, connection.transport)
        except ProxyError as error:
            connection.detach()
            self.fail(error)
            return
        self._status = 101
        relay = self.client.relay
        relay.counters.upgrades += 1
        upgrade = next((line for name, line in zip(head.names, head.lines, strict=True) if name == b"upgrade"), b"")
        connection_line = b"Connection: Upgrade\r\n" + (upgrade + b"\r\n" if upgrade else b"")
        early = self.client.take_buffer()
        self.client.write(format_response_head(head, connection_line, chunked=True) + rest)
        self.response_begun = True
        connection.exchange = None
        connection.deadline = float("inf")
        relay.clients.discard(self.client)
        if early:
            connection.transport.write(early)

        def on_end(up: int, down: int) -> None:
            self._received_bytes, self.sent_bytes = up, down
            if connection.opened:
                connection.opened = False
                connection.pool.forget(connection)
            self._record("ok")
            if self.client.seat is not None:
                self.client.seat.leave()

        splice = Splice(relay, self.client.transport, connection.transport, on_end)
        if self.client.half_closed:
            splice.client.eof_received()

    def on_response_head(self, head: ResponseHead, *, until_close: bool) -> bytes:
        """Return the head as it goes to the client; the caller writes it with the first content."""
        self._upstream_s = time.monotonic() - self._head_sent_at
        self._status = head.status
        if head.status == 401 and self._token is not None and not self._replayed:
            self._held, self._held_head = [], head
        chunked = head.chunked and self._chunks_pass
        delimited = not until_close and (chunked or not head.chunked)
        if not delimited or self.client.announces_end:
            self._closes_client = True
        if not self.request_complete and not self._may_continue(head):
            self._closes_client = True
        line = CONNECTION_CLOSE if self._closes_client else b"" if self.request.minor == 1 else _KEEP_ALIVE
        if head.status == 426:
            # Upgrade ends at this hop, but here it is what the client has to know (RFC 9110 §15.5.22).
            wanted = b", ".join(head.values(b"upgrade"))
            if wanted:
                line += b"Connection: Upgrade\r\nUpgrade: " + wanted + b"\r\n"
        return format_response_head(head, line, chunked=self._chunks_pass)

    def _may_continue(self, head: ResponseHead) -> bool:
        """Whether the rest of a request whose response came early will still be taken, by both sides."""
        return head.keeps_alive and (self._continued or not self.request.expects_continue)

    def on_response_content(self, prefix: bytes, content: bytes) -> None:
        """Pass content down, behind `prefix`: the head, where this is the first."""
        self.sent_bytes += len(content)
        if self._held is not None:
            self._held_content += content
        self._pass_down(prefix + content if prefix else content)

    def on_response_chunks(self, prefix: bytes, content: bytes, trailers: bytes | None) -> None:
        """Pass chunked content down as one chunk, or bare to an HTTP/1.0 client.

        Args:
            prefix: the head, where this is the first content.
            content: decoded; may be empty.
            trailers: once the last chunk has come: trailer field lines with CRLF, or nothing; None before that.
        """
        self.sent_bytes += len(content)
        if self._held is not None:
            self._held_content += content
        if self._chunks_pass:
            if content:
                content = format_chunk(content)
            if trailers is not None:
                content += format_last_chunk(trailers)
        self._pass_down(prefix + content if prefix else content)

    def _pass_down(self, wire: bytes) -> None:
        if self._held is not None:
            self._held.append(wire)
            if sum(map(len, self._held)) > _HELD_BYTES:
                self._let_go()
        elif wire:
            self.response_begun = True
            self.client.write(wire)

    def _let_go(self) -> None:
        """Pass down a 401 response that was held back to be judged."""
        held, self._held = self._held, None
        if held:
            self.response_begun = True
            self.client.write(b"".join(held))

    def on_response_end(self, connection: UpstreamConnection, *, fit: bool) -> None:
        """Take note that the response is complete.

        Args:
            connection: the one it came on; it has let go of this exchange.
            fit: whether it may serve another.
        """
        if self._held is not None and self._judge(connection, fit=fit):
            return
        self.response_complete = True
        if self.request_complete:
            self._finish_upstream(fit=fit)
        elif fit and not self._closes_client:
            # The upload goes on to an upstream that has answered already: it said it would keep the connection.
            connection.finish_upload(self)
            return
        else:
            self._closes_client = True
            self._finish_upstream(fit=False)
        self._end(outcome="ok")

    def _judge(self, connection: UpstreamConnection, *, fit: bool) -> bool:
        """Decides about a held 401: True where the request is sent again with another token.

        Source: the reaction to each kind of 401 is in `proxy.policy.refusal`.
        """
        tokens, token, head = self._destination.tokens, self._token, self._held_head
        if tokens is None or token is None or head is None or self._held is None:
            self._let_go()
            return False
        verdict = judge_refusal(head.challenges, self._held_content)
        if verdict.refusal is Refusal.NOT_THE_TOKEN or not tokens.rejected(
            token, time.monotonic(), verdict.claims, certain=verdict.certain
        ):
            self._let_go()
            return False
        if not self.request_complete or self._kept is None:
            self._let_go()
            return False
        self.upstream = None
        if fit and connection.fit:
            connection.reused = True
            self._destination.pool.release(connection)
        else:
            connection.transport.close()
        self._replayed = True
        self._token = None
        self._spawn(self._replay)
        return True

    async def _replay(self) -> None:
        """Send the request once more with another token; without one, the 401 is the answer after all."""
        try:
            connection = await self._get_ready(new=False)
        except ProxyError:
            self._task = None
            self._let_go()
            self.response_complete = True
            self._end(outcome="ok")
            return
        self._task = None
        self._held = self._held_head = None
        self._closes_client = (
            not self.request.keeps_alive
        )  # what the refused response's framing asked for does not count
        self._held_content = b""
        self.sent_bytes = 0
        self.client.relay.counters.replays += 1
        self._pending = list(self._kept or ())
        self._send(connection)

    # Ends.

    def on_upstream_lost(self, connection: UpstreamConnection) -> None:
        """Repeat, answer or cut: the upstream connection went before the response was complete."""
        self.upstream = None
        if self.response_complete:
            # The rest of an upload that nobody takes any more.
            self._closes_client = True
            self._end(outcome="ok")
        elif not connection.answered and connection.reused and self._repeatable():
            self.client.relay.counters.retries += 1
            self._repeat()
        elif self._held is not None or not self.response_begun:
            self._held = None
            self.fail(UpstreamClosed(self._describe_loss(connection)))
        else:
            self.client.relay.counters.count_abort("upstream")
            self._abort("aborted_upstream", "response_incomplete" if connection.clean_end else "connection_reset")

    def on_upstream_refused(self, error: ProxyError) -> None:
        """Answer at once: the upstream has refused our client certificate, and another try would end the same."""
        self.upstream = None
        self._held = None
        self.fail(error)

    def on_upstream_silent(self) -> None:
        """Answer or cut: the upstream kept still for too long, and its connection is cut already."""
        self.upstream = None
        timeouts = self.client.relay.timeouts
        if self.response_complete:
            self._closes_client = True
            self._end(outcome="ok")
        elif self.response_begun:
            self.client.relay.counters.count_abort("timeout")
            self._abort("aborted_timeout", "http_response_timeout")
        else:
            self.fail(
                UpstreamTimeout(
                    f"{self._destination.authority} did not answer within {timeouts.response_s:g} s (timeouts.response_s)."
                )
            )

    def on_client_lost(self) -> None:
        """Let go of the upstream: nobody waits for the response any more."""
        self._cancel()
        if not self.response_complete:
            self.client.relay.counters.count_abort("client")
        self._record("ok" if self.response_complete else "aborted_client")

    def fail(self, error: ProxyError) -> None:
        """Answers in the proxy's own name, or cuts the response where one has begun."""
        self._cancel()
        if self.response_begun:
            side = "client" if isinstance(error, ClientError) else "upstream"
            self.client.relay.counters.count_abort(side)
            outcome = "aborted_client" if side == "client" else "aborted_upstream"
            self._abort(outcome, error.code or error.proxy_status)
            return
        self._status = error.status
        self.client.relay.counters.count_error(error.proxy_status)
        self._record(error.proxy_status, error.code)
        self.client.on_exchange_failed(error, request_complete=self.request_complete)

    def _repeatable(self) -> bool:
        return self._kept is not None and self._attempts < 2 and self.request.method in _IDEMPOTENT

    def _describe_loss(self, connection: UpstreamConnection) -> str:
        words = f"{self._destination.authority} closed the connection before it had answered."
        if connection.reused and not connection.answered:
            method = self.request.method.decode("ascii")
            if self.request.method in _IDEMPOTENT and self._kept is None:
                limit = self.client.relay.limits.replay_bytes
                words += (
                    f" The {method} was not sent again, because its content is over {limit} bytes and was not kept "
                    "(limits.replay_bytes). To repeat it is safe."
                )
            else:
                words += (
                    f" The {method} may have been carried out, so it was not sent again; only you can know whether to repeat it. "
                    "If this comes back, set `timeouts.upstream_idle_s` below the upstream's own limit for idle connections."
                )
        elif not connection.answered and not _has_agreed_on_protocol(connection.transport):
            words += " If it has HTTP/2 only, this proxy cannot call it: to upstreams it speaks HTTP/1.1."
        return words

    def _finish_upstream(self, *, fit: bool) -> None:
        connection, self.upstream = self.upstream, None
        if connection is None:
            return
        connection.exchange = None
        if fit and connection.fit:
            connection.reused = True
            connection.pool.release(connection)
        else:
            connection.transport.close()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self.upstream is not None:
            self.upstream.detach()
            self.upstream = None

    def _end(self, outcome: str) -> None:
        self._record(outcome)
        self.client.on_exchange_end(close=self._closes_client, request_complete=self.request_complete)

    def _abort(self, outcome: str, code: str) -> None:
        self._record(outcome, code)
        self.client.on_exchange_cut()

    def _record(self, outcome: str, code: str = "") -> None:
        now = time.monotonic()
        duration_s = now - self._started
        client, destination, token = self.client, self._destination, self._token
        relay = client.relay
        known = client.known
        if known is not None:
            known.leave()
        counters = relay.counters
        counters.received_bytes += self._received_bytes
        counters.sent_bytes += self.sent_bytes
        counters.duration.observe(duration_s)
        if self._upstream_s is not None:
            counters.upstream_wait.observe(self._upstream_s)
        key = (destination.route, self._status)
        counters.exchanges[key] = counters.exchanges.get(key, 0) + 1
        if relay.observe is not None:
            relay.observe(
                ended(
                    ended_at=relay.wall_offset + now,
                    client=client.peer,
                    mode=client.entry.mode,
                    method=self.request.method,
                    authority=destination.name,
                    target=self._target.partition(b"?")[0],
                    status=self._status,
                    received_bytes=self._received_bytes,
                    sent_bytes=self.sent_bytes,
                    duration_s=duration_s,
                    upstream_s=self._upstream_s,
                    route=destination.route,
                    token_age_s=None if token is None else now - token.obtained_at_mono,
                    reused=self._reused,
                    outcome=outcome,
                    code=code,
                    client_name="" if known is None else known.client.name,
                    credential=destination.credential if token is not None else "",
                    proof="" if token is None else token.proof,
                    trace=self._note_trace() if relay.traces else None,
                    name_s=None if self._name_wait is None else self._name_wait[1],
                )
            )

    def _note_trace(self) -> TraceNote:
        sent_after_s = self._head_sent_at - self._started if self._attempts else None
        return note_trace(
            self.request, self._token_wait, sent_after_s, self._attempts, self._destination.credential, self._name_wait
        )


def _has_agreed_on_protocol(transport: asyncio.Transport) -> bool:
    """Whether the other side has said in its TLS handshake that it speaks HTTP/1.1 (RFC 7301)."""
    return isinstance(transport, SecureTransport) and transport.tls.selected_alpn_protocol() is not None
