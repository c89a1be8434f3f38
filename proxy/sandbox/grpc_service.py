"""A gRPC service behind the gateway: `sandbox.Echo`, whose messages come back as they went. Does I/O.

It is grpcio's, where that is installed, and shares the API's port: who agrees on HTTP/2 in the TLS handshake is passed on to a
grpcio server on loopback, which starts with the first of them. Messages are bytes here, so that any client's will do.
"""

from __future__ import annotations

import asyncio
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from multidict import CIMultiDict

from proxy.sandbox.gateway import GatewayRefusalError

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.sandbox.gateway import Gateway

HTTP_2 = "h2"
PATHS = ("/sandbox.Echo/Unary", "/sandbox.Echo/Stream")

_THREADS = 8
_ADMISSION_S = 10.0
_READ_BYTES = 65_536


def has_grpc() -> bool:
    """Whether grpcio is installed."""
    return importlib.util.find_spec("grpc") is not None


class GrpcService:
    """The service, and the way to it.

    Args:
        gateway: admits calls as it does requests; asked on the event loop alone.
        make_http1: makes the protocol of a connection that has not agreed on HTTP/2.
    """

    def __init__(self, gateway: Gateway, make_http1: Callable[[], asyncio.BaseProtocol]) -> None:
        self._gateway = gateway
        self._make_http1 = make_http1
        self._loop = asyncio.get_running_loop()
        self._server: Any = None  # grpcio has no types
        self._starting = asyncio.Lock()
        self._port = 0
        self._passing: set[asyncio.Task[None]] = set()

    def accept(self) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection, until its TLS handshake has told what it is."""
        return _Choosing(self)

    def begin(self, transport: asyncio.Transport) -> None:
        """Give a connection to who speaks what it has agreed on."""
        tls = transport.get_extra_info("ssl_object")
        protocol: asyncio.BaseProtocol
        if tls.selected_alpn_protocol() == HTTP_2:
            protocol = asyncio.StreamReaderProtocol(asyncio.StreamReader(), self._on_http2)
        else:
            protocol = self._make_http1()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    async def close(self) -> None:
        """Break calls, and stop."""
        passing = list(self._passing)
        for task in passing:
            task.cancel()
        await asyncio.gather(*passing, return_exceptions=True)
        server, self._server = self._server, None
        if server is not None:
            await asyncio.to_thread(server.stop(0).wait)

    def _on_http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._pass_on(reader, writer))
        self._passing.add(task)
        task.add_done_callback(self._passing.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes both ways until either side ends."""
        writers = [writer]
        ways: list[asyncio.Task[None]] = []
        try:
            async with self._starting:
                if self._server is None:
                    await asyncio.to_thread(self._start)
            other, to_service = await asyncio.open_connection("127.0.0.1", self._port)
            writers.append(to_service)
            ways += [self._loop.create_task(way) for way in (_copy(reader, to_service), _copy(other, writer))]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            for each in writers:
                each.transport.abort()

    def _start(self) -> None:
        import grpc  # noqa: PLC0415  # for those who call it, and have it

        pool = ThreadPoolExecutor(_THREADS, "sandbox-grpc")
        server = grpc.server(pool, handlers=[_make_handler(self.find)], options=[("grpc.so_reuseport", 0)])
        self._port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self._server = server

    def find(self, details: Any) -> Any:  # noqa: ANN401  # grpcio has no types
        """Return what answers a call, in a thread of grpcio: the echo, the refusal, or None for what there is not."""
        import grpc  # noqa: PLC0415  # as above

        fields = CIMultiDict((name, value) for name, value in details.invocation_metadata if isinstance(value, str))
        admission = asyncio.run_coroutine_threadsafe(self._admit(details.method, fields), self._loop)
        refusal = admission.result(_ADMISSION_S)
        if refusal is not None:
            code = {429: grpc.StatusCode.RESOURCE_EXHAUSTED, 404: grpc.StatusCode.UNIMPLEMENTED}
            status = code.get(refusal.status, grpc.StatusCode.UNAUTHENTICATED)
            message = refusal.message
            return grpc.stream_stream_rpc_method_handler(lambda _, context: context.abort(status, message))
        if details.method == PATHS[0]:
            return grpc.unary_unary_rpc_method_handler(lambda request, _: request)
        return (
            grpc.stream_stream_rpc_method_handler(lambda requests, _: requests) if details.method == PATHS[1] else None
        )

    async def _admit(self, path: str, fields: CIMultiDict[str]) -> GatewayRefusalError | None:
        try:
            self._gateway.admit("POST", path, fields)
        except GatewayRefusalError as refusal:
            return refusal
        return None


class _Choosing(asyncio.Protocol):
    def __init__(self, service: GrpcService) -> None:
        self._service = service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._service.begin(transport)  # type: ignore[arg-type]  # stream transports only


def _make_handler(find: Callable[[Any], Any]) -> Any:  # noqa: ANN401  # grpcio has no types
    import grpc  # noqa: PLC0415  # as above

    class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]  # as above
        def service(self, handler_call_details: Any) -> Any:  # noqa: ANN401  # as above
            return find(handler_call_details)

    return Handler()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_READ_BYTES):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        return
