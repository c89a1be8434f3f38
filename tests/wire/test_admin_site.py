"""The admin site over real sockets, asked in raw HTTP."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.identity.sources import IdentityStatistics
from proxy.operations.admin import AdminSite
from proxy.operations.extras import Quit
from proxy.operations.metrics import MetricsCollector
from proxy.operations.snapshot import WorkerSnapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from prometheus_client.metrics_core import Metric

TOKEN = "admin-token-0123456789"


def collector() -> MetricsCollector:
    return MetricsCollector(
        lambda: [WorkerSnapshot(exchanges={"contoso.azure-api.net": {200: 3}})], lambda: IdentityStatistics({}, ())
    )


@dataclass
class State:
    ready: bool = True
    reasons: Sequence[str] = ()
    started: bool = True

    def readiness(self) -> tuple[bool, Sequence[str]]:
        return self.ready, self.reasons

    def startup(self) -> tuple[bool, Sequence[str]]:
        return self.started, () if self.started else ("listeners",)


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)


@asynccontextmanager
async def site(state: State | None = None, host: str = "127.0.0.1", **options: Any) -> AsyncIterator[tuple[str, int]]:
    state = state or State()
    admin = AdminSite(host, 0, state.readiness, collector(), started=state.startup, **options)
    bound = await admin.start()
    try:
        yield bound
    finally:
        await admin.close()


async def send(address: tuple[str, int], request: bytes) -> Answer:
    reader, writer = await asyncio.open_connection("127.0.0.1" if address[0] == "0.0.0.0" else address[0], address[1])  # noqa: S104
    try:
        writer.write(request)
        head, _, content = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    status_line, *lines = head.decode("ascii").split("\r\n")
    fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(status_line.split()[1]), fields, content)


async def get(
    address: tuple[str, int], path: str, *, method: str = "GET", host: str = "localhost", fields: str = ""
) -> Answer:
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{fields}\r\n"
    return await send(address, head.encode())


@pytest.mark.asyncio
async def test_the_probes_say_what_they_are_told() -> None:
    state = State()
    async with site(state) as address:
        assert (await get(address, "/livez")).json() == {"status": "live"}
        assert (await get(address, "/readyz")).json() == {"status": "ready"}
        assert (await get(address, "/startupz")).json() == {"status": "started"}

        state.ready, state.reasons, state.started = False, ["draining"], False
        assert (await get(address, "/livez")).status == 200
        ready = await get(address, "/readyz")
        assert (ready.status, ready.json()) == (503, {"status": "not ready", "reasons": ["draining"]})
        started = await get(address, "/startupz")
        assert (started.status, started.json()) == (503, {"status": "not started", "reasons": ["listeners"]})


@pytest.mark.asyncio
async def test_metrics_are_what_prometheus_reads() -> None:
    async with site() as address:
        answer = await get(address, "/metrics")
    assert answer.status == 200
    assert answer.fields["content-type"].startswith("text/plain; version=")
    assert b'apim_auth_proxy_exchanges_total{route="contoso.azure-api.net",status_class="2xx"} 3.0\n' in answer.content
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool (Debian's package prometheus) is not installed")
    checked = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=answer.content, capture_output=True, timeout=120
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


@pytest.mark.asyncio
async def test_head_gets_the_fields_of_get() -> None:
    async with site() as address:
        for path in ("/livez", "/metrics"):
            answer = await get(address, path, method="HEAD")
            assert (answer.status, answer.content) == (200, b"")
            assert int(answer.fields["content-length"]) > 0


@pytest.mark.asyncio
@pytest.mark.parametrize("path", ["/nothing", "/livez/", "//livez", "/..%2fmetrics", "/metrics/../livez"])
async def test_an_unknown_path_is_a_problem_with_directions(path: str) -> None:
    async with site() as address:
        answer = await get(address, path)
    assert answer.status == 404
    assert answer.fields["content-type"] == "application/problem+json"
    assert answer.json()["status"] == 404
    assert "/metrics" in answer.json()["detail"]


@pytest.mark.asyncio
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND"])
async def test_it_only_reads(method: str) -> None:
    async with site() as address:
        for path in ("/livez", "/nothing"):
            answer = await get(address, path, method=method)
            assert answer.status == 405
            assert answer.fields["allow"] == "GET, HEAD"
            assert answer.json()["title"] == "Method Not Allowed"


@pytest.mark.asyncio
async def test_what_is_posted_to_says_so() -> None:
    async with site(extras=[Quit(lambda: None)]) as address:
        answer = await get(address, "/quit")
        assert (answer.status, answer.fields["allow"]) == (405, "POST")


@pytest.mark.asyncio
async def test_every_answer_keeps_browsers_at_arms_length() -> None:
    async with site() as address:
        for answer in (await get(address, "/metrics"), await get(address, "/x"), await get(address, "/", host="evil")):
            assert answer.fields["content-security-policy"].startswith("default-src 'none'")
            assert answer.fields["x-content-type-options"] == "nosniff"
            assert answer.fields["cache-control"] == "no-store"
            assert answer.fields["server"] == "apim-auth-proxy"
            assert "access-control-allow-origin" not in answer.fields


@pytest.mark.asyncio
async def test_a_rebound_name_is_refused() -> None:
    async with site() as address:
        answer = await get(address, "/metrics", host="rebound.example:9901")
    assert answer.status == 421
    assert answer.fields["content-type"] == "application/problem+json"
    assert b"contoso" not in answer.content


@pytest.mark.asyncio
async def test_whoever_takes_the_admin_site_for_the_proxy_is_told_so() -> None:
    async with site() as address:
        as_proxy = await get(address, "http://api.example/orders", host="api.example")
        as_api = await get(address, "/orders")
    assert (as_proxy.status, as_api.status) == (421, 404)
    for answer in (as_proxy, as_api):
        assert b"This is the admin site" in answer.content
        assert b"use an address of `listeners`" in answer.content


@pytest.mark.asyncio
async def test_http_1_0_without_host_is_answered() -> None:
    async with site() as address:
        assert (await send(address, b"GET /livez HTTP/1.0\r\n\r\n")).status == 200


@pytest.mark.asyncio
async def test_a_configured_name_is_answered() -> None:
    async with site(server_names=["Proxy.Internal"]) as address:
        assert (await get(address, "/metrics", host="proxy.internal:9901")).status == 200


@pytest.mark.asyncio
async def test_other_machines_get_the_probes_and_need_the_token_for_the_rest() -> None:
    everywhere = "0.0.0.0"  # noqa: S104 -- the case to be guarded
    async with site(host=everywhere) as address:
        assert (await get(address, "/readyz", host="pod")).status == 200
        assert (await get(address, "/metrics")).status == 403
    async with site(host=everywhere, token=TOKEN) as address:
        assert (await get(address, "/readyz", host="pod")).status == 200
        refused = await get(address, "/metrics", host="pod")
        assert refused.status == 401
        assert refused.fields["www-authenticate"].startswith("Bearer ")
        assert TOKEN.encode() not in refused.content
        wrong = await get(address, "/metrics", host="pod", fields="Authorization: Bearer wrong\r\n")
        assert wrong.status == 401
        right = await get(address, "/metrics", host="pod", fields=f"Authorization: Bearer {TOKEN}\r\n")
        assert right.status == 200


@pytest.mark.asyncio
@pytest.mark.logs_own_fault
async def test_a_collector_that_fails_gets_a_problem_without_its_words(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(MetricsCollector):
        def collect(self) -> Iterator[Metric]:
            raise RuntimeError("inner matters")

    admin = AdminSite("localhost", 0, State().readiness, Broken(tuple, lambda: IdentityStatistics({}, ())))
    address = await admin.start()
    try:
        answer = await get(address, "/metrics")
        assert (await get(address, "/livez")).status == 200
    finally:
        await admin.close()
    assert answer.status == 500
    assert b"inner matters" not in answer.content
    assert "failed to answer /metrics" in caplog.text


@pytest.mark.asyncio
async def test_a_taken_port_is_an_error_and_leaves_nothing_open() -> None:
    async with site() as address:
        second = AdminSite("127.0.0.1", address[1], State().readiness, collector())
        with pytest.raises(OSError, match="Address already in use"):
            await second.start()
        await second.close()


@pytest.mark.asyncio
async def test_closing_ends_kept_alive_connections() -> None:
    admin = AdminSite("127.0.0.1", 0, State().readiness, collector())
    address = await admin.start()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
    await admin.close()
    assert (await reader.read()).endswith(b"}\n")
    writer.close()
    await writer.wait_closed()


def count_accepted(port: int) -> int:
    """How many connections are open at their local port, by Linux' /proc, which may list one twice while others come and go."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()]
    return len({words[2] for words in lines if words[1].endswith(f":{port:04X}") and words[3] == "01"})


@pytest.mark.asyncio
async def test_connections_are_few_and_a_probe_always_gets_through() -> None:
    """G6: half-sent heads take neither the proxy's descriptors nor the probes' place."""
    writers = []
    async with site() as address:
        try:
            for _ in range(200):
                _, writer = await asyncio.open_connection(*address)
                writer.write(b"GET /livez HTTP/1.1\r\n")
                writers.append(writer)
                assert (await get(address, "/livez")).status == 200
            if sys.platform == "linux":
                assert 1 < count_accepted(address[1]) <= 64
        finally:
            for writer in writers:
                writer.transport.abort()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    "request_",
    [
        b"GET http:///livez HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x00\x01\x02\r\n\r\n",
        b"GET /livez HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
    ],
)
async def test_a_malformed_request_logs_one_line(request_: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """G12: no traceback."""
    async with site() as address:
        assert (await send(address, request_)).status == 400
    assert len(caplog.records) <= 1
    assert all(record.exc_info is None and "\n" not in record.getMessage() for record in caplog.records)


@pytest.mark.asyncio
async def test_ipv6_is_listened_on() -> None:
    try:
        async with site(host="::1") as address:
            assert (await get(address, "/metrics", host=f"[::1]:{address[1]}")).status == 200
    except OSError:
        pytest.skip("this machine has no IPv6 loopback address")


def test_operations_does_not_import_aiohttp() -> None:
    """It costs a quarter of a second, which commands that serve nothing need not pay."""
    program = (
        "import sys, proxy.operations, proxy.operations.access_log, proxy.operations.event_log, proxy.operations.metrics\n"
        "sys.exit('aiohttp.web' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
