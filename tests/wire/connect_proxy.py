"""An upstream proxy for tests, strict about what it is sent: it knows CONNECT and nothing else. Does I/O, in a thread of its own.

It writes down every tunnel it opens, and every request it has reason to complain of.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from typing import Self

_REQUEST = re.compile(rb"CONNECT ([a-z0-9.-]+|\[[0-9a-f:]+\]):([0-9]+) HTTP/1\.1\r\n")
USER, PASSWORD = "orders proxy", "p:ss/w@rd%"
CREDENTIALS = base64.b64encode(f"{USER}:{PASSWORD}".encode())


class ConnectProxy:
    """Runs from `with` to its end.

    Args:
        context: TLS with its clients; None: none.
        asks: whether it wants to know who they are.
        status: what every request is answered with in place of a tunnel.

    Attributes:
        port: where it listens on 127.0.0.1.
        targets: of the tunnels it opened, in order.
        complaints: what was wrong with requests.
    """

    def __init__(self, *, context: ssl.SSLContext | None = None, asks: bool = False, status: bytes = b"") -> None:
        self._context = context
        self._asks = asks
        self._status = status
        self.port = 0
        self.targets: list[str] = []
        self.complaints: list[bytes] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_open = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._is_open.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.call_soon(self._is_open.set)
        self._loop.run_forever()
        server.close()  # closes what listens only
        while True:  # what was accepted just before begins to be served only now
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self._loop.run_until_complete(asyncio.sleep(0.05))  # for transports that close in the next turns
            if not asyncio.all_tasks(self._loop):
                break
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        request = _REQUEST.match(head)
        if request is None or b"\r\nHost: %b:%b\r\n" % (request[1], request[2]) not in head:
            self.complaints.append(head)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            return
        if self._asks != (b"\r\nProxy-Authorization: Basic %b\r\n" % CREDENTIALS in head):
            self.complaints.append(head)
            writer.write(b'HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n')
            return
        if self._status:
            writer.write(b"HTTP/1.1 %b\r\nContent-Length: 2\r\n\r\nno" % self._status)
            return
        host, port = request[1].decode().strip("[]"), int(request[2])
        self.targets.append(f"{request[1].decode()}:{port}")
        try:
            far_reader, far_writer = await asyncio.open_connection(host, port)
        except OSError:
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\nVia: 1.1 strict\r\n\r\n")
        try:
            await asyncio.gather(_copy(reader, far_writer), _copy(far_reader, writer))
        finally:
            far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()
    except OSError:
        writer.transport.abort()
    except asyncio.CancelledError:
        writer.transport.abort()
        raise
