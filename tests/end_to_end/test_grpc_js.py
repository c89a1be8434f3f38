"""grpc-js, gRPC's own library for Node.js, through the real command: `exec` alone, a reverse listener in clear and one with TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events
import pytest
import pytest_asyncio
import trustme

from proxy.sandbox import Sandbox, SandboxSettings
from tests.end_to_end.conftest import OWN_SUBSCRIPTION_KEY
from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import COMMAND, environment, run_program
from tests.end_to_end.test_grpc import HOST, channels, describe, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from proxy.sandbox import SandboxKeys
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Finished, Place, ProxyProgram
    from tests.end_to_end.test_grpc import Echo

PACKAGES: Final = ("@grpc/grpc-js@1.14.7",)
PROGRAM: Final = Path(__file__).with_name("clients") / "grpc_js.cjs"
# Of the cases that gRPC's libraries are tested with against one another (grpc/doc/interop-test-descriptions.md), those that ask
# nothing of a particular service.
INTEROP: Final = (
    *(
        "empty_unary",
        "large_unary",
        "client_streaming",
        "server_streaming",
        "ping_pong",
        "empty_stream",
        "custom_metadata",
    ),
    *("status_code_and_message", "unimplemented_method", "unimplemented_service", "cancel_after_begin"),
    *("cancel_after_first_response", "timeout_on_sleeping_server", "many_unary"),
)
HUGE: Final = 64 << 20


@pytest.fixture(scope="module")
def library(request: pytest.FixtureRequest) -> Path:
    if shutil.which("node") is None:
        pytest.skip("node is not installed here")
    return install_packages(request.config, PACKAGES)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[tuple[int, Echo, Path]]:
    authority = trustme.CA()
    ca_file = tmp_path / "upstream-ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    with serving(authority) as (port, echo):
        yield port, echo, ca_file


def call(proxy: ProxyProgram, library: Path, way: str, *cases: str, roots: Path | None = None) -> Finished:
    """Runs the program with some of its cases, each in the way named."""
    target = f"{HOST}:443" if way == "connect" else proxy.address("reverse")
    command = ["node", str(PROGRAM), way, target, *cases]
    if way == "connect":
        exec_ = [COMMAND, "exec", "--config", str(proxy.config_file), "--proxy-url", proxy.forward, "--"]
        command = [*exec_, *command]
    extra = {} if roots is None else {"ROOTS": str(roots)}
    return run_program(command, environ=environment(LIBRARIES_DIRECTORY=str(library), **extra), patience_s=120)


@pytest.mark.parametrize("way", ["connect", "plain", "tls"])
def test_grpc_js_makes_every_kind_of_call(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path], library: Path, tmp_path: Path, way: str
) -> None:
    port, echo, ca_file = upstream
    described = describe(place, port, ca_file)
    roots = None
    if way == "tls":
        own = trustme.CA()
        roots, certificate = tmp_path / "own-ca.pem", tmp_path / "own.pem"
        own.cert_pem.write_to_path(str(roots))
        own.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        certificate.chmod(0o600)
        listeners: Any = described["listeners"]
        listeners[1]["tls"] = {"certificate": str(certificate)}
    proxy = start_proxy(described)
    done = call(proxy, library, way, *INTEROP, roots=roots)
    assert done.status == 0, done.stderr
    assert all(data["authorization"].startswith("Bearer ") for data in echo.metadata)
    (marked,) = (data for data in echo.metadata if "x-a" in data)
    assert (marked["x-a"], marked["b-bin"]) == ("1", b"\x00\xff")


def test_messages_of_64_mib_pass_both_ways_and_are_never_kept(
    place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path], library: Path
) -> None:
    """What the proxy holds of them is bounded by the windows of both sides, which are below 2 MiB a stream and direction."""
    port, _, ca_file = upstream
    proxy = start_proxy(describe(place, port, ca_file))
    with channels(proxy, "reverse") as channel:
        assert channel.unary_unary("/echo/Unary")(b"first", timeout=60) == b"first"
        before = resident_bytes(proxy.process.pid)
        message = bytes(HUGE)
        assert channel.unary_unary("/echo/Unary")(message, timeout=100) == message
    done = call(proxy, library, "plain", "huge_unary")
    assert done.status == 0, done.stderr
    grown = resident_bytes(proxy.process.pid) - before
    assert grown < HUGE // 4


def resident_bytes(pid: int) -> int:
    """The most that a process has had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


class FirstRefuses(threading.Thread):
    """An upstream that answers its first call with a gateway's 401 about the token, and the others as they should be answered."""

    def __init__(self, authority: trustme.CA) -> None:
        super().__init__(daemon=True)
        self.tokens: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(context)
        context.set_alpn_protocols(["h2"])
        self._listening = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self._listening.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                connected, _ = self._listening.accept()
            except ssl.SSLError:  # who asked which versions it speaks
                continue
            except OSError:
                return
            with connected:
                self._serve(connected)

    def _serve(self, connected: socket.socket) -> None:
        ours = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        ours.initiate_connection()
        connected.sendall(ours.data_to_send())
        while received := connected.recv(65_536):
            for event in ours.receive_data(received):
                if isinstance(event, h2.events.RequestReceived):
                    self.tokens.append(str(dict(event.headers)["authorization"]))  # type: ignore[index]  # as configured
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer(ours, event.stream_id)
            connected.sendall(ours.data_to_send())

    def _answer(self, ours: h2.connection.H2Connection, stream_id: int) -> None:
        if len(self.tokens) == 1:
            challenge = ("www-authenticate", 'Bearer error="invalid_token"')
            ours.send_headers(stream_id, [(":status", "401"), challenge], end_stream=True)
            return
        ours.send_headers(stream_id, [(":status", "200"), ("content-type", "application/grpc")])
        ours.send_data(stream_id, bytes(5))
        ours.send_headers(stream_id, [("grpc-status", "0")], end_stream=True)

    def close(self) -> None:
        self._listening.close()


def test_a_call_of_grpc_js_whose_token_was_refused_is_repeated_with_another(
    place: Place, start_proxy: StartProxy, library: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    ca_file = tmp_path / "upstream-ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    server = FirstRefuses(authority)
    server.start()
    try:
        proxy = start_proxy(describe(place, server.port, ca_file))
        done = call(proxy, library, "plain", "empty_unary")
    finally:
        server.close()
    assert done.status == 0, done.stderr
    first, second = server.tokens
    assert first != second


@pytest_asyncio.fixture
async def sandbox(sandbox_keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    """A sandbox of the test's own, whose identity platform goes and comes."""
    async with Sandbox(SandboxSettings(keys=sandbox_keys, subscription_key=OWN_SUBSCRIPTION_KEY)) as running:
        yield running


@pytest.mark.asyncio
async def test_calls_of_grpc_js_outlast_an_outage_of_the_identity_platform(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy, upstream: tuple[int, Echo, Path], library: Path
) -> None:
    port, echo, ca_file = upstream
    described = describe(own_place, port, ca_file) | {"timeouts": {"token_s": 2, "drain_s": 5}}
    with_token = await asyncio.to_thread(start_proxy, described)
    assert (await asyncio.to_thread(call, with_token, library, "plain", "empty_unary")).status == 0
    credentials: Any = described["credentials"]
    next(iter(credentials.values()))["lazy"] = True
    described["state_directory"] = "another"
    without = await asyncio.to_thread(start_proxy, described)
    await sandbox.close_identity_platform()
    assert (await asyncio.to_thread(call, with_token, library, "plain", "empty_unary")).status == 0
    refused = await asyncio.to_thread(call, without, library, "plain", "refused")
    assert refused.stdout.startswith(b"14 apim-auth-proxy: "), refused
    assert len(echo.metadata) == 2
    await sandbox.open_identity_platform()
    for _ in range(60):
        done = await asyncio.to_thread(call, without, library, "plain", "empty_unary")
        if done.status == 0:
            break
        await asyncio.sleep(0.5)
    assert done.status == 0, done.stderr
