"""One request and its response: finds a token and a connection, sends, passes the response down, says how it ended. Does I/O.

The exchange is what joins a client side and an upstream side, and the only thing that does; it knows both by `sides` alone. When
either goes, the exchange lets go of the other at once, so a response can never reach another request.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.dialing.resolver import Attempt
from proxy.errors import (
    ClientError,
    ContentTooLarge,
    IdentityPlatformUnavailable,
    ProxyError,
    UpstreamClosed,
    UpstreamProtocolError,
    UpstreamTimeout,
)
from proxy.policy.refusal import Refusal, judge_refusal
from proxy.relay.counters import NO_HTTP
from proxy.relay.reauthorisation import check_upgrade
from proxy.relay.recording import ended, note_trace
from proxy.relay.replay import KeptContent, WithheldResponse
from proxy.relay.sides import (
    BROKEN,
    INCOMPLETE,
    RESET,
    SILENT,
    STALLED,
    UNANSWERED,
    UNPROCESSED,
    UNSENT,
    ClientSide,
    ResponseReceiver,
    UnderWay,
    UpstreamSide,
)
from proxy.relay.splice import join
from proxy.tasks import guard

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from proxy.identity.source import AccessToken
    from proxy.relay.destinations import Destination
    from proxy.relay.message import RequestHead, ResponseHead
    from proxy.relay.record import TraceNote
    from proxy.relay.sender import Sender
    from proxy.relay.state import Relay

# RFC 9110 §9.2.2. TRACE is idempotent as well, and `gate.begin_exchange` refuses it where there is a token.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"))
# How an upstream may be lost so that nobody can say whether it has carried the request out.
_UNSURE: Final = frozenset((UNANSWERED, RESET, BROKEN))
# How often a token may reach its end while its connection is being opened.
_ROUNDS: Final = 3


class Exchange(UnderWay, ResponseReceiver):
    """One request and its response.

    Args:
        relay: the process-wide state.
        client: gets the response.
        sender: who sent the request.
        request: its head.
        destination: where it goes.
        target: its target in origin-form.

    Attributes:
        request_complete: whether the request has been read whole.
    """

    __slots__ = (
        "_attempts",
        "_client",
        "_continued",
        "_destination",
        "_is_response_held",
        "_kept",
        "_name_wait",
        "_pending",
        "_pending_bytes",
        "_received_bytes",
        "_relay",
        "_replayed",
        "_response_begun",
        "_response_complete",
        "_reused",
        "_sender",
        "_sent_at",
        "_sent_bytes",
        "_started",
        "_status",
        "_target",
        "_task",
        "_token",
        "_token_wait",
        "_trailers",
        "_upstream",
        "_upstream_s",
        "_upstream_version",
        "_withheld",
        "request",
        "request_complete",
    )

    def __init__(
        self,
        relay: Relay,
        client: ClientSide,
        sender: Sender,
        request: RequestHead,
        destination: Destination,
        target: bytes,
    ) -> None:
        self.request = request
        self.request_complete = False
        self._relay = relay
        self._client = client
        self._sender = sender
        self._destination = destination
        self._target = target
        # The attempt: where the request was sent, and what it was sent with.
        self._upstream: UpstreamSide | None = None
        self._token: AccessToken | None = None
        self._task: asyncio.Task[None] | None = None
        self._attempts = 0
        self._reused = False
        self._upstream_version = NO_HTTP
        self._replayed = False
        # The request's content.
        self._received_bytes = 0
        self._pending: list[bytes] | None = None
        self._pending_bytes = 0
        self._kept: KeptContent | None = None
        self._trailers = b""
        # The response.
        self._response_begun = False
        self._response_complete = False
        self._is_response_held = False
        self._continued = False
        self._withheld: WithheldResponse | None = None
        self._sent_bytes = 0
        self._status = 0
        # For the record.
        self._started = time.monotonic()
        self._sent_at = 0.0
        self._upstream_s: float | None = None
        self._token_wait: tuple[float, float] | None = None
        self._name_wait: tuple[float, float] | None = None

    @property
    def refused_trailers(self) -> frozenset[bytes]:
        """Lower-case names of fields that the request gets from somebody else than the client, the route above all."""
        return self._destination.drop

    # The request.

    def start(self) -> None:
        """Send what there is of the request: at once where a token and a connection are at hand."""
        destination = self._destination
        tokens = destination.tokens
        if tokens is not None:
            self._token = tokens.peek(self._started)
            if self._token is None:
                self._spawn(self._prepare)
                return
        # WebSocket has no like in HTTP/2 (RFC 9113 §8.6), which a pool may have at hand.
        upstream = destination.pool.take() if self.request.upgrade is None else None
        if upstream is None:
            self._spawn(self._prepare)
        else:
            self._send(upstream)

    def on_request_content(self, content: bytes) -> None:
        """Pass content up; keep a copy while it is small, in case the request must be sent again."""
        if not self._take_content(content):
            return
        if self._upstream is not None:
            self._upstream.send_content(content)
        elif not self._response_complete:
            self._put_by(content)
            if self._pending_bytes > self._relay.limits.buffer_bytes:
                self._client.hold_request(UNSENT)

    def on_request_end(self, content: bytes, trailers: bytes) -> None:
        """Take the last of the request: content, which may be empty, and trailer field lines with CRLF, or none."""
        if content and not self._take_content(content):
            return
        self._trailers = trailers
        self.request_complete = True
        if self._upstream is not None:
            self._upstream.end(content, trailers)
            if self._response_complete:
                self._end_upstream(is_whole=True)
        elif content and not self._response_complete:
            self._put_by(content)
        if self._response_complete:
            self._end("ok")

    def _take_content(self, content: bytes) -> bool:
        """Count content, and keep it while it is small; False where there is too much, and the exchange has failed."""
        self._received_bytes += len(content)
        limit = self._relay.limits.body_bytes
        if limit is not None and self._received_bytes > limit:
            self.fail(ContentTooLarge(f"The content is over {limit} bytes (limits.body_bytes)."))
            return False
        kept = self._kept
        if kept is None:
            kept = self._kept = KeptContent(self._relay.limits.replay_bytes)
        kept.add(content)
        return True

    def _put_by(self, content: bytes) -> None:
        if self._pending is None:
            self._pending = [content]
        else:
            self._pending.append(content)
        self._pending_bytes += len(content)

    @property
    def request_deadline(self) -> float:
        """See `ResponseReceiver`."""
        return self._client.deadline

    def hold_request(self) -> None:
        """See `ResponseReceiver`."""
        self._client.hold_request(STALLED)

    def release_request(self) -> None:
        """See `ResponseReceiver`."""
        self._client.release_request(STALLED)

    # Getting ready.

    def _spawn(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        what = f"an exchange with {self._destination.name}"
        self._task = asyncio.get_running_loop().create_task(guard(work, self._on_task_failed, what))

    def _on_task_failed(self, error: ProxyError) -> None:
        self._task = None
        self._withheld = None
        self.fail(error)

    async def _prepare(self) -> None:
        """Get ready, then send. The slow path: the first request, or a stale pool."""
        upstream = await self._get_ready(new=False)
        self._task = None
        self._send(upstream)

    async def _retry(self) -> None:
        """Send the request again from its beginning, on a new connection: a kept-alive one may be as stale as the one lost."""
        upstream = await self._get_ready(new=True)
        self._task = None
        self._send(upstream)

    async def _get_ready(self, *, new: bool) -> UpstreamSide:
        """Wait for all that a request needs; the only way to it but for what is at hand at once.

        Args:
            new: whether the connection may not be a kept-alive one.

        Returns:
            A connection. The token is usable at this moment: its end is checked behind every wait (invariant 2).
        """
        tokens = self._destination.tokens
        for _ in range(_ROUNDS):
            await self._find_token()
            upstream = await self._find_connection(new=new)
            if tokens is None:
                return upstream
            # The source is asked again: it alone knows of time that the machine slept meanwhile.
            self._token = tokens.peek(time.monotonic())
            if self._token is not None and time.monotonic() < self._token.usable_until_mono:
                return upstream
            upstream.return_unused()
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
            wait_s = self._relay.timeouts.token_s
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
                self._relay.counters.token_wait.observe(waited_s)

    async def _find_connection(self, *, new: bool) -> UpstreamSide:
        attempt = Attempt()
        try:
            if self.request.asks_for_websocket:
                return await self._destination.pool.acquire(attempt, new=new, http1=True)
            return await self._destination.pool.acquire(attempt, new=new)
        finally:
            if attempt.name_wait is not None:
                begun, waited_s = attempt.name_wait
                self._name_wait = (begun - self._started, waited_s)

    def _send(self, upstream: UpstreamSide) -> None:
        self._upstream = upstream  # first, so that no fault leaves it behind
        destination = self._destination
        content = b""
        if self._pending is not None:
            content = b"".join(self._pending)
            self._pending = None
            self._pending_bytes = 0
            self._client.release_request(UNSENT)
        self._attempts += 1
        self._reused = upstream.reused
        self._upstream_version = upstream.version
        if self._reused:
            self._relay.counters.reused += 1
        self._sent_at = time.monotonic()
        upstream.begin(
            self,
            self.request,
            self._target,
            destination.host_field,
            destination.drop,
            destination.added if self._token is None else destination.added + self._token.field_line,
            content,
            self._trailers if self.request_complete else None,
        )
        if self._is_response_held:
            upstream.hold_response()

    def _send_again(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Send the request from its beginning; only where all of it that was read has been kept."""
        self._pending = None if self._kept is None else self._kept.pieces
        self._client.release_request(STALLED)
        self._spawn(work)

    # The response.

    @property
    def response_deadline(self) -> float:
        """See `UnderWay`."""
        upstream = self._upstream
        return upstream.deadline if upstream is not None and upstream.answered else -inf

    def hold_response(self) -> None:
        """See `UnderWay`."""
        self._is_response_held = True
        if self._upstream is not None:
            self._upstream.hold_response()

    def release_response(self) -> None:
        """See `UnderWay`."""
        self._is_response_held = False
        if self._upstream is not None:
            self._upstream.release_response()

    def on_interim(self, head: ResponseHead) -> None:
        """Pass a 1xx response down."""
        if head.status == 100:
            self._continued = True
        self._client.send_interim(head)

    def on_upgraded(self, head: ResponseHead) -> None:
        """Pass 101 down and join the two connections (RFC 9110 §7.8)."""
        upstream = self._upstream
        if upstream is None:
            return
        if not self.request.asks_for_websocket or not self.request_complete:
            self.fail(UpstreamClosed("The upstream switched protocols (101) although nobody asked it to."))
            return
        try:
            check_upgrade(self._relay, self._client, self._sender, self.request, self._destination, upstream.address)
        except ProxyError as error:
            self.fail(error)
            return
        client_pipe = self._client.hand_over(head)
        if client_pipe is None:
            self.fail(UpstreamClosed("The upstream switched protocols (101), and the client's connection cannot."))
            return
        self._status = 101
        self._response_begun = True
        self._relay.counters.upgrades += 1
        self._upstream = None
        join(self._relay, client_pipe, upstream.hand_over(), self._on_joined_end)

    def _on_joined_end(self, up: int, down: int) -> None:
        self._received_bytes, self._sent_bytes = up, down
        self._record("ok")

    def on_response_head(self, head: ResponseHead, framing: int) -> None:
        """Pass the head down, or withhold it where it may be about the token."""
        self._upstream_s = time.monotonic() - self._sent_at
        self._status = head.status
        if head.status == 401 and self._token is not None and not self._replayed:
            self._withheld = WithheldResponse(head, framing)
        else:
            self._send_head(head, framing)

    def _send_head(self, head: ResponseHead, framing: int) -> None:
        self._response_begun = True
        takes_rest = self.request_complete or (
            head.keeps_alive and (self._continued or not self.request.expects_continue)
        )
        self._client.send_head(head, framing, takes_rest=takes_rest)

    def on_response_content(self, content: bytes) -> None:
        """Pass content down."""
        self._sent_bytes += len(content)
        if self._withheld is None:
            self._client.send_content(content)
        elif not self._withheld.add(content):
            self._client.send_content(self._stop_withholding())

    def on_response_end(self, content: bytes, trailers: bytes) -> None:
        """Pass the last of the response down; what ends with it depends on the request."""
        self._sent_bytes += len(content)
        if self._withheld is not None:
            self._withheld.trailers = trailers
            if self._withheld.add(content) and self._judge(self._withheld):
                return
            content = self._stop_withholding()
        self._response_complete = True
        self._client.end(content, trailers)
        if self.request_complete:
            self._end_upstream(is_whole=True)
            self._end("ok")
        elif (
            self._upstream is None or self._client.ends_with_response or not self._upstream.takes_rest(self)
        ):  # otherwise the upload goes on to an upstream that has answered already
            self._end_upstream(is_whole=False)
            self._end("ok")

    def _stop_withholding(self) -> bytes:
        """Pass down the head of a 401 that was withheld; return the content that belongs behind it."""
        withheld, self._withheld = self._withheld, None
        if withheld is None:
            return b""
        self._send_head(withheld.head, withheld.framing)
        return withheld.content

    def _judge(self, withheld: WithheldResponse) -> bool:
        """Decide about a withheld 401: True where the request is sent again with another token.

        Source: the reaction to each kind of 401 is in `proxy.policy.refusal`.
        """
        tokens, token = self._destination.tokens, self._token
        if tokens is None or token is None:
            return False
        verdict = judge_refusal(withheld.head.challenges, withheld.content)
        if verdict.refusal is Refusal.NOT_THE_TOKEN or not tokens.report_refusal(
            token, time.monotonic(), verdict.claims, certain=verdict.certain
        ):
            return False
        if not self.request_complete or not self._is_kept:
            return False
        self._end_upstream(is_whole=True)
        self._replayed = True
        self._token = None
        self._send_again(self._replay)
        return True

    async def _replay(self) -> None:
        """Send the request once more with another token; without one, the 401 is the answer after all.

        The upstream has just answered, so a kept-alive connection will do; should it be lost all the same, this is a request like
        any other, and may be repeated once.
        """
        try:
            upstream = await self._get_ready(new=False)
        except ProxyError:
            self._task = None
            trailers = b"" if self._withheld is None else self._withheld.trailers
            content = self._stop_withholding()
            self._response_complete = True
            self._client.end(content, trailers)
            self._end("ok")
            return
        self._task = None
        self._withheld = None
        self._sent_bytes = 0
        self._attempts = 0
        self._relay.counters.replays += 1
        self._send(upstream)

    # Ends.

    def on_upstream_lost(self, loss: int, hint: str = "") -> None:
        """Repeat, answer or cut: no more of the response will come."""
        self._upstream = None
        if self._response_complete:  # and the rest of an upload that nobody takes any more
            self._end("ok")
        elif loss == SILENT:
            self._on_silence()
        elif self._may_repeat(loss):
            self._relay.counters.retries += 1
            self._send_again(self._retry)
        elif not self._response_begun:
            detail = self._describe_loss(loss, hint)
            self._withheld = None
            self.fail(UpstreamProtocolError(detail) if loss == BROKEN else UpstreamClosed(detail))
        else:
            self._relay.counters.count_abort("upstream")
            self._abort("aborted_upstream", "response_incomplete" if loss == INCOMPLETE else "connection_reset")

    def _may_repeat(self, loss: int) -> bool:
        """Whether the request is sent again; of those that had begun to be answered, none is."""
        if not self._is_kept or self._attempts >= 2:
            return False
        return loss == UNPROCESSED or (loss in _UNSURE and self._reused and self.request.method in _IDEMPOTENT)

    def _on_silence(self) -> None:
        if self._response_begun:
            self._relay.counters.count_abort("timeout")
            self._abort("aborted_timeout", "http_response_timeout")
            return
        self._withheld = None
        self.fail(
            UpstreamTimeout(
                f"{self._destination.authority} did not answer within {self._relay.timeouts.response_s:g} s "
                "(timeouts.response_s)."
            )
        )

    def on_upstream_failed(self, error: ProxyError) -> None:
        """Answer at once, or cut: another try would end the same."""
        self._upstream = None
        self._withheld = None
        self.fail(error)

    def on_client_lost(self) -> None:
        """Let go of the upstream: nobody waits for the response any more."""
        self._cancel()
        if not self._response_complete:
            self._relay.counters.count_abort("client")
        self._record("ok" if self._response_complete else "aborted_client")

    def fail(self, error: ProxyError) -> None:
        """Answer in the proxy's own name, or cut the response where one has begun and is not complete."""
        self._cancel()
        if self._response_complete:  # what failed is the rest of an upload
            self._end("ok")
            return
        if self._response_begun:
            side = "client" if isinstance(error, ClientError) else "upstream"
            self._relay.counters.count_abort(side)
            outcome = "aborted_client" if side == "client" else "aborted_upstream"
            self._abort(outcome, error.code or error.proxy_status)
            return
        self._status = error.status
        self._relay.counters.count_error(error.proxy_status)
        self._record(error.proxy_status, error.code)
        self._client.answer(error, request_complete=self.request_complete)

    @property
    def _is_kept(self) -> bool:
        """Whether all of the request that has been read can be sent again."""
        return self._kept is None or self._kept.is_whole

    def _describe_loss(self, loss: int, hint: str) -> str:
        if self._withheld is not None:
            return f"{self._destination.authority} closed the connection in the middle of its answer, a 401."
        if loss == UNPROCESSED:
            return self._describe_refusal()
        words = self._describe_end(loss, hint)
        if self._reused and loss in _UNSURE:
            method = self.request.method.decode("ascii")
            if self.request.method in _IDEMPOTENT and not self._is_kept:
                words += (
                    f" The {method} was not sent again, because its content is over {self._relay.limits.replay_bytes} bytes "
                    "and was not kept (limits.replay_bytes). To repeat it is safe."
                )
            elif self.request.method not in _IDEMPOTENT:
                words += f" The {method} may have been carried out, so it was not sent again; only you know whether to repeat it."
            if loss == UNANSWERED:
                words += " If this comes back, set `timeouts.upstream_idle_s` below the upstream's own limit for idle connections."
        elif hint and loss == UNANSWERED:
            words += f" {hint}"
        return words

    def _describe_end(self, loss: int, hint: str) -> str:
        authority = self._destination.authority
        if loss == RESET:
            return f"{authority} ended the request without an answer. {hint}"
        if loss == BROKEN:
            return f"{authority} broke a rule of HTTP/2, and its connection was closed. {hint}"
        return f"{authority} closed the connection before it had answered."

    def _describe_refusal(self) -> str:
        """Say that the upstream has done nothing with the request, and why it is not sent again all the same."""
        words = f"{self._destination.authority} took the request back unprocessed (RFC 9113 §8.7)"
        if self._attempts > 1:
            return f"{words}, twice. To repeat it is safe."
        return (
            f"{words}. It was not sent again, because its content is over {self._relay.limits.replay_bytes} bytes and was not "
            "kept (limits.replay_bytes). To repeat it is safe."
        )

    def _end_upstream(self, *, is_whole: bool) -> None:
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.finish(is_whole=is_whole)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        upstream, self._upstream = self._upstream, None
        if upstream is not None:
            upstream.cancel()

    def _end(self, outcome: str) -> None:
        self._record(outcome)
        self._client.finish(request_complete=self.request_complete)

    def _abort(self, outcome: str, code: str) -> None:
        self._record(outcome, code)
        self._client.cut()

    def _record(self, outcome: str, code: str = "") -> None:
        now = time.monotonic()
        duration_s = now - self._started
        relay, sender, destination, token = self._relay, self._sender, self._destination, self._token
        known = sender.known
        if known is not None:
            known.leave()
        counters = relay.counters
        counters.received_bytes += self._received_bytes
        counters.sent_bytes += self._sent_bytes
        counters.duration.observe(duration_s)
        if self._upstream_s is not None:
            counters.upstream_wait.observe(self._upstream_s)
        key = (destination.route, self._status)
        counters.exchanges[key] = counters.exchanges.get(key, 0) + 1
        version = sender.version(self.request)
        counters.count_versions(version, self._upstream_version)
        if relay.observe is not None:
            relay.observe(
                ended(
                    ended_at=relay.wall_offset + now,
                    client=sender.peer,
                    mode=sender.mode,
                    method=self.request.method,
                    authority=destination.name,
                    target=self._target.partition(b"?")[0],
                    status=self._status,
                    received_bytes=self._received_bytes,
                    sent_bytes=self._sent_bytes,
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
                    version=version,
                    upstream_version=self._upstream_version,
                )
            )

    def _note_trace(self) -> TraceNote:
        sent_after_s = self._sent_at - self._started if self._attempts else None
        return note_trace(
            self.request, self._token_wait, sent_after_s, self._attempts, self._destination.credential, self._name_wait
        )
