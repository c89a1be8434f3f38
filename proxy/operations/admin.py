"""The admin site: probes and metrics over plain HTTP. Does I/O on the event loop, and imports aiohttp: import it late.

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
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from aiohttp import web

from proxy.operations.admission import Admission, Denial
from proxy.operations.metrics import format_metrics

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping, Sequence

    from aiohttp.typedefs import Middleware
    from prometheus_client.registry import Collector

    from proxy.operations.page import Page

logger = logging.getLogger("proxy.operations")

Probe: TypeAlias = Callable[[], "tuple[bool, Sequence[str]]"]
"""Returns whether it is so, and what is wrong: why it is not so, or what fails although it is."""

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_METHODS: Final = ("GET", "HEAD")
_NOTHING_HERE: Final = (
    "This is the admin site of apim-auth-proxy: it has /livez, /readyz, /startupz and /metrics. To call an API, use an "
    "address of `listeners`."
)
_KEEP_ALIVE_S: Final = 30.0
_SHUTDOWN_S: Final = 1.0
# A few scrapers, probes and pages; each connection takes one of the proxy's file descriptors.
_CONNECTIONS: Final = 64
_SECURITY_FIELDS: Final = {
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

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        ...


class AdminSite:
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
        # One address, so that a free port is one port: localhost may stand for two.
        self._host = "127.0.0.1" if host == "localhost" else host
        self._port = port
        self._readiness = readiness
        self._started = started
        self._collector = collector
        self._token = token
        self._server_names = frozenset(name.lower() for name in server_names)
        self._page = page
        self._extras = extras
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        """Listen, and return the address and the port it got.

        Raises:
            OSError: the address cannot be bound.
        """
        admission = Admission(_is_loopback(self._host), self._server_names, self._token)
        posts = frozenset(path for extra in self._extras for path in extra.posts)
        application = web.Application(middlewares=[_guard(admission, posts)])
        application.on_response_prepare.append(_add_fields)
        application.add_routes(
            [
                web.get("/livez", self._answer_live),
                web.get("/readyz", self._answer_ready),
                web.get("/startupz", self._answer_started),
                web.get("/metrics", self._answer_metrics),
            ]
        )
        if self._page is not None:
            application.add_routes(self._page.routes())
        for extra in self._extras:
            application.add_routes(extra.routes())
        runner = web.AppRunner(
            application,
            handle_signals=False,
            access_log=None,
            logger=_OneLine(logger),
            keepalive_timeout=_KEEP_ALIVE_S,
            shutdown_timeout=_SHUTDOWN_S,
        )
        await runner.setup()
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: _accept(runner), self._host, self._port
            )
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        if self._page is not None:
            self._page.start()
        bound: tuple[str, int] = self._server.sockets[0].getsockname()[:2]
        return bound

    async def close(self) -> None:
        """Stop listening and end connections within about a second."""
        runner, self._runner = self._runner, None
        if runner is not None:
            if self._server is not None:
                self._server.close()
            if self._page is not None:
                await self._page.close()
            await runner.cleanup()

    async def _answer_live(self, _: web.Request) -> web.Response:
        return _answer_probe("live", True, ())

    async def _answer_ready(self, _: web.Request) -> web.Response:
        return _answer_probe("ready", *self._readiness())

    async def _answer_started(self, _: web.Request) -> web.Response:
        return _answer_probe("started", *self._started())

    async def _answer_metrics(self, request: web.Request) -> web.Response:
        # Read here, where nobody writes meanwhile; written out elsewhere, since that reads files.
        metrics = list(self._collector.collect())
        content, media_type = await asyncio.to_thread(format_metrics, metrics, request.headers.get("Accept", ""))
        return web.Response(body=content, headers={"Content-Type": media_type})


def _accept(runner: web.AppRunner) -> asyncio.Protocol:
    """Return the protocol of a new connection. Where there are many, the oldest gives way, so that probes always get through."""
    server = runner.server
    assert server is not None  # noqa: S101  # there is one from `setup` to `cleanup`
    transports = [one.transport for one in server.connections if one.transport is not None]
    open_ones = [transport for transport in transports if not transport.is_closing()]
    for transport in open_ones[: len(open_ones) + 1 - _CONNECTIONS]:
        transport.abort()
    return server()


class _OneLine(logging.LoggerAdapter[logging.Logger]):
    """Writes what aiohttp says of a request as one line: a traceback does not help with a malformed one."""

    def process(self, msg: str, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        """See `logging.LoggerAdapter`."""
        error = kwargs.pop("exc_info", None)
        return f"The admin site: {msg}: {type(error).__name__}" if isinstance(error, BaseException) else msg, kwargs


def _answer_probe(what: str, holds: bool, reasons: Sequence[str]) -> web.Response:
    content: dict[str, str | list[str]] = {"status": what if holds else f"not {what}"}
    if reasons or not holds:
        content["reasons"] = list(reasons)
    return web.json_response(content, status=200 if holds else 503, dumps=_dump)


def _guard(admission: Admission, posts: Collection[str]) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: _Handler) -> web.StreamResponse:
        own = request.transport.get_extra_info("sockname") if request.transport is not None else None
        denial = admission.decide(
            request.path, request.headers.get("Host"), own[0] if own else "", request.headers.get("Authorization")
        )
        if denial is not None:
            return _answer_denial(denial)
        if request.method not in (_METHODS if request.path not in posts else ("POST",)):
            return _answer_problem(405, "This site is read with GET or HEAD.", {"Allow": ", ".join(_METHODS)})
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return _answer_problem(404, _NOTHING_HERE)
        except web.HTTPException:
            raise
        except Exception:
            logger.exception("The admin site failed to answer %s", request.path)
            return _answer_problem(500, "The admin site failed; the log says more.")

    return guard


def _answer_denial(denial: Denial) -> web.Response:
    fields = {"WWW-Authenticate": denial.challenge} if denial.challenge else {}
    return _answer_problem(denial.status, denial.detail, fields)


def _answer_problem(status: int, detail: str, fields: dict[str, str] | None = None) -> web.Response:
    """Return problem details (RFC 9457); where status and title say it all, the type is about:blank (§4.2.1)."""
    title = "Misdirected Request" if status == 421 else HTTPStatus(status).phrase
    content = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return web.Response(
        status=status,
        reason=title,
        body=_dump(content).encode(),
        headers={"Content-Type": "application/problem+json", **(fields or {})},
    )


def _dump(content: object) -> str:
    """Indented, with a line feed at the end: a person reads it in a terminal."""
    return json.dumps(content, indent=2) + "\n"


async def _add_fields(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = "apim-auth-proxy"
    for name, value in _SECURITY_FIELDS.items():
        response.headers.setdefault(name, value)


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host).is_loopback
