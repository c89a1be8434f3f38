"""The admin site: probes and metrics over plain HTTP. Does I/O on the event loop.

    /livez      200 for as long as the event loop runs
    /readyz     200 while requests can be served, else 503 and why not; never speaks of an upstream's health
    /startupz   200 once everything is open
    /metrics    Prometheus metrics
    /           the page to look at, and what it needs, where there is one (`proxy.operations.page`)

Invariants: it only reads; it answers GET and HEAD; who may read what is `proxy.operations.admission`'s to say.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from proxy.config.settings import LimitSettings
from proxy.errors import ProxyError
from proxy.http_server import Connection, HttpServer, Request, Response
from proxy.operations.admission import Admission, Denial
from proxy.operations.metrics import format_metrics

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from prometheus_client.registry import Collector

    from proxy.operations.page import Page

logger = logging.getLogger("proxy.operations")

Probe: TypeAlias = Callable[[], "tuple[bool, Sequence[str]]"]
"""Returns whether it is so, and what is wrong: why it is not so, or what fails although it is."""

Routes: TypeAlias = Mapping[str, Callable[[Request], Awaitable[Response]]]
"""What answers at each path."""

_METHODS: Final = ("GET", "HEAD")
_NOTHING_HERE: Final = (
    "This is the admin site of apim-auth-proxy: it has /livez, /readyz, /startupz and /metrics. To call an API, use an "
    "address of `listeners`."
)
_HEAD_S: Final = 30.0
_KEEP_ALIVE_S: Final = 30.0
_SHUTDOWN_S: Final = 1.0
# A few scrapers, probes and pages; each connection takes one of the proxy's file descriptors.
_CONNECTIONS: Final = 64
_SECURITY_FIELDS: Final = {
    "Server": "apim-auth-proxy",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}


class Extra(Protocol):
    """Something that is served beside the rest.

    Attributes:
        posts: the paths that take POST, and nothing else.
    """

    posts: Sequence[str]

    def routes(self) -> Routes:
        """Return what is served."""
        ...


class AdminSite(HttpServer):
    """One admin site, from `start` to `close`.

    Args:
        host: an IP address, or ``localhost``.
        port: 0 takes a free one.
        readiness: asked for ``/readyz``.
        collector: asked for ``/metrics``, on the event loop.
        started: asked for ``/startupz``; by default everything is open by the time this site is.
        token: opens everything to whoever sends it, wherever from.
        server_names: Host values accepted beside loopback names and the address itself.
        page: served beside the rest; started and closed with the site.
        extras: served too, and some of them by POST.
    """

    def __init__(
        self,
        host: str,
        port: int,
        readiness: Probe,
        collector: Collector,
        *,
        started: Probe = lambda: (True, ()),
        token: str | None = None,
        server_names: Collection[str] = (),
        page: Page | None = None,
        extras: Sequence[Extra] = (),
    ) -> None:
        super().__init__("The admin site", LimitSettings(), head_s=_HEAD_S, idle_s=_KEEP_ALIVE_S)
        # One address, so that a free port is one port: localhost may stand for two.
        self._host = "127.0.0.1" if host == "localhost" else host
        self._port = port
        self._readiness = readiness
        self._started = started
        self._collector = collector
        self.token = token
        self._admission = Admission(_is_loopback(self._host), frozenset(name.lower() for name in server_names), token)
        self._page = page
        self._posts = frozenset(path for extra in extras for path in extra.posts)
        self._routes: Routes = {
            "/livez": self._answer_live,
            "/readyz": self._answer_ready,
            "/startupz": self._answer_started,
            "/metrics": self._answer_metrics,
            **({} if page is None else page.routes()),
        }
        for extra in extras:
            self._routes |= extra.routes()
        self._server: asyncio.Server | None = None
        self._listening: socket.socket

    async def start(self, earlier: AdminSite | None = None) -> tuple[str, int]:
        """Listen, and return the address and the port it got.

        Args:
            earlier: a site that this one is to replace; where it has the same address, they share the socket meanwhile.

        Raises:
            OSError: the address cannot be bound.
        """
        if earlier is not None and (earlier._host, earlier._port) == (self._host, self._port):
            self._listening = earlier._listening.dup()
        else:
            family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
            self._listening = socket.create_server((self._host, self._port), family=family)
        self._server = await asyncio.get_running_loop().create_server(self.accept, sock=self._listening.dup())
        if self._page is not None:
            self._page.start()
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound

    async def close(self) -> None:
        """Stop listening and end connections within about a second."""
        server, self._server = self._server, None
        if server is not None:
            server.close()
            self._listening.close()
            if self._page is not None:
                await self._page.close()
            await self.end(_SHUTDOWN_S)

    def on_connected(self, connection: Connection) -> None:  # noqa: ARG002  # see `HttpServer`
        """Where there are many connections, the oldest gives way, so that probes always get through."""
        for oldest in list(self.connections)[:-_CONNECTIONS]:
            oldest.abort()

    def refuse(self, error: ProxyError) -> Response:
        """See `HttpServer`."""
        return _secure(_answer_problem(400, error.detail))

    async def respond(self, request: Request) -> Response:
        """See `HttpServer`."""
        try:
            return _secure(await self._respond(request))
        except ProxyError as error:
            return self.refuse(error)
        except Exception:
            logger.exception("The admin site failed to answer %s", request.path)
            return _secure(_answer_problem(500, "The admin site failed; the log says more."))

    async def _respond(self, request: Request) -> Response:
        path = request.path
        own = request.connection.transport.get_extra_info("sockname")
        host = request.authority or request.value("Host")
        denial = self._admission.decide(path, host, own[0] if own else "", request.value("Authorization"))
        if denial is not None:
            return _answer_denial(denial)
        allowed = ("POST",) if path in self._posts else _METHODS
        if request.method not in allowed:
            detail = "This takes POST only." if path in self._posts else "This site is read with GET or HEAD."
            return _answer_problem(405, detail, {"Allow": ", ".join(allowed)})
        answer = self._routes.get(path)
        return _answer_problem(404, _NOTHING_HERE) if answer is None else await answer(request)

    async def _answer_live(self, _: Request) -> Response:
        return _answer_probe("live", True, ())

    async def _answer_ready(self, _: Request) -> Response:
        return _answer_probe("ready", *self._readiness())

    async def _answer_started(self, _: Request) -> Response:
        return _answer_probe("started", *self._started())

    async def _answer_metrics(self, request: Request) -> Response:
        # Read here, where nobody writes meanwhile; written out elsewhere, since that reads files.
        metrics = list(self._collector.collect())
        content, media_type = await asyncio.to_thread(format_metrics, metrics, request.value("Accept") or "")
        return Response(200, {"Content-Type": media_type}, content)


def _answer_probe(what: str, holds: bool, reasons: Sequence[str]) -> Response:
    content: dict[str, str | list[str]] = {"status": what if holds else f"not {what}"}
    if reasons or not holds:
        content["reasons"] = list(reasons)
    return Response(200 if holds else 503, {"Content-Type": "application/json; charset=utf-8"}, _dump(content))


def _answer_denial(denial: Denial) -> Response:
    fields = {"WWW-Authenticate": denial.challenge} if denial.challenge else {}
    return _answer_problem(denial.status, denial.detail, fields)


def _answer_problem(status: int, detail: str, fields: dict[str, str] | None = None) -> Response:
    """Return problem details (RFC 9457); where status and title say it all, the type is about:blank (§4.2.1)."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(status, {"Content-Type": "application/problem+json", **(fields or {})}, _dump(content))


def _dump(content: object) -> bytes:
    """Indented, with a line feed at the end: a person reads it in a terminal."""
    return json.dumps(content, indent=2).encode() + b"\n"


def _secure(response: Response) -> Response:
    return replace(response, fields={**_SECURITY_FIELDS, **response.fields})


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
