"""Spans, as a real OTLP receiver gets them from a real proxy: parents, samples, what is not in them, a collector that is away."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web

from proxy.sandbox import TokenEndpointFault, TokenFault
from tests.end_to_end.programs import COMMAND, PATIENCE_S, ROOT, Place, configuration, environment, write_configuration

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl

pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
PARENT: Final = "b7ad6b7169203331"
SERVER, CLIENT, INTERNAL = 2, 3, 1  # opentelemetry.proto.trace.v1.Span.SpanKind


@dataclass
class Collector:
    """A server that takes spans.

    Attributes:
        endpoint: its URL.
        spans: those received, as (resource, span).
        content: of all requests, as sent.
        status: what it answers.
        refused: how many requests it took nothing from.
    """

    endpoint: str = ""
    spans: list[tuple[dict[str, Any], Any]] = field(default_factory=list)
    content: bytearray = field(default_factory=bytearray)
    status: int = 200
    refused: int = 0

    async def take(self, request: web.Request) -> web.Response:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        content = await request.read()
        if self.status == 200:
            self.content += content
            for resource_spans in ExportTraceServiceRequest.FromString(content).resource_spans:
                resource = attributes(resource_spans.resource)
                for scope_spans in resource_spans.scope_spans:
                    self.spans.extend((resource, span) for span in scope_spans.spans)
        else:
            self.refused += 1
        return web.Response(status=self.status)

    async def wait_for(self, count: int) -> list[Any]:
        give_up_at = time.monotonic() + PATIENCE_S
        while len(self.spans) < count:
            assert time.monotonic() < give_up_at, f"{len(self.spans)} spans of {count} came"
            await asyncio.sleep(0.1)
        return [span for _, span in self.spans]

    async def wait_for_refusals(self, count: int) -> None:
        give_up_at = time.monotonic() + PATIENCE_S
        while self.refused < count:
            assert time.monotonic() < give_up_at, f"{self.refused} of {count} requests came"
            await asyncio.sleep(0.1)


def attributes(owner: Any) -> dict[str, Any]:
    """Attributes of a span or a resource as plain values."""
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in owner.attributes}


@asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    taking = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", taking.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        taking.endpoint = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield taking
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_an_exchange_arrives_as_spans_below_the_clients(
    own_place: Place, sandbox: Sandbox, start_proxy: StartProxy, curl: Curl
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SLOW, delay_s=0.3, times=1)
    async with collector() as taking:
        settings = configuration(own_place, credential={"lazy": True}) | {"tracing": {"endpoint": taking.endpoint}}
        proxy = await asyncio.to_thread(start_proxy, settings)
        parent = ["-H", f"traceparent: 00-{TRACE}-{PARENT}-01", "-H", "tracestate: vendor=7"]
        url = f"http://{own_place.api_authority}/orders?secret=in-a-query"
        answer = await asyncio.to_thread(curl, "--proxy", proxy.forward, *parent, url)
        assert answer.status == 200
        received = dict(json.loads(answer.content)["fields"])
        assert received["traceparent"] == f"00-{TRACE}-{PARENT}-01"

        spans = {span.kind: span for span in await taking.wait_for(3)}
        server, client, wait = spans[SERVER], spans[CLIENT], spans[INTERNAL]
        assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
        assert {span.trace_state for span in spans.values()} == {"vendor=7"}
        assert server.parent_span_id.hex() == PARENT
        assert {client.parent_span_id, wait.parent_span_id} == {server.span_id}
        assert server.start_time_unix_nano <= wait.start_time_unix_nano
        assert wait.end_time_unix_nano <= client.start_time_unix_nano
        assert client.end_time_unix_nano <= server.end_time_unix_nano
        assert wait.end_time_unix_nano - wait.start_time_unix_nano > 250_000_000
        assert attributes(server)["http.response.status_code"] == 200
        assert attributes(client)["url.full"] == f"https://{own_place.api_authority}/orders"
        assert taking.spans[0][0]["service.name"] == "apim-auth-proxy"
        assert b"in-a-query" not in taking.content
        assert own_place.subscription_key.encode() not in taking.content


@pytest.mark.asyncio
async def test_failures_refusals_and_traces_that_are_not_sampled(
    own_place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    async with collector() as taking:
        proxy = await asyncio.to_thread(
            start_proxy, configuration(own_place) | {"tracing": {"endpoint": taking.endpoint}}
        )

        async def ask(url: str, *arguments: str) -> int:
            return (await asyncio.to_thread(curl, "--proxy", proxy.forward, *arguments, url)).status

        unsampled = ["-H", f"traceparent: 00-{TRACE}-{PARENT}-00"]
        assert await ask(f"http://{own_place.api_authority}/orders", *unsampled) == 200
        assert await ask(f"http://{own_place.api_authority}/status/503", "-H", "traceparent: nonsense") == 503
        sampled = ["-H", f"traceparent: 00-{TRACE}-{PARENT}-01"]
        assert await ask("http://other.example/", *sampled) == 403

        failed, upstream, refused = find_spans(await taking.wait_for(3))
        assert attributes(failed)["error.type"] == "503"
        assert failed.parent_span_id == b""
        assert upstream.parent_span_id == failed.span_id
        assert attributes(refused)["error.type"] == "http_request_denied"
        assert refused.trace_id.hex() == TRACE
        assert len(taking.spans) == 3, "the client said that its trace is not sampled"


def find_spans(spans: list[Any]) -> tuple[Any, Any, Any]:
    """The failed exchange's two spans, and the refused one's."""
    server = next(
        span for span in spans if attributes(span).get("http.response.status_code") == 503 and span.kind == SERVER
    )
    client = next(span for span in spans if span.kind == CLIENT)
    refused = next(span for span in spans if attributes(span).get("http.response.status_code") == 403)
    return server, client, refused


def test_without_the_packages_the_configuration_says_what_to_install(place: Place, tmp_path: Path) -> None:
    """The packages are hidden by a finder that goes before the others; the rest is the real command."""
    settings = configuration(place) | {"tracing": {"endpoint": "http://127.0.0.1:4318"}}
    file = write_configuration(settings, tmp_path)
    hide = (
        "import sys\n"
        "class Hide:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'opentelemetry':\n"
        "            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Hide())\n"
        "from proxy.cli import main\n"
        f"sys.argv = [{COMMAND!r}, 'run', '--config', {str(file)!r}]\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", hide], capture_output=True, timeout=PATIENCE_S, env=environment(), cwd=ROOT, text=True
    )
    assert done.returncode == 2
    assert "tracing.endpoint" in done.stderr
    assert "pip install 'apim-auth-proxy[otel]'" in done.stderr
    assert "Traceback" not in done.stderr
