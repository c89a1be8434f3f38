"""The proxy's own HTTP server over real sockets, asked in raw bytes, on both event loops."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from proxy.config.settings import LimitSettings
from proxy.http_server import Connection, HttpServer, Request, Response
from tests.wire.conftest import LOOPS
from tests.wire.corpus_refused import REFUSED_HEADS, Refused

if TYPE_CHECKING:
    from proxy.errors import ProxyError

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
PATIENCE_S = 30
BLOCK = b"x" * 65_536

# Of those that the relay refuses, the ones that nothing but the relay minds: where a request leads.
DESTINATIONS = {
    *("request line: " + name for name in ("no slash in front", "authority-form", "asterisk without OPTIONS")),
    *("request line: " + name for name in ("query alone", "another scheme", "user information", "no host")),
    *("request line: " + name for name in ("user information with password", "no slashes", "port 0", "encoded host")),
    *("request line: " + name for name in ("backslash for a slash", "port over 65535", "empty port")),
    *("request line: " + name for name in ("port of letters", "half an IPv6 address", "IPv4 in octal")),
    *("request line: origin-form to a forward proxy", "TRACE", "a target without end"),
}
FORMS = ("length", "coding", "both", "a malformed", "field", "lines", "the ", "request line", "TLS", "greeting", "SSH")
LIMITS = ("a response", "a target", "too many", "a field")
HOSTS = {"Host: none", "Host: two that agree", "Host: two that differ"}
AMBIGUOUS = [
    one
    for one in REFUSED_HEADS
    if one.name in HOSTS or (one.name.startswith(FORMS + LIMITS) and one.name not in DESTINATIONS)
]


class Server(HttpServer):
    """Answers with what it was asked; some paths do something else.

    Attributes:
        asked: the requests so far, as method and path.
        is_ready: what /wait waits for.
        is_waiting: whether somebody does.
        is_given_up: whether /long, which waits likewise, was.
        pulled: how many blocks /flood has been asked for.
        streams: how many streams there are.
        has_streamed: whether one has ended.
        is_secured: whether a TLS handshake is complete.
    """

    def __init__(self, *, head_s: float = PATIENCE_S, idle_s: float = PATIENCE_S, context: Any = None) -> None:
        super().__init__("The test", LimitSettings(), head_s=head_s, idle_s=idle_s, context=context)
        self.asked: list[str] = []
        self.is_ready = asyncio.Event()
        self.is_waiting = asyncio.Event()
        self.is_given_up = asyncio.Event()
        self.pulled = 0
        self.streams = 0
        self.has_streamed = asyncio.Event()
        self.is_secured = False

    async def respond(self, request: Request) -> Response:
        self.asked.append(f"{request.method} {request.path}")
        if request.path == "/wait":
            self.is_waiting.set()
            await self.is_ready.wait()
        if request.path == "/long":
            try:
                self.is_waiting.set()
                await self.is_ready.wait()
            except asyncio.CancelledError:
                self.is_given_up.set()
                raise
        if request.path == "/flood":
            return Response(200, stream=self._flood())
        if request.path == "/events":
            return Response(200, {"Content-Type": "text/event-stream"}, stream=self._events())
        if request.path == "/large":
            return Response(200, content=BLOCK * 256)
        if request.path == "/fault":
            raise RuntimeError("a secret")
        if request.path == "/split":
            return Response(200, {"X": "a\r\nSet-Cookie: b"})
        said = {"path": request.path, "authority": request.authority, "query": request.query, "x": request.values("X")}
        return Response(200, {"Content-Type": "application/json"}, json.dumps(said).encode())

    def refuse(self, error: ProxyError) -> Response:
        return Response(error.status, {}, error.detail.encode())

    def on_secured(self, *_: object) -> None:
        self.is_secured = True

    async def _flood(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                self.pulled += 1
                yield BLOCK
        finally:
            self.has_streamed.set()

    async def _events(self) -> AsyncGenerator[bytes, None]:
        self.streams += 1
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            self.streams -= 1
            self.has_streamed.set()


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)

    async def answer(self, *, with_content: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Return status, fields and content of the next answer, whose length has to be known."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("ascii")
        line, *lines = head.rstrip().split("\r\n")
        fields = {name.lower(): value for name, _, value in (one.partition(": ") for one in lines)}
        content = await self.reader.readexactly(int(fields["content-length"])) if with_content else b""
        return int(line.split()[1]), fields, content

    async def rest(self) -> bytes:
        """Return what comes until the connection ends, however it does."""
        received = b""
        try:
            while block := await self.reader.read(65_536):
                received += block
        except ConnectionError:
            pass
        return received


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[tuple[str, int]]:
    async with asyncio.timeout(PATIENCE_S * 2):
        listening = await asyncio.get_running_loop().create_server(server.accept, "127.0.0.1", 0)
        try:
            yield listening.sockets[0].getsockname()
        finally:
            listening.close()
            server.is_ready.set()
            await server.end(PATIENCE_S)


@asynccontextmanager
async def connected(address: tuple[str, int], **options: Any) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection(*address, **options)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


Run = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Iterator[Run]:
    with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
        yield lambda play: runner.run(play())


def test_a_connection_serves_one_request_after_the_other(run: Run) -> None:
    async def play() -> None:
        async with serving(Server()) as address, connected(address) as client:
            client.send(b"GET /a?q=%20x&q=&r HTTP/1.1\r\nHost: localhost\r\nX: 1\r\nx:2\r\n\r\n")
            status, fields, content = await client.answer()
            assert (status, fields["date"][-4:]) == (200, " GMT")
            assert json.loads(content) == {
                "path": "/a",
                "authority": "",
                "query": {"q": [" x", ""], "r": [""]},
                "x": ["1", "2"],
            }
            client.send(GET % b"/b")
            assert json.loads((await client.answer())[2])["path"] == "/b"
            client.send(b"\r\n", *(bytes([byte]) for byte in GET % b"/c"))
            assert json.loads((await client.answer())[2])["path"] == "/c"
            client.send(b"HEAD /d HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            _, fields, _ = await client.answer(with_content=False)
            assert (int(fields["content-length"]) > 0, fields["connection"]) == (True, "close")
            assert await client.rest() == b""

    run(play)


def test_what_is_pipelined_waits_and_is_answered_in_order(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(GET % b"/wait", GET % b"/2", GET % b"/3")
            await server.is_waiting.wait()
            assert server.asked == ["GET /wait"]
            server.is_ready.set()
            paths = [json.loads((await client.answer())[2])["path"] for _ in range(3)]
            assert paths == ["/wait", "/2", "/3"]

    run(play)


def test_no_more_than_a_head_is_read_while_a_request_waits(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(GET % b"/wait", *[BLOCK] * 16)
            await server.is_waiting.wait()
            (connection,) = server.connections
            while connection.transport.is_reading():  # noqa: ASYNC110 -- the server says nothing of it
                await asyncio.sleep(0.01)
            assert len(connection._buffer) < 8 * len(BLOCK)
            server.is_ready.set()
            assert [(await client.answer())[0] for _ in range(2)] == [200, 431]
            await client.rest()

    run(play)


@pytest.mark.parametrize("case", AMBIGUOUS, ids=[one.name for one in AMBIGUOUS])
@pytest.mark.asyncio
async def test_what_the_relay_would_refuse_reaches_nobody(case: Refused) -> None:
    server = Server()
    async with serving(server) as address, connected(address) as client:
        client.send(case.request, GET % b"/behind")
        status, fields, _ = await client.answer()
        assert (status, fields["connection"]) == (case.status, "close")
        assert await client.rest() == b""
        assert server.asked == []


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        (b"Content-Length: %d\r\n" % len(GET % b"/smuggled"), GET % b"/smuggled"),
        (b"Content-Length: 9\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + GET % b"/smuggled"),
        (b"Transfer-Encoding: chunked\r\n", b"zzz\r\n"),
        (b"Content-Length: 3\r\nExpect: 100-continue\r\n", b""),
        (b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
        (b"Upgrade: websocket\r\n", GET % b"/smuggled"),
    ],
)
def test_behind_content_or_an_upgrade_nothing_is_read(run: Run, fields: bytes, content: bytes) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: localhost\r\n" + fields + b"\r\n" + content)
            status, answered, _ = await client.answer()
            assert (status, answered["connection"]) == (200, "close")
            client.send(GET % b"/behind")
            assert await client.rest() == b""
            assert server.asked == ["POST /a"]

    run(play)


def test_content_that_goes_on_does_not_cost_the_client_its_answer(run: Run) -> None:
    async def play() -> None:
        async with serving(Server()) as address, connected(address) as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n", *[BLOCK] * 15)
            status, _, content = await client.answer()
            assert (status, json.loads(content)["path"]) == (200, "/a")

    run(play)


def test_http_1_0_gets_one_answer(run: Run) -> None:
    async def play() -> None:
        async with serving(Server()) as address, connected(address) as client:
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await client.answer())[1]["connection"] == "close"
            assert await client.rest() == b""

    run(play)


def test_a_whole_url_names_its_own_authority(run: Run) -> None:
    async def play() -> None:
        async with serving(Server()) as address, connected(address) as client:
            client.send(b"GET http://other.example:81/a?b HTTP/1.1\r\nHost: localhost\r\n\r\n")
            said = json.loads((await client.answer())[2])
            assert (said["authority"], said["path"]) == ("other.example:81", "/a")

    run(play)


def test_whoever_ends_sending_still_gets_its_answer(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(GET % b"/wait")
            client.writer.write_eof()
            await server.is_waiting.wait()
            server.is_ready.set()
            assert b'"/wait"' in await client.rest()
        async with serving(server) as address, connected(address) as client:
            client.send(b"GET / HTTP/1.1\r\n")
            client.writer.write_eof()
            assert await client.rest() == b""

    run(play)


def test_whoever_cuts_the_connection_is_waited_for_no_longer(run: Run) -> None:
    """Or whoever connects, asks and leaves would be bounded by no limit on connections."""

    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(GET % b"/long")
            await server.is_waiting.wait()
            linger_not = struct.pack("ii", 1, 0)
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
            client.writer.transport.abort()
            await server.is_given_up.wait()
            assert not server.connections

    run(play)


class Reset(asyncio.Transport):
    """Of a connection that the client has reset a moment ago, which nobody has been told yet."""

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: object) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")


@pytest.mark.asyncio
async def test_a_reset_behind_the_last_answer_is_no_fault() -> None:
    connection = Connection(Server())
    connection.connection_made(Reset())
    connection.data_received(b"no request\r\n\r\n")
    connection.connection_lost(ConnectionResetError())


@pytest.mark.parametrize(
    ("sent", "head_s", "idle_s"),
    [
        (b"", 0.2, PATIENCE_S),
        (b"GET / HTTP/1.1\r\n", 0.2, PATIENCE_S),
        (GET % b"/a", PATIENCE_S, 0.2),
        (GET % b"/a" + b"GET / HTTP/1.1\r\n", 1, PATIENCE_S),
    ],
)
def test_silence_is_not_waited_for(run: Run, sent: bytes, head_s: float, idle_s: float) -> None:
    async def play() -> None:
        server = Server(head_s=head_s, idle_s=idle_s)
        async with serving(server) as address, connected(address) as client:
            client.send(sent)
            assert (b" 200 OK" in await client.rest()) == sent.startswith(GET % b"/a")
            assert not server.connections

    run(play)


def test_a_head_that_comes_in_drops_ends_in_time(run: Run) -> None:
    async def play() -> None:
        async with serving(Server(head_s=0.5)) as address, connected(address) as client:

            async def drip() -> None:
                for byte in b"GET / HTTP/1.1\r\nX: " + b"x" * 10_000:
                    client.send(bytes([byte]))
                    await asyncio.sleep(0.01)

            dripping = asyncio.create_task(drip())
            assert await client.rest() == b""
            dripping.cancel()

    run(play)


def test_whoever_takes_nothing_of_an_answer_is_cut(run: Run) -> None:
    async def play() -> None:
        server = Server(idle_s=0.2)
        async with serving(server) as address, connected(address, limit=1024) as client:
            client.send(GET % b"/large")
            while not server.asked or server.connections:  # noqa: ASYNC110 -- the server says nothing of it
                await asyncio.sleep(0.01)
            assert len(await client.rest()) < len(BLOCK) * 256

    run(play)


def test_a_stream_is_asked_for_no_more_than_is_read_and_ends_with_its_reader(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address, limit=1024) as client:
            client.send(GET % b"/flood")
            head = await client.reader.readuntil(b"\r\n\r\n")
            assert b"Content-Length" not in head
            assert b"Connection: close" in head
            (connection,) = server.connections
            while connection._drained.is_set():  # noqa: ASYNC110 -- the server says nothing of it
                await asyncio.sleep(0.01)
            client.writer.transport.abort()
            await server.has_streamed.wait()
            assert server.pulled < 1_000

    run(play)


@pytest.mark.parametrize("end", ["end", "cut"])
def test_a_stream_is_closed_whoever_ends_it(run: Run, end: str) -> None:
    async def play() -> None:
        server = Server(idle_s=0.2)
        async with serving(server) as address, connected(address) as client:
            client.send(GET % b"/events")
            assert await client.reader.readuntil(b"data: 1\n\n")
            assert server.streams == 1
            if end == "end":
                await server.end(0.01)
            else:
                server.cut()
            await server.has_streamed.wait()
            assert server.streams == 0
            assert await client.rest() == b""

    run(play)


def test_head_of_a_stream_begins_none(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as client:
            client.send(b"HEAD /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"text/event-stream" in await client.rest()
            assert server.streams == 0
            assert not server.has_streamed.is_set()

    run(play)


@pytest.mark.parametrize("path", [b"/fault", b"/split"])
@pytest.mark.logs_own_fault
def test_a_fault_of_our_own_is_a_line_and_no_answer(run: Run, path: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async def play() -> None:
        async with serving(Server()) as address, connected(address) as client:
            client.send(GET % path)
            assert await client.rest() == b""

    run(play)
    assert len(caplog.records) == 1
    assert "answering a request" in caplog.text
    assert "a secret" not in caplog.text


def test_an_end_lets_answers_go_and_closes_what_is_idle(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as idle, connected(address) as busy:
            idle.send(GET % b"/a")
            await idle.answer()
            busy.send(GET % b"/wait", GET % b"/b")
            await server.is_waiting.wait()
            ending = asyncio.create_task(server.end(PATIENCE_S))
            assert await idle.rest() == b""
            assert not ending.done()
            server.is_ready.set()
            assert (await busy.answer())[1]["connection"] == "close"
            await ending
            assert all(connection.transport.is_closing() for connection in server.connections)
            assert await busy.rest() == b""
            assert server.asked == ["GET /a", "GET /wait"]

    run(play)


def test_an_end_cuts_what_takes_longer(run: Run) -> None:
    async def play() -> None:
        server = Server()
        async with serving(server) as address, connected(address) as busy:
            busy.send(GET % b"/wait")
            await server.is_waiting.wait()
            await server.end(0.01)
            assert await busy.rest() == b""
            assert not server.connections

    run(play)


def test_tls(run: Run) -> None:
    ca = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("localhost").configure_cert(context)
    trusting = ssl.create_default_context()
    ca.configure_trust(trusting)

    async def play() -> None:
        server = Server(context=context)
        async with (
            serving(server) as address,
            connected(address, ssl=trusting, server_hostname="localhost") as client,
        ):
            client.send(GET % b"/a", GET % b"/b")
            assert [(await client.answer())[0] for _ in range(2)] == [200, 200]
            assert server.is_secured
        server = Server(head_s=0.2, context=context)
        async with serving(server) as address:
            async with connected(address) as plain, connected(address) as silent, connected(address) as half:
                half.send(b"\x16\x03\x01\x02\x00\x01")
                plain.send(GET % b"/c")
                assert b"HTTP" not in await plain.rest()
                assert await silent.rest() == await half.rest() == b""
            while server.connections:  # noqa: ASYNC110 -- the server says nothing of it
                await asyncio.sleep(0.01)
            assert server.asked == []

    run(play)
