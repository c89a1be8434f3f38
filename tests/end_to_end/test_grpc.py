"""gRPC through the real command: grpcio at both ends, in every way in; what a call needs arrives, and refusals say why."""

from __future__ import annotations

import sys
import time
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import pytest
import trustme

from tests.end_to_end.programs import COMMAND, configuration, environment, run_program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram

HOST: Final = "grpc.example.test"
LARGE: Final = 8 << 20
OPTIONS: Final = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Echo(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio has no types
    """A service without generated code: messages are bytes."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []
        self.waiting = 0
        self.cancelled = 0

    def service(self, details: Any) -> Any:
        self.metadata.append(dict(details.invocation_metadata))
        return {
            "/echo/Unary": grpc.unary_unary_rpc_method_handler(lambda request, _: request),
            "/echo/Down": grpc.unary_stream_rpc_method_handler(self._down),
            "/echo/Up": grpc.stream_unary_rpc_method_handler(lambda requests, _: b"".join(requests)),
            "/echo/Both": grpc.stream_stream_rpc_method_handler(lambda requests, _: requests),
            "/echo/Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "/echo/Wait": grpc.unary_unary_rpc_method_handler(self._wait),
        }.get(details.method)

    def _down(self, request: bytes, _context: Any) -> Iterator[bytes]:
        for _ in range(5):
            yield request

    def _fail(self, _request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([("detail-bin", b"\x00\xff")])
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not like this: \u00e4 100%")
        return b""

    def _wait(self, request: bytes, context: Any) -> bytes:
        self.waiting += 1
        while context.is_active():
            time.sleep(0.01)
        self.cancelled += 1
        return request


@contextmanager
def serving(authority: trustme.CA) -> Iterator[tuple[int, Echo]]:
    echo = Echo()
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=[echo], options=OPTIONS)
    issued = authority.issue_cert(HOST)
    pair = (issued.private_key_pem.bytes(), b"".join(one.bytes() for one in issued.cert_chain_pems))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
    server.start()
    try:
        yield port, echo
    finally:
        server.stop(0).wait()


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[int, Echo, Path]]:
    authority = trustme.CA()
    ca_file = tmp_path / "upstream-ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with serving(authority) as (port, echo):
        yield port, echo, ca_file


def describe(place: Place, port: int, ca_file: Path) -> Configuration:
    described = configuration(place)
    routes: Any = described["routes"]
    del routes[1:]
    routes[0] |= {"hosts": [HOST], "dial": f"127.0.0.1:{port}", "ca_file": str(ca_file)}
    described["listeners"] = [
        {"address": "127.0.0.1:0", "mode": "forward"},
        {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
    ]
    return described


@contextmanager
def channels(proxy: ProxyProgram, way: str) -> Iterator[grpc.Channel]:
    """A channel to the echo service: through CONNECT with TLS or without, or to the reverse listener."""
    through = [*OPTIONS, ("grpc.http_proxy", proxy.forward)]
    if way == "connect with TLS":
        credentials = grpc.ssl_channel_credentials(proxy.ca_file.read_bytes())
        channel = grpc.secure_channel(f"{HOST}:443", credentials, options=through)
    elif way == "connect without TLS":
        channel = grpc.insecure_channel(f"{HOST}:443", options=through)
    else:
        channel = grpc.insecure_channel(proxy.address("reverse"), options=[*OPTIONS, ("grpc.enable_http_proxy", 0)])
    with channel:
        yield channel


WAYS: Final = ("connect with TLS", "connect without TLS", "reverse")


@pytest.mark.parametrize("way", WAYS)
def test_every_kind_of_call_passes(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path], way: str
) -> None:
    port, echo, ca_file = upstream
    proxy = start_proxy(describe(place, port, ca_file))
    with channels(proxy, way) as channel:
        unary = channel.unary_unary("/echo/Unary")
        assert unary(b"hello", timeout=30, metadata=[("x-a", "1"), ("b-bin", b"\x00")]) == b"hello"
        assert echo.metadata[0]["x-a"] == "1"
        assert echo.metadata[0]["b-bin"] == b"\x00"
        assert echo.metadata[0]["authorization"].startswith("Bearer ")
        large = bytes(range(256)) * (LARGE // 256)
        assert unary(large, timeout=60) == large
        assert unary(b"x" * 100_000, timeout=30, compression=grpc.Compression.Gzip) == b"x" * 100_000
        assert list(channel.unary_stream("/echo/Down")(b"down", timeout=30)) == [b"down"] * 5
        assert channel.stream_unary("/echo/Up")(iter([b"a", b"b", b"c"]), timeout=30) == b"abc"
        sent = [b"%d" % number for number in range(50)]
        assert list(channel.stream_stream("/echo/Both")(iter(sent), timeout=30)) == sent
        calls = [unary.future(b"%d" % number, timeout=60) for number in range(200)]
        assert [call.result() for call in calls] == [b"%d" % number for number in range(200)]
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/echo/Fail")(b"", timeout=30)
        call: Any = failed.value
        assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert call.details() == "not like this: \u00e4 100%"
        assert dict(call.trailing_metadata())["detail-bin"] == b"\x00\xff"
        with pytest.raises(grpc.RpcError) as failed:
            channel.unary_unary("/echo/Unknown")(b"", timeout=30)
        call = failed.value
        assert call.code() is grpc.StatusCode.UNIMPLEMENTED
    assert all(data["authorization"].startswith("Bearer ") for data in echo.metadata)


def test_a_deadline_and_a_cancelled_call_reach_the_service(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path]
) -> None:
    port, echo, ca_file = upstream
    proxy = start_proxy(describe(place, port, ca_file))
    with channels(proxy, "reverse") as channel:
        # So that the token and the connections are there before a deadline runs.
        assert channel.unary_unary("/echo/Unary")(b"first", timeout=60) == b"first"
        wait = channel.unary_unary("/echo/Wait")
        with pytest.raises(grpc.RpcError) as failed:
            wait(b"", timeout=5)
        call: Any = failed.value
        assert call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        future = wait.future(b"", timeout=60)
        give_up_at = time.monotonic() + 30
        # grpcio does not even begin to handle what is cancelled before that.
        while echo.waiting < 2 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        future.cancel()
        while echo.cancelled < 2 and time.monotonic() < give_up_at:
            time.sleep(0.01)
        assert echo.cancelled == 2
        assert channel.unary_unary("/echo/Unary")(b"on", timeout=30) == b"on"


def test_a_call_that_cannot_be_passed_on_says_why(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path]
) -> None:
    port, echo, ca_file = upstream
    described = describe(place, port, ca_file)
    credentials: Any = described["credentials"]
    next(iter(credentials.values()))["client_id"] = "99999999-9999-9999-9999-999999999999"
    proxy = start_proxy(described)
    with channels(proxy, "connect with TLS") as channel, pytest.raises(grpc.RpcError) as failed:
        channel.unary_unary("/echo/Unary")(b"", timeout=30)
    call: Any = failed.value
    assert call.code() is grpc.StatusCode.UNAVAILABLE
    assert "apim-auth-proxy: " in call.details()
    assert "AADSTS" in call.details()
    assert not echo.metadata


PROGRAM: Final = """
import sys, grpc
with grpc.secure_channel(sys.argv[1], grpc.ssl_channel_credentials()) as channel:
    print(channel.unary_unary("/echo/Unary")(b"hello", timeout=30).decode())
"""


def test_exec_alone_is_enough_for_grpcio(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path], tmp_path: Path
) -> None:
    port, echo, ca_file = upstream
    proxy = start_proxy(describe(place, port, ca_file))
    script = str(tmp_path / "call.py")
    Path(script).write_text(PROGRAM)
    command = [
        COMMAND,
        "exec",
        "--config",
        str(proxy.config_file),
        "--proxy-url",
        proxy.forward,
        "--",
        sys.executable,
        script,
    ]
    done = run_program([*command, f"{HOST}:443"], environ=environment())
    assert done.stdout.decode().strip() == "hello", done.stderr
    assert echo.metadata[0]["authorization"].startswith("Bearer ")
