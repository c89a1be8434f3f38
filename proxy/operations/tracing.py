"""Sends exchanges as OpenTelemetry spans over OTLP. Does I/O, in a thread of its own; needs the packages of the extra ``otel``.

Spans are made of the records that the access log's thread hands over, so the event loop pays nothing for them. A client's
``traceparent`` passes on unchanged and is the parent of our spans; whether a trace is sampled is said there, else by
``OTEL_TRACES_SAMPLER``.

Invariants: the queue is bounded, and what it cannot take is counted; nothing that goes wrong at the collector reaches the relay,
and it is told once, not once a batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from proxy import __version__
from proxy.operations.spans import Kind, describe_exchange

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan

    from proxy.relay.record import ExchangeRecord

logger = logging.getLogger("proxy.operations")

_NAME: Final = "apim-auth-proxy"
_PATH: Final = "/v1/traces"
_FLUSH_S: Final = 1.0
# Under 10 MB of records, and a few seconds of exchanges at rates where every one of them is traced.
_QUEUED: Final = 8_192
# Exchanges of one request to the collector; each makes up to three spans, and the specification's batch is 512.
_BATCH: Final = 170
# As in the access log: after about a millisecond with the interpreter lock held, a pause in which the loop can take it.
_BURST: Final = 8
_PAUSE_S: Final = 0.00005
# The specification's is 10 s; here a batch that is given up costs less than a queue that fills meanwhile.
_TIMEOUT_S: Final = 5.0
_KINDS: Final = {Kind.SERVER: SpanKind.SERVER, Kind.CLIENT: SpanKind.CLIENT, Kind.INTERNAL: SpanKind.INTERNAL}


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one request to the collector holds, and how many exchanges it is made of."""

    spans: list[ReadableSpan]
    exchanges: int


class _Ended(SpanProcessor):
    """Keeps the sampled spans that have ended."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is not None and span.context.trace_flags.sampled:
            self.spans.append(span)


class Tracing:
    """Traces of one process; its thread runs from construction to `close`.

    Args:
        endpoint: the collector's URL; what else an exporter can be told, ``OTEL_*`` variables say.

    Attributes:
        exported: spans the collector has taken.
        lost: spans it has not taken.
        dropped: exchanges that found the queue full.
    """

    def __init__(self, endpoint: str) -> None:
        self.exported = self.lost = self.dropped = 0
        # Its messages hold texts of libraries, once a batch; ours says the same once.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
        self._exporter = OTLPSpanExporter(endpoint=format_endpoint(endpoint), timeout=_TIMEOUT_S)
        self._ended = _Ended()
        provider = TracerProvider(resource=_describe_service(), shutdown_on_exit=False)
        provider.add_span_processor(self._ended)
        self._tracer = provider.get_tracer(_NAME, __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._queue: deque[ExchangeRecord] = deque()
        self._is_failing = False
        self._stopping = threading.Event()
        # A daemon: a collector that does not answer must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="tracing", daemon=True)
        self._thread.start()

    def observe(self, records: Sequence[ExchangeRecord]) -> None:
        """Take note of finished exchanges; for the access log's thread."""
        room = _QUEUED - len(self._queue)
        self._queue.extend(records[:room])
        self.dropped += max(len(records) - room, 0)

    def close(self, *, patience_s: float = 2.0) -> None:
        """Send what is queued and end the thread.

        Args:
            patience_s: after this long, a collector that does not answer is left alone.
        """
        self._stopping.set()
        self._thread.join(patience_s)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # theirs

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopping.wait(_FLUSH_S)
            while self._queue:
                self._export(self._make_batch())

    def _make_batch(self) -> _Batch:
        count = min(len(self._queue), _BATCH)
        for number in range(count):
            self._trace(self._queue.popleft())
            if number % _BURST == 0:
                time.sleep(_PAUSE_S)
        made, self._ended.spans = self._ended.spans, []
        return _Batch(made, count)

    def _trace(self, record: ExchangeRecord) -> None:
        first, *others = describe_exchange(record)
        span = self._tracer.start_span(
            first.name, self._parent(record), _KINDS[first.kind], first.attributes, start_time=first.start_ns
        )
        if span.is_recording():
            context = set_span_in_context(span)
            for other in others:
                child = self._tracer.start_span(
                    other.name, context, _KINDS[other.kind], other.attributes, start_time=other.start_ns
                )
                if other.failed:
                    child.set_status(Status(StatusCode.ERROR))
                child.end(other.end_ns)
        if first.failed:
            span.set_status(Status(StatusCode.ERROR))
        span.end(first.end_ns)

    def _parent(self, record: ExchangeRecord) -> Context | None:
        trace = record.trace
        if trace is None or not trace.traceparent:
            return None
        fields = {"traceparent": trace.traceparent.decode("latin-1"), "tracestate": trace.tracestate.decode("latin-1")}
        return self._propagator.extract(fields)

    def _export(self, batch: _Batch) -> None:
        if not batch.spans:
            return
        try:
            taken = self._exporter.export(batch.spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 -- whatever a library raises in its own thread must not end tracing for good
            taken = False
        if taken:
            self.exported += len(batch.spans)
        else:
            self.lost += len(batch.spans)
        if taken is not self._is_failing:
            return
        self._is_failing = not taken
        if taken:
            logger.warning("The OTLP collector takes spans again; %d were lost so far.", self.lost)
        else:
            logger.error(
                "The OTLP collector does not take spans: %d exchanges have none. Requests go on. Check tracing.endpoint, and "
                "that the collector speaks OTLP over HTTP (port 4318, not gRPC's 4317).",
                batch.exchanges,
            )


def format_endpoint(endpoint: str) -> str:
    """Return the URL that spans are sent to: the collector's, with the path that OTLP gives them."""
    return endpoint if endpoint.endswith(_PATH) else endpoint.rstrip("/") + _PATH


def _describe_service() -> Resource:
    """Return what ``OTEL_SERVICE_NAME`` and ``OTEL_RESOURCE_ATTRIBUTES`` say, and our name where they give none."""
    resource = Resource.create()
    ours = {SERVICE_VERSION: __version__}
    if str(resource.attributes.get(SERVICE_NAME, "unknown_service")).startswith("unknown_service"):
        ours[SERVICE_NAME] = _NAME
    return resource.merge(Resource(ours))
