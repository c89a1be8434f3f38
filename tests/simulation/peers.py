"""The proxy's neighbours: clients that call it, and upstreams that it calls. Both check what they get."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from tests.simulation.messages import Message, Reader, content_of, in_chunks
from tests.simulation.tls import Tls

if TYPE_CHECKING:
    from tests.simulation.network import Endpoint
    from tests.simulation.world import Request, Visit, World


class Upstream(asyncio.Protocol):
    """One connection of an upstream, inside TLS."""

    def __init__(self, world: World, host: str, endpoint: Endpoint, fault: str) -> None:
        self._world = world
        self._host = host
        self._endpoint = endpoint
        self._name = f"{host} #{endpoint.number}"
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = Tls(self._incoming, self._outgoing, server_hostname=None, server_side=True)
        self._tls.fault = fault
        self._tls.names = (host,)
        self._reader = Reader(responses=False)
        self._has_tls = False
        self._plan: Request | None = None
        self._is_gone = False
        self._unasked_end = 0
        self._begins_at = 0  # the byte with which the next request begins

    def connection_made(self, _transport: Any) -> None:
        if self._tls.fault == "shut":
            self._endpoint.close()
            return
        count = self._world.open_upstreams[self._host] = self._world.open_upstreams.get(self._host, 0) + 1
        if count > 7 + 6:  # those of an earlier configuration end with their exchange
            self._world.fail(f"{count} connections to {self._host} are open")

    def data_received(self, data: bytes) -> None:
        if self._tls.fault == "mute":
            return
        self._incoming.write(data)
        try:
            if not self._has_tls:
                self._tls.do_handshake()
                self._has_tls = True
                self._begins_at = self._endpoint.taken - self._incoming.pending
                self._flush()
            while True:
                self._take(self._tls.read())
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLZeroReturnError:
            self._endpoint.close()

    def connection_lost(self, _error: Exception | None) -> None:
        self._is_gone = True
        if self._tls.fault != "shut":
            self._world.open_upstreams[self._host] -= 1

    def _take(self, data: bytes) -> None:
        try:
            for each, is_whole in self._reader.feed(data):
                if is_whole:
                    self._on_whole(each)
                elif self._plan is None:
                    self._on_head(each)
                else:
                    self._world.fail(f"{self._name} gets a request before it has answered {self._plan.number}")
        except ValueError as error:
            self._world.fail(f"{self._name} gets what is no HTTP: {error}")
            self._endpoint.reset()
            return
        message = self._reader.message
        if message is not None and self._plan is not None:
            self._check_content(message)
            if self._plan.upstream_fault == "deaf" and len(message.content) > self._plan.size * self._plan.at:
                self._endpoint.pause_reading()

    def _on_head(self, message: Message) -> None:
        world = self._world
        number = int(message.value(b"x-number") or 0)
        plan = self._plan = world.requests.get(number)
        if plan is None:
            world.fail(f"{self._name} gets a request that nobody sent: {message.first!r}")
            return
        world.note(self._name, "gets request %d: %s", number, message.first)
        if (
            message.first != f"{plan.method} /{number}/ HTTP/1.1".encode()
            or message.value(b"host") != self._host.encode()
        ):
            world.fail(f"{self._name} gets request {number} as {message.first!r} for {message.value(b'host')!r}")
        if plan.host != self._host:
            world.fail(f"{self._name} gets request {number}, which is for {plan.host}")
        if message.values(b"proxy-authorization"):
            world.fail(f"request {number} comes with Proxy-Authorization")
        self._check_token(number, message.values(b"authorization"))
        if number in world.mixed:
            return
        if plan.upstream_fault in ("reset", "silent", "vanishes") and plan.at < 0.5:
            self._end_badly(plan)
        elif plan.upstream_fault == "early":
            self._world.loop.call_soon(self._respond, plan)
        elif plan.expects and not message.is_whole:
            self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _check_token(self, number: int, values: list[bytes]) -> None:
        world = self._world
        kind, _, value = (values or [b""])[0].decode("latin-1").partition(" ")
        token = world.platform.tokens.get(value)
        earlier = world.arrivals.setdefault(number, [])
        sent_at, taken = self._endpoint.peer.when_written(self._begins_at)
        if self._unasked_end and taken < self._unasked_end:
            # It was under way when a response came that nobody had asked for, which looks like its own: nobody can tell.
            world.mixed.add(number)
            world.note(self._name, "resets the connection: request %d was under way", number)
            self._endpoint.reset()
        if len(values) != 1 or kind != "Bearer" or token is None:
            world.fail(f"request {number} is sent with {values!r} for a token")
        elif sent_at >= token.ends_at:
            world.fail(f"request {number} is sent with a token that ended {sent_at - token.ends_at:.2f} s before")
        elif token.audience != f"api://{self._host}/.default":
            world.fail(f"request {number} is sent with a token for {token.audience}")
        elif value in world.refused.get(number, ()):
            world.fail(f"request {number} is sent again with the token that was refused")
        earlier.append(value)

    def _check_content(self, message: Message) -> None:
        plan = self._plan
        if plan is not None and message.content != content_of(b"q", plan.number, len(message.content)):
            self._world.fail(f"{self._name} gets content of another request than {plan.number}")

    def _on_whole(self, message: Message) -> None:
        plan = self._plan
        if plan is None or self._endpoint.is_dead:
            return
        self._begins_at = self._endpoint.taken - self._incoming.pending
        self._check_content(message)
        if len(message.content) != plan.size:
            self._world.fail(f"request {plan.number} looks whole with {len(message.content)} bytes of {plan.size}")
        if plan.upstream_fault in ("reset", "silent", "vanishes"):
            self._end_badly(plan)
        elif plan.upstream_fault == "early":
            self._plan = None  # answered already
        elif plan.upstream_fault == "late":
            self._world.loop.call_later(plan.at * 9, self._respond, plan)
        else:
            self._world.loop.call_later(plan.at * 0.3, self._respond, plan)

    def _end_badly(self, plan: Request) -> None:
        self._world.note(self._name, "%s at request %d", plan.upstream_fault, plan.number)
        if plan.upstream_fault == "reset":
            self._endpoint.reset()
        elif plan.upstream_fault == "vanishes":
            self._endpoint.vanish()

    def _respond(self, plan: Request) -> None:
        if self._is_gone:
            return
        fault, number, world = plan.upstream_fault, plan.number, self._world
        status, extra = plan.status, b""
        if fault == "refuse" and (len(world.arrivals[number]) == 1 or plan.at > 0.7):
            status, extra = 401, b'WWW-Authenticate: Bearer error="invalid_token"\r\n'
            world.refused.setdefault(number, set()).add(world.arrivals[number][-1])
        framing = "none" if status == 204 or plan.method == "HEAD" else plan.framing
        size = 0 if framing == "none" else plan.response_size
        body = content_of(b"r", number, size)
        if framing == "chunked":
            extra += b"Transfer-Encoding: chunked\r\n"
            body = in_chunks(body, size // 2)
        elif framing == "sized":
            extra += b"Content-Length: %d\r\n" % size
        if fault == "closes" or framing == "close":
            extra += b"Connection: close\r\n"
        head = b"HTTP/1.1 %d Said\r\nX-Number: %d\r\n%b\r\n" % (status, number, extra)
        if fault == "garbage":
            head = b"HTTP/1.1 2x0 OK\r\nContent-Length: 3\r\n\r\n"
        is_cut = fault in ("cut", "end") and bool(body)
        if is_cut:
            body = body[: int(plan.at * len(body))]
        if is_cut and fault == "end" and framing == "close":
            is_cut, size = False, len(body)  # a proper end: nobody can tell
        world.note(self._name, "answers request %d: %d, %s, %d bytes%s", number, status, framing, size, " cut" * is_cut)
        world.sent.setdefault(number, []).append((status, size, not is_cut))
        before = b"HTTP/1.1 103 Early Hints\r\nX-Number: %d\r\n\r\n" % number if fault == "interim" else b""
        self._send(before + head + body + (b"more" if fault == "trailing" and framing != "close" else b""))
        if fault != "early" or self._reader.message is None:
            self._plan = None
        self._go_on(plan, head + body, is_cut=is_cut, ends=framing == "close")

    def _go_on(self, plan: Request, response: bytes, *, is_cut: bool, ends: bool) -> None:
        """Do what follows a response."""
        fault = plan.upstream_fault
        if is_cut and fault == "cut" and plan.at < 0.6:
            self._endpoint.close()  # FIN without close_notify
        elif is_cut and fault == "cut":
            self._world.loop.call_later(0.05, self._endpoint.reset)
        elif is_cut or ends or fault in ("closes", "drops"):
            self._close()
        elif fault == "answers_twice":
            self._world.loop.call_later(plan.at * 2, self._send_unasked, response)

    def _send_unasked(self, data: bytes) -> None:
        if self._plan is None and self._reader.message is None:
            self._send(data)
            self._unasked_end = self._endpoint.written

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and not self._endpoint.is_closing():
            view = view[self._tls.write(view) :]
        self._flush()

    def _close(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLWantReadError:
            self._flush()
        self._endpoint.close()

    def _flush(self) -> None:
        self._endpoint.write(self._outgoing.read())


class Caller(asyncio.Protocol):
    """One client: sends its requests, checks the responses, connects again where a connection has ended."""

    def __init__(self, world: World, visit: Visit) -> None:
        self._world = world
        self._visit = visit
        self._name = f"client {visit.number}"
        self._waiting = list(visit.requests)
        self._sent: list[Request] = []
        self._endpoint: Endpoint | None = None
        self._reader = Reader(responses=True, answers_head=self._answers_head)
        self._moved_at = 0.0
        self._connections = 0
        self._is_over = False
        self._ends_with_response = False
        self._is_mute = False

    def begin(self) -> None:
        """Connect, with all that is still to be sent."""
        if not self._waiting:
            self._finish()
            return
        from tests.simulation.world import FORWARD, REVERSE

        self._connections += 1
        self._reader = Reader(responses=True, answers_head=self._answers_head)
        self._ends_with_response = self._is_mute = False
        address = FORWARD if self._visit.mode == "forward" else REVERSE
        name = (f"10.1.0.{self._visit.number % 200 + 1}", 20_000 + self._connections)
        self._endpoint = self._world.network.call(self, name, address)
        if self._endpoint is None:
            self._world.note(self._name, "finds nobody listening")
            self._waiting.clear()
            self._finish()

    def connection_made(self, transport: Any) -> None:
        self._endpoint = transport
        self._move()
        self._watch()
        self._send_next()

    def pause_writing(self) -> None:
        """Go on all the same: what waits is the client's own memory."""

    def resume_writing(self) -> None:
        self._move()

    def _move(self) -> None:
        self._moved_at = self._world.loop.now

    def _watch(self) -> None:
        from tests.simulation.world import PATIENCE_S

        if self._is_over or self._endpoint is None:
            return
        if self._world.loop.now - self._moved_at > PATIENCE_S and self._endpoint.peer.is_dead:
            self._endpoint.reset()  # it has been told, and does not look
        elif self._world.loop.now - self._moved_at > PATIENCE_S:
            waits = [each.number for each in self._sent]
            self._world.fail(f"{self._name} has waited {self._world.loop.now - self._moved_at:.0f} s, for {waits}")
            self._waiting.clear()
            self._endpoint.reset()
        self._world.loop.call_later(PATIENCE_S / 4, self._watch)

    def _send_next(self) -> None:
        while self._waiting and not self._is_mute and (self._visit.is_pipelined or not self._sent):
            request = self._waiting.pop(0)
            self._sent.append(request)
            self._send(request)
            if request.client_fault:
                break

    def _send(self, request: Request) -> None:
        assert self._endpoint is not None
        number, fault = request.number, request.client_fault
        target = f"/{number}/" if self._visit.mode == "reverse" else f"http://{request.host}/{number}/"
        head = f"{request.method} {target} HTTP/1.1\r\nHost: {request.host}\r\nX-Number: {number}\r\n"
        if request.has_own_token:
            head += "Authorization: Bearer own\r\nProxy-Authorization: Basic own\r\n"
        content = content_of(b"q", number, request.size)
        if request.is_chunked:
            head += "Transfer-Encoding: chunked\r\n"
            content = in_chunks(content, int(request.size * request.at))
        elif request.method in ("POST", "PUT"):
            head += f"Content-Length: {request.size}\r\n"
        if request.expects:
            head += "Expect: 100-continue\r\n"
        wire = head.encode() + b"\r\n" + content
        self._world.note(
            self._name,
            "sends request %d: %s %s, %d bytes%s",
            number,
            request.method,
            target,
            request.size,
            f", and {fault}" if fault else "",
        )
        if fault in ("leaves", "resets", "vanishes", "stops_sending") and request.at < 0.5:
            wire = wire[: int(len(wire) * request.at * 2)]
            self._is_mute = True
        self._endpoint.write(wire)
        loop = self._world.loop
        if fault == "half_closes":
            self._endpoint.write_eof()
            self._waiting.clear()
        elif fault == "stops_reading":
            self._endpoint.pause_reading()
        elif fault == "reads_late":
            self._endpoint.pause_reading()
            loop.call_later(request.at * 12, self._endpoint.resume_reading)
        elif fault in ("leaves", "resets", "vanishes"):
            loop.call_later(request.at * 0.6, self._leave, fault, self._endpoint)

    def _leave(self, fault: str, endpoint: Endpoint) -> None:
        if endpoint.is_dead:
            return
        self._world.note(self._name, "%s", fault)
        if fault == "vanishes":
            endpoint.vanish()
        elif fault == "resets":
            endpoint.reset()
        else:
            endpoint.close()

    def data_received(self, data: bytes) -> None:
        self._move()
        try:
            for message, is_whole in self._reader.feed(data):
                if not is_whole:
                    self._check(message)
                elif message.status >= 200:
                    self._on_response(message)
        except (ValueError, IndexError) as error:
            self._world.fail(f"{self._name} gets what is no HTTP: {error}")
            return
        if self._reader.message is not None:
            self._check(self._reader.message)

    def eof_received(self) -> bool:
        message = self._reader.message
        if message is not None and message.length == -2:
            message.is_whole = True
            self._on_response(message)
            self._reader.message = None
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._world.note(self._name, "loses its connection%s", f" ({error})" if error else "")
        if self._ends_with_response:
            self._waiting[:0] = self._sent
        elif self._sent and self._world.story.is_calm:
            self._world.fail(f"{self._name} gets no response to {self._sent[0].number}, and nothing is wrong")
        self._endpoint = None
        self._sent.clear()
        self._world.loop.call_later(0.01, self.begin)

    def _answers_head(self) -> bool:
        return bool(self._sent) and self._sent[0].method == "HEAD"

    def _finish(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._world.on_visit_end()

    def _check(self, message: Message) -> None:
        """Check what has come of a response: it belongs to the request that it answers."""
        if not self._sent:
            self._world.fail(f"{self._name} gets a response to nothing: {message.first!r}")
            return
        request, world = self._sent[0], self._world
        if message.status == 100 or message.values(b"proxy-status") or request.number in world.mixed:
            return
        number = message.value(b"x-number")
        if number != b"%d" % request.number:
            other = world.requests.get(int(number or 0))
            what = f"{self._name} gets the response to {number!r} for {request.number}"
            if other is not None and other.upstream_fault == "answers_twice":
                world.suspects[request.number] = what  # judged at the end, when it is known what was under way when
            else:
                world.fail(what)
        elif message.content != content_of(b"r", request.number, len(message.content)):
            world.fail(f"{self._name} gets other content for {request.number}")

    def _on_response(self, message: Message) -> None:
        world = self._world
        self._check(message)
        if not self._sent:
            return
        request = self._sent.pop(0)
        is_own = bool(message.values(b"proxy-status"))
        world.note(
            self._name,
            "has the response to %d: %d, %d bytes%s",
            request.number,
            message.status,
            len(message.content),
            " of the proxy's own" if is_own else "",
        )
        records = world.records.get(request.number, [])
        if is_own:
            if world.story.is_calm:
                world.fail(
                    f"request {request.number} is answered {message.status}, and nothing is wrong: {bytes(message.content)!r}"
                )
            if records and records[0].outcome == "ok":
                world.fail(f"the proxy's own answer to {request.number} is recorded as ok")
        elif not {request.number} & (world.mixed | world.suspects.keys()) and (
            message.status,
            len(message.content),
            True,
        ) not in world.sent.get(request.number, []):
            world.fail(
                f"the response to {request.number} looks whole with {message.status} and {len(message.content)} bytes; "
                f"sent were {world.sent.get(request.number)}"
            )
        if message.value(b"connection") == b"close" or message.length == -2:
            self._ends_with_response = True
            if self._endpoint is not None:
                self._endpoint.close()
        elif self._endpoint is not None and not request.client_fault:
            if self._waiting or self._sent:
                self._send_next()
            else:
                self._endpoint.close()
