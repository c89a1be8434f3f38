"""The proxy's neighbours: clients that call it, and upstreams that it calls. Both check what they get."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any

from tests.simulation.messages import Message, Reader, content_of, in_chunks
from tests.simulation.streams import End
from tests.simulation.tls import Line

if TYPE_CHECKING:
    from tests.simulation.network import Endpoint
    from tests.simulation.world import Request, Visit, World


class Upstream(asyncio.Protocol):
    """One connection of an upstream, inside TLS, of HTTP/1.1 unless ALPN says otherwise."""

    def __init__(self, world: World, host: str, endpoint: Endpoint, fault: str) -> None:
        self._world = world
        self._host = host
        self._endpoint = endpoint
        self._name = f"{host} #{endpoint.number}"
        self._fault = fault
        self._line = Line(endpoint, is_server=True, versions=world.versions[host])
        assert self._line.tls is not None
        self._line.tls.fault = fault
        self._line.tls.names = (host,)
        self._reader = Reader(responses=False)
        self._has_tls = False
        self._plan: Request | None = None
        self._is_gone = False
        self._unasked_end = 0
        self._begins_at = 0  # the byte with which the next request begins
        self._end: End | None = None

    def connection_made(self, _transport: Any) -> None:
        if self._fault == "shut":
            self._endpoint.close()
            return
        count = self._world.open_upstreams[self._host] = self._world.open_upstreams.get(self._host, 0) + 1
        if count > (1 + ("h2" in self._world.versions[self._host])) * (
            7 + 6
        ):  # those of an earlier configuration end with their exchange
            self._world.fail(f"{count} connections to {self._host} are open")

    def data_received(self, data: bytes) -> None:
        if self._fault == "mute":
            return
        line = self._line
        if self._endpoint.taken == len(data) and data[:1] != b"\x16":
            self._world.fail(f"{self._name} gets what is no TLS: {data[:20]!r}")
        line.take(data)
        try:
            if not self._has_tls:
                if not line.shake_hands():
                    return
                self._has_tls = True
                self._begins_at = self._endpoint.taken - line.unread
            for piece in line.read():
                if self._end is not None:
                    self._end.take(piece)
                else:
                    self._take(piece)
        except ssl.SSLError as error:
            self._world.fail(f"{self._name} gets what is no TLS: {error}")
            self._endpoint.reset()
            return
        if line.has_ended and self._end is not None:
            self._end.take_end()
        elif line.has_ended:
            self._endpoint.close()

    def eof_received(self) -> bool:
        return self._end is not None and self._line.has_ended

    def connection_lost(self, error: Exception | None) -> None:
        self._is_gone = True
        if self._fault != "shut":
            self._world.open_upstreams[self._host] -= 1
        if self._end is not None:
            self._end.take_loss(error)

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
        if (plan.is_upgrade, plan.is_upgrade) != (
            message.value(b"upgrade") == b"websocket",
            bool(message.values(b"upgrade")),
        ):
            world.fail(f"request {number} comes with Upgrade: {message.value(b'upgrade')!r}")
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
        elif world.has_read_refusal(number, value):
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
        self._begins_at = self._endpoint.taken - self._line.unread
        self._check_content(message)
        if len(message.content) != plan.size and not plan.is_upgrade:
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
        refuses = fault == "refuse" and (len(world.arrivals[number]) == 1 or plan.at > 0.7)
        if plan.is_upgrade and not refuses:
            self._upgrade(plan)
            return
        if refuses:
            status, extra = 401, b'WWW-Authenticate: Bearer error="invalid_token"\r\n'
            world.refused.setdefault(number, {})[world.arrivals[number][-1]] = (self._endpoint, self._endpoint.written)
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
        is_cut = fault in ("cut", "end", "corrupt", "alert") and bool(body)
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
        if is_cut and fault in ("corrupt", "alert") and self._line.tls is not None:
            self._line.tls.spoil(alerts=fault == "alert")
            self._line.flush()
        elif is_cut and fault == "cut" and plan.at < 0.6:
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
        self._line.send(data)

    def _close(self) -> None:
        self._line.close()

    def _upgrade(self, plan: Request) -> None:
        """Answer 101: from now on there are bytes both ways, and no HTTP."""
        self._world.note(self._name, "upgrades request %d", plan.number)
        self._world.sent.setdefault(plan.number, []).append((101, 0, True))
        fields = b"Connection: Upgrade\r\nUpgrade: websocket\r\nX-Number: %d\r\n\r\n" % plan.number
        self._end = End(self._world, plan, self._line, is_client=False)
        if self._reader.rest:
            self._end.take(bytes(self._reader.rest))
        self._end.begin(b"HTTP/1.1 101 Said\r\n" + fields)


class Blind(asyncio.Protocol):
    """The far end of tunnels to hosts that no route names."""

    def __init__(self, world: World, endpoint: Endpoint) -> None:
        self._world = world
        self._endpoint = endpoint
        self._line = Line(endpoint)
        self._first = b""
        self._end: End | None = None

    def data_received(self, data: bytes) -> None:
        if self._end is None:
            self._first += data
            if b"oken-" in self._first:
                self._world.fail("a token comes to a host that no route names")
            if not self._first[:8].isdigit():
                self._endpoint.close()  # the name of a host with a route has led here, and this is no server of HTTP
                return
            if len(self._first) < 8:
                return
            plan = self._world.requests.get(int(self._first[:8]))
            if plan is None or plan.method != "CONNECT":
                self._world.fail(f"a tunnel begins with {self._first[:8]!r}")
                return
            self._end = End(self._world, plan, self._line, is_client=False)
            data = self._first[8:]
            self._end.begin()
        if data:
            self._end.take(data)

    def eof_received(self) -> bool:
        if self._end is None:
            return False
        self._end.take_end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if self._end is not None:
            self._end.take_loss(error)


class Caller(asyncio.Protocol):
    """One client: sends its requests, checks the responses, connects again where a connection has ended."""

    def __init__(self, world: World, visit: Visit) -> None:
        self._world = world
        self._visit = visit
        self._name = f"client {visit.number}"
        self._waiting = list(visit.requests)
        self._sent: list[Request] = []
        self._endpoint: Endpoint | None = None
        self._line: Line | None = None
        self._reader = Reader(responses=True, answers_head=self._answers_head)
        self._moved_at = 0.0
        self._connections = 0
        self._is_over = False
        self._ends_with_response = False
        self._is_mute = False
        self._rest = b""  # of a request that pauses
        self._answer: bytes | None = None  # what has come of the one to CONNECT
        self._is_ready = False
        self._end: End | None = None

    def begin(self) -> None:
        """Connect, with all that is still to be sent."""
        if not self._waiting:
            self._finish()
            return
        from tests.simulation.world import FORWARD, REVERSE

        self._connections += 1
        self._reader = Reader(responses=True, answers_head=self._answers_head)
        self._ends_with_response = self._is_mute = self._is_ready = False
        self._end = self._line = None
        self._rest = b""
        address = REVERSE if self._visit.mode == "reverse" else FORWARD
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
        if self._visit.mode in ("tunnel", "blind"):
            self._connect(transport)
        else:
            self._line = Line(transport)
            self._open()

    def _connect(self, endpoint: Endpoint) -> None:
        """Ask for a tunnel."""
        request = self._waiting[0]
        authority = f"{request.host}:443"
        self._world.note(self._name, "sends CONNECT %s", authority)
        self._answer = b""
        if self._visit.mode == "blind":
            self._sent.append(self._waiting.pop(0))
        endpoint.write(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())

    def _take_answer(self, data: bytes) -> bytes:
        """Return what follows the answer to CONNECT."""
        assert self._answer is not None
        assert self._endpoint is not None
        self._answer += data
        head, end, rest = self._answer.partition(b"\r\n\r\n")
        if not end:
            return b""
        status = head.split(b" ")[1]
        self._world.note(self._name, "has its tunnel answered: %s", status.decode())
        if status != b"200":
            if self._world.story.is_calm:
                self._world.fail(f"{self._name} gets no tunnel, and nothing is wrong: {self._answer!r}")
            self._waiting.clear()
            self._sent.clear()
            self._endpoint.close()
            return b""
        self._answer = None
        if self._visit.mode == "blind":
            self._line = Line(self._endpoint)
            self._endpoint.write(b"%08d" % self._sent[0].number)
            self._begin_stream(self._sent[0])
            return rest
        versions = ("h2",) if self._visit.version == "2" else ("http/1.1",)
        host = self._visit.requests[0].host
        self._line = Line(self._endpoint, name=host, versions=versions if self._visit.has_tls else ())
        fault = self._visit.tls_fault
        if self._visit.has_tls and fault == "garbage":
            self._endpoint.write(b"\x16\x03\x01no")
        elif self._visit.has_tls and fault == "mute":
            self._waiting.clear()
        elif self._visit.has_tls:
            self._line.shake_hands()
        else:
            self._open()
        return rest

    def _open(self) -> None:
        """Send requests: the way is open for them."""
        self._is_ready = True
        assert self._line is not None
        if self._line.tls is not None and self._visit.tls_fault in ("distrusts", "leaves"):
            self._world.note(self._name, "%s in the handshake", self._visit.tls_fault)
            self._waiting.clear()
            if self._visit.tls_fault == "distrusts":
                self._line.tls.spoil(alerts=True)
                self._line.flush()
            if self._endpoint is not None:
                self._endpoint.close()
            return
        self._send_next()

    def _begin_stream(self, request: Request) -> None:
        assert self._line is not None
        self._end = End(self._world, request, self._line, is_client=True)
        self._end.begin()

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
        while self._waiting and not (self._is_mute or self._rest) and (self._visit.is_pipelined or not self._sent):
            request = self._waiting.pop(0)
            self._sent.append(request)
            self._send(request)
            if request.client_fault or request.is_upgrade or request.says_close or request.pauses:
                break

    def _write(self, request: Request) -> tuple[bytes, bytes]:
        """Return the head and the content of a request."""
        number = request.number
        target = f"http://{request.host}/{number}/" if self._visit.mode == "forward" else f"/{number}/"
        head = f"{request.method} {target} HTTP/1.1\r\nHost: {request.host}\r\nX-Number: {number}\r\n"
        if request.has_own_token:
            head += "Authorization: Bearer own\r\nProxy-Authorization: Basic own\r\n"
        content = b"" if request.is_upgrade else content_of(b"q", number, request.size)
        if request.is_chunked:
            head += "Transfer-Encoding: chunked\r\n"
            content = in_chunks(content, int(request.size * request.at))
        elif request.method in ("POST", "PUT"):
            head += f"Content-Length: {request.size}\r\n"
        if request.is_upgrade:
            head += "Connection: Upgrade\r\nUpgrade: websocket\r\n"
        if request.says_close:
            head += "Connection: close\r\n"
        if request.expects:
            head += "Expect: 100-continue\r\n"
        self._world.note(
            self._name,
            "sends request %d: %s %s, %d bytes%s",
            number,
            request.method,
            target,
            request.size,
            f", and {request.client_fault}" if request.client_fault else "",
        )
        return head.encode() + b"\r\n", content

    def _send(self, request: Request) -> None:
        assert self._endpoint is not None
        number, fault = request.number, request.client_fault
        head, content = self._write(request)
        wire = head + content
        if fault in ("leaves", "resets", "vanishes", "stops_sending") and request.at < 0.5:
            wire = wire[: int(len(wire) * request.at * 2)]
            self._is_mute = True
        assert self._line is not None
        self._world.carried[number] = self._endpoint.peer
        loop = self._world.loop
        if request.pauses:
            cut = len(head) + 1 + int((len(content) - 1) * request.at)
            wire, self._rest = wire[:cut], wire[cut:]
            loop.call_later(0.3 + 3 * request.at, self._send_rest, self._endpoint)
        self._line.send(wire)
        if request.is_upgrade:
            self._is_mute = True  # until it is known what is spoken from here on
            return  # what goes wrong does so behind 101
        if fault == "half_closes":
            self._line.end()
            self._waiting.clear()
        elif fault == "stops_reading":
            self._endpoint.pause_reading()
        elif fault == "reads_late":
            self._endpoint.pause_reading()
            loop.call_later(request.at * 12, self._endpoint.resume_reading)
        elif fault in ("leaves", "resets", "vanishes"):
            loop.call_later(request.at * 0.6, self._leave, fault, self._endpoint)

    def _send_rest(self, endpoint: Endpoint) -> None:
        """Go on with a request that has paused, whether or not it was answered meanwhile."""
        if self._endpoint is not endpoint or endpoint.is_closing() or self._line is None:
            return
        self._move()
        rest, self._rest = self._rest, b""
        self._line.send(rest)
        if self._sent:
            return
        if self._waiting:
            self._send_next()
        else:
            self._line.close()

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
        if self._answer is not None:
            data = self._take_answer(data)
            if not data:
                return
        line = self._line
        if line is None or line.tls is None:
            self._take(data)
            return
        line.take(data)
        try:
            if not self._is_ready:
                if not line.shake_hands():
                    return
                self._open()
            for piece in line.read():
                self._take(piece)
        except ssl.SSLError as error:
            self._world.note(self._name, "finds no TLS: %s", error)
            if not self._visit.tls_fault and self._world.story.is_calm:
                self._world.fail(f"{self._name} gets what is no TLS: {error}")
            if self._endpoint is not None:
                self._endpoint.reset()
            return
        if line.has_ended:
            self._take_end()

    def _take(self, data: bytes) -> None:
        if self._end is not None:
            self._end.take(data)
            return
        try:
            for message, is_whole in self._reader.feed(data):
                if not is_whole:
                    self._check(message)
                elif message.status == 101:
                    self._on_upgraded(message)
                    return
                elif message.status >= 200:
                    self._on_response(message)
        except (ValueError, IndexError) as error:
            self._world.fail(f"{self._name} gets what is no HTTP: {error}")
            return
        if self._reader.message is not None:
            self._check(self._reader.message)

    def _on_upgraded(self, message: Message) -> None:
        self._check(message)
        request = self._sent[0]
        if not request.is_upgrade or (101, 0, True) not in self._world.sent.get(request.number, []):
            self._world.fail(f"{self._name} gets 101 for {request.number}, which nobody has sent")
        self._begin_stream(request)
        if self._reader.rest and self._end is not None:
            self._end.take(bytes(self._reader.rest))

    def eof_received(self) -> bool:
        if self._line is not None and self._line.tls is not None:
            # Without close_notify it is a cut.
            return self._end is not None and self._line.has_ended
        return self._take_end()

    def _take_end(self) -> bool:
        """Take note of a proper end; return whether this end stays open."""
        if self._end is not None:
            self._end.take_end()
            return True
        message = self._reader.message
        if message is not None and message.length == -2:
            message.is_whole = True
            self._on_response(message)
            self._reader.message = None
        if self._endpoint is not None and self._line is not None and self._line.tls is not None:
            self._line.close()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._world.note(self._name, "loses its connection%s", f" ({error})" if error else "")
        if self._end is not None:
            self._end.take_loss(error)
        elif self._ends_with_response:
            self._waiting[:0] = self._sent
        elif self._sent and self._world.story.is_calm:
            self._world.fail(f"{self._name} gets no response to {self._sent[0].number}, and nothing is wrong")
        if self._visit.tls_fault == "garbage":
            self._waiting.clear()
        if self._connections > 3 * len(self._visit.requests) + 3:
            self._waiting.clear()  # whatever is wrong lasts
        self._endpoint = None
        self._answer = None
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
        if request.is_upgrade:
            self._is_mute = False
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
            lacks_http2 = bool(request.grpc) and "h2" not in world.versions[request.host]
            if world.story.is_calm and not lacks_http2:
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
        ends = message.value(b"connection") == b"close" or message.length == -2
        if request.says_close and not ends:
            world.fail(f"{self._name} asked to close behind {request.number}, and the response does not say so")
        self._continue(request, ends=ends)

    def _continue(self, request: Request, *, ends: bool) -> None:
        """Go on behind a response."""
        if ends:
            self._ends_with_response = True
            if self._line is not None:
                self._line.close()
        elif self._line is not None and not request.client_fault:
            if self._waiting or self._sent:
                self._send_next()
            elif not self._rest:
                self._line.close()
