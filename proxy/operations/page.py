"""The page to look at: static files, its state as JSON, and a live tail as server-sent events. Does I/O on the event loop.

    /             the page; /page.css, /page.js with the modules beside it, and /icon.svg are its parts
    /api/state    everything it shows, once
    /api/events   the same every two seconds, and exchanges as they end (text/event-stream)

Invariants: nothing is loaded from elsewhere and no script stands in the page; the number of streams is bounded, and a reader that
is slow holds up its own stream only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Final

from proxy.errors import Overloaded
from proxy.http_server import Request, Response
from proxy.operations.history import SAMPLE_S, History
from proxy.operations.log_lines import JsonFormat
from proxy.operations.metrics import credential_certificates
from proxy.operations.overview import Overview, describe_overview
from proxy.operations.own_errors import describe_failure
from proxy.operations.route_window import RouteWindow
from proxy.operations.snapshot import sum_snapshots
from proxy.operations.token_history import TokenHistory
from proxy.operations.usage import Usage
from proxy.tasks import keep_going

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

    from proxy.identity.sources import IdentityStatistics
    from proxy.operations.admin import Routes
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.overview import ClientSummary, RouteSummary
    from proxy.operations.own_errors import ErrorCount, Json
    from proxy.operations.snapshot import WorkerSnapshot
    from proxy.relay.record import ExchangeRecord, TraceNote

_TAIL_S: Final = 0.5
_STREAMS: Final = 16
# A page that has just been opened begins with this many; the rest of what is remembered would only scroll by.
_FIRST_EXCHANGES: Final = 50
# The first one is what the page begins with; it imports the others.
_SCRIPTS: Final = (
    "page.js",
    "charts.js",
    "dom.js",
    "exchanges.js",
    "people.js",
    "problems.js",
    "routes.js",
    "tokens.js",
)
_MEDIA_TYPES: Final = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    **dict.fromkeys(_SCRIPTS, "text/javascript; charset=utf-8"),
    "icon.svg": "image/svg+xml",
}
_PAGE_FIELDS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
}


@dataclass(frozen=True, slots=True)
class PageSources:
    """Where the page's figures come from; all are asked on the event loop and must not wait.

    Attributes:
        readiness: as for the admin site.
        workers: a snapshot of each relay process.
        identity: the token sources' statistics.
        certificates: those beside the credentials' own.
        routes: those of the configuration.
        tail: as `AccessLog.tail`.
        errors: as `AccessLog.errors`.
        usage: as `AccessLog.usage`.
        clients: those of the configuration.
    """

    readiness: Callable[[], tuple[bool, Sequence[str]]]
    workers: Callable[[], Sequence[WorkerSnapshot]]
    identity: Callable[[], IdentityStatistics]
    certificates: Callable[[], Iterable[CertificateExpiry]]
    routes: Callable[[], Sequence[RouteSummary]]
    tail: Callable[[int], tuple[int, list[ExchangeRecord]]]
    errors: Callable[[], Sequence[ErrorCount]]
    usage: Callable[[], Usage] = Usage
    clients: Callable[[], Sequence[ClientSummary]] = tuple


class Page:
    """The page of one admin site, which starts and closes it."""

    def __init__(self, sources: PageSources) -> None:
        self._sources = sources
        self._history = History()
        self._window = RouteWindow()
        self._lifelines = TokenHistory()
        self._started_at = time.time()
        self._format = JsonFormat()
        self._streams = 0
        self._sampler: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        directory = resources.files("proxy.operations") / "static"
        self._files = {name: (directory / name).read_bytes() for name in _MEDIA_TYPES}

    def routes(self) -> Routes:
        """Return what has to be served."""
        return {
            **{f"/{name}": self._file_handler(name) for name in _MEDIA_TYPES if name != "index.html"},
            "/": self._file_handler("index.html"),
            "/api/state": self._answer_state,
            "/api/events": self._answer_events,
        }

    def start(self) -> None:
        """Begins to sample; needs the running loop."""
        self._sampler = asyncio.create_task(keep_going(self._sample, "sampling for the page"), name="page samples")

    async def close(self) -> None:
        """End sampling and all streams."""
        self._closing.set()
        if self._sampler is not None:
            self._sampler.cancel()
            await asyncio.wait({self._sampler})

    async def _sample(self) -> None:
        while True:
            total = sum_snapshots(self._sources.workers())
            now, now_mono = time.time(), time.monotonic()
            self._history.add(total, now, now_mono)
            self._window.add(total, self._sources.usage(), now_mono)
            self._lifelines.add(self._sources.identity().sources, now)
            await asyncio.sleep(SAMPLE_S)

    def _file_handler(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        response = Response(200, {"Content-Type": _MEDIA_TYPES[name], **_PAGE_FIELDS}, self._files[name])

        async def answer(_: Request) -> Response:
            return response

        return answer

    async def _answer_state(self, _: Request) -> Response:
        return _answer_json(200, self._format_state())

    async def _answer_events(self, _: Request) -> Response:
        if self._streams >= _STREAMS:
            return _answer_json(503, json.dumps({"title": Overloaded.title, "status": 503}))
        return Response(200, {"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"}, stream=self._stream())

    async def _stream(self) -> AsyncGenerator[bytes, None]:
        self._streams += 1
        position = 0
        state_due = 0.0
        try:
            while not self._closing.is_set():
                position, records = self._sources.tail(position)
                text = ""
                if records:
                    text += self._format_exchanges(records[-_FIRST_EXCHANGES:])
                if time.monotonic() >= state_due:
                    state_due = time.monotonic() + SAMPLE_S
                    text += f"event: state\ndata: {self._format_state()}\n\n"
                # A comment, where there is nothing to say, finds out whether anyone still listens.
                yield text.encode() or b":\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), _TAIL_S)
        finally:
            self._streams -= 1

    def _format_exchanges(self, records: list[ExchangeRecord]) -> str:
        lines = self._format.format(records).splitlines()
        for index, record in enumerate(records):
            more = _describe_steps(record.trace) | describe_failure(record)
            if more:
                lines[index] = f"{lines[index][:-1]},{json.dumps(more, separators=(',', ':'))[1:]}"
        return f"event: exchanges\ndata: [{','.join(lines)}]\n\n"

    def _format_state(self) -> str:
        sources = self._sources
        ready, missing = sources.readiness()
        workers = sources.workers()
        identity = sources.identity()
        overview = Overview(
            at=time.time(),
            started_at=self._started_at,
            ready=ready,
            missing=missing,
            workers=len(workers),
            total=sum_snapshots(workers),
            identity=identity,
            certificates=[*credential_certificates(identity), *sources.certificates()],
            routes=sources.routes(),
            samples=self._history.samples,
            errors=sources.errors(),
            clients=sources.clients(),
            client_uses=sources.usage().clients,
            activity=self._window.activity(),
            lifelines=self._lifelines,
        )
        return json.dumps(describe_overview(overview), separators=(",", ":"))


def _answer_json(status: int, text: str) -> Response:
    return Response(status, {"Content-Type": "application/json; charset=utf-8"}, text.encode())


def _describe_steps(trace: TraceNote | None) -> dict[str, Json]:
    """Return when the steps of an exchange were, where they were noted: in milliseconds from the request's head."""
    if trace is None:
        return {}
    return {
        "steps": {
            "name": _describe_wait(trace.name_wait),
            "token": _describe_wait(trace.token_wait),
            "sent_ms": None if trace.sent_after_s is None else round(trace.sent_after_s * 1000, 2),
            "sends": trace.sends,
        }
    }


def _describe_wait(wait: tuple[float, float] | None) -> Json:
    """Return when it began, and how long it was."""
    return None if wait is None else [round(wait[0] * 1000, 2), round(wait[1] * 1000, 2)]
