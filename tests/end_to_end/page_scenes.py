"""What the admin page looks at, made by hand: healthy, in an outage, with fifty routes; and the page, open in a browser."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from proxy.config.settings import AccessLogSettings
from proxy.identity.credential import CredentialStatistics, Target
from proxy.identity.lifetime import refresh_after_s
from proxy.identity.source import SourceStatistics
from proxy.identity.sources import Failing, IdentityStatistics
from proxy.operations.access_log import AccessLog
from proxy.operations.admin import AdminSite
from proxy.operations.metrics import CertificateExpiry, MetricsCollector
from proxy.operations.overview import ClientSummary, RouteSummary
from proxy.operations.page import Page, PageSources
from proxy.operations.snapshot import HistogramSnapshot, WorkerSnapshot
from proxy.relay.counters import Histogram
from proxy.relay.record import ExchangeRecord, TraceNote
from tests.end_to_end.chromium import Tab, browser_tab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

HOST: Final = "contoso.azure-api.net"
SCOPE: Final = "api://orders/.default"
DAY_S: Final = 86_400
TIMEOUT: Final = "The identity platform did not answer within 10 seconds."
THUMBPRINT: Final = "certificate 0A1B2C3D4E5F60718293A4B5C6D7E8F90A1B2C3D"


@dataclass
class Scene:
    """What the page looks at; the tests move it.

    Attributes:
        failing: the code that token requests fail with; empty while they succeed.
        obtained_at: when the token was obtained; None: there is none.
        listener_days: what is left of the life of a listener's certificate.
        play: what happens once the page has begun to count.
    """

    log: AccessLog = field(default_factory=lambda: AccessLog(AccessLogSettings(enabled=False)))
    statuses: dict[str, dict[int, int]] = field(default_factory=dict)
    durations: Histogram = field(default_factory=Histogram)
    obtained_at: float | None = field(default_factory=time.time)
    life_s: float = 20.0
    ready: bool = True
    reasons: list[str] = field(default_factory=list)
    failing: str = ""
    routes: list[RouteSummary] = field(default_factory=lambda: [RouteSummary(HOST, (HOST,), "orders-client", SCOPE)])
    clients: list[ClientSummary] = field(default_factory=list)
    listener_days: float = 80.5
    play: Callable[[Scene], None] = lambda _: None

    def exchange(
        self,
        target: bytes,
        status: int = 200,
        outcome: str = "ok",
        code: str = "",
        *,
        route: str = HOST,
        client_name: str = "",
        trace: TraceNote | None = None,
        duration_s: float = 0.012,
        versions: tuple[str, str] = ("1.1", "1.1"),
    ) -> None:
        """Has an exchange end; without a token, none was sent to an upstream."""
        of_route = self.statuses.setdefault(route or "-", {})
        of_route[status] = of_route.get(status, 0) + 1
        self.durations.observe(duration_s)
        has_token = outcome == "ok" and bool(route)
        self.log.observe(
            ExchangeRecord(
                time.time(), "127.0.0.1", "forward", b"GET", f"{route or 'unknown.example'}:443", target, status, 0, 9,
                duration_s, duration_s * 0.8 if has_token else None, route, 1.0 if has_token else None, has_token, outcome,
                code, client_name, "orders-client" if has_token else "", THUMBPRINT if has_token else "", trace,
                http_version=versions[0], upstream_http_version=versions[1] if has_token else "",
            )
        )  # fmt: skip

    def readiness(self) -> tuple[bool, list[str]]:
        return self.ready, self.reasons

    def workers(self) -> list[WorkerSnapshot]:
        duration = HistogramSnapshot(tuple(self.durations.buckets), self.durations.total)
        exchanges = {route: dict(statuses) for route, statuses in self.statuses.items()}
        return [WorkerSnapshot(exchanges=exchanges, duration=duration, open_client_connections=3)]

    def identity(self) -> IdentityStatistics:
        targets = sorted({(route.credential, route.target) for route in self.routes})
        ends = datetime.now(UTC) + timedelta(days=300, hours=1)
        starts = datetime.now(UTC) - timedelta(days=65)
        credential = CredentialStatistics(
            {("ok", ""): 1}, 0.0, 0.0, THUMBPRINT, {THUMBPRINT: ends}, {THUMBPRINT: starts}
        )
        sources = tuple(self._source(name, target) for name, target in targets)
        failing = tuple(
            Failing(one.credential, Target(scope=one.target), one.without_s, TIMEOUT, one.failure_code)
            for one in sources
            if one.without_s is not None
        )
        return IdentityStatistics({name: credential for name, _ in targets}, sources, failing)

    def _source(self, credential: str, target: str) -> SourceStatistics:
        now = time.time()
        age_s = None if self.obtained_at is None else now - self.obtained_at
        left_s = None if age_s is None else self.life_s - age_s
        usable = left_s is not None and left_s > 0
        return SourceStatistics(
            credential, target, self.obtained_at is not None, usable, age_s, left_s, 1, 0, 7 if self.failing else 0, self.failing,
            refresh_in_s=None if age_s is None else refresh_after_s(self.life_s, None, 0.5) - age_s,
            failure_detail=TIMEOUT if self.failing else "",
            without_s=200.0 if self.failing and not usable else None,
            retry_in_s=12.0 if self.failing else 0.0,
        )  # fmt: skip

    def certificates(self) -> list[CertificateExpiry]:
        now = time.time()
        return [
            CertificateExpiry("interception_ca", "", "", now + DAY_S * 400),
            CertificateExpiry(
                "listener",
                "10.0.0.1:8443",
                "",
                now + DAY_S * self.listener_days,
                now - DAY_S * (90 - self.listener_days),
            ),
        ]

    def sources(self) -> PageSources:
        """What the page asks."""
        return PageSources(
            readiness=self.readiness,
            workers=self.workers,
            identity=self.identity,
            certificates=self.certificates,
            routes=lambda: self.routes,
            tail=self.log.tail,
            errors=self.log.errors,
            usage=self.log.usage,
            clients=lambda: self.clients,
        )

    def site(self, port: int = 0) -> AdminSite:
        """An admin site with the page on it."""
        sources = self.sources()
        collector = MetricsCollector(self.workers, self.identity)
        return AdminSite("127.0.0.1", port, sources.readiness, collector, page=Page(sources))


def healthy() -> Scene:
    """A route that works, with two clients that are configured."""

    def play(scene: Scene) -> None:
        for number in range(30):
            scene.exchange(b"/orders/%d" % number, client_name="billing", duration_s=0.004 + number * 0.001)
        trace = TraceNote(b"", b"", (0.005, 0.08), 0.1, 1, "orders-client", (0.001, 0.004))
        scene.exchange(b"/traced", trace=trace, duration_s=0.5)

    clients = [
        ClientSummary("billing", ("10.1.0.0/16", "password"), (HOST,)),
        ClientSummary("nightly", ("user batch",), ()),
    ]
    return Scene(life_s=3_600.0, obtained_at=time.time() - 900, clients=clients, play=play)


def outage() -> Scene:
    """No token since three minutes ago, an API that fails, and clients that are refused."""

    def play(scene: Scene) -> None:
        for _ in range(7):
            scene.exchange(b"/orders/broken", 500)
            scene.exchange(b"/orders/refused", 401)
            scene.exchange(b"/orders", 200)
        for _ in range(9):
            scene.exchange(b"/orders", 503, "proxy_internal_response", "timeout")
        scene.exchange(b"/", 403, "http_request_denied", "host_refused", route="")
        scene.exchange(b"/orders", 504, "http_response_timeout")

    scene = Scene(obtained_at=None, failing="timeout", ready=False, listener_days=12.1, play=play)
    scene.reasons = [f"no valid access token for {HOST} since 12:00: {TIMEOUT}"]
    return scene


def fifty_routes() -> Scene:
    """Fifty routes with a scope each, some of which fail."""

    def play(scene: Scene) -> None:
        for number, route in enumerate(scene.routes):
            for _ in range(1 + number % 2):
                scene.exchange(b"/things", route=route.name, duration_s=0.003 * (1 + number % 9))
            if number % 6 == 0:
                scene.exchange(b"/things", 429, route=route.name)
                scene.exchange(b"/things", 502, "destination_unavailable", "name_not_resolved", route=route.name)
            if number % 11 == 0:
                scene.exchange(b"/things", 500, route=route.name)

    routes = [
        RouteSummary(host, (host, f"*.{host}"), f"team-{number % 7}-client", f"api://service-{number:02d}/.default")
        for number in range(50)
        for host in (f"service-{number:02d}.internal.contoso.azure-api.net",)
    ]
    return Scene(life_s=3_600.0, obtained_at=time.time() - 900, routes=routes, play=play)


SCENES: Final[dict[str, Callable[[], Scene]]] = {"healthy": healthy, "outage": outage, "fifty": fifty_routes}


@asynccontextmanager
async def served(scene: Scene) -> AsyncIterator[str]:
    """The URL of the scene's page."""
    site = scene.site()
    host, port = await site.start()
    try:
        await asyncio.sleep(0)  # the page takes its first look, which what is to come is compared with
        scene.play(scene)
        yield f"http://{host}:{port}/"
    finally:
        await site.close()
        await asyncio.to_thread(scene.log.close)


@asynccontextmanager
async def watched(scene: Scene, *, width: int = 1280, height: int = 900, scheme: str = "light") -> AsyncIterator[Tab]:
    """The page, open in a tab, connected; at the end it must have had nothing to complain about."""
    async with served(scene) as url, browser_tab() as tab:
        await tab.open(url, width=width, height=height, scheme=scheme)
        await tab.until("document.querySelector('#ready')?.textContent.includes('ready')")
        yield tab
        assert tab.complaints == []
        assert {one.partition(url)[0] for one in tab.requested} == {""}
