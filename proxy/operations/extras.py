"""Two small things on the admin site: a proxy auto-config file, and a way to end the proxy. Answers requests on the event loop."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


class AutoConfig:
    """``GET /proxy.pac``: sends browsers and others through the proxy for routed hosts, and for no others.

    Args:
        hosts: returns the routed hosts, without ports; ``*.`` stands for a wildcard.
        addresses: returns host and port of the forward listeners.
    """

    posts: Sequence[str] = ()

    def __init__(self, hosts: Callable[[], Iterable[str]], addresses: Callable[[], Sequence[tuple[str, int]]]) -> None:
        self._hosts = hosts
        self._addresses = addresses

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.get("/proxy.pac", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        addresses = self._addresses()
        if not addresses:
            return web.Response(status=404, text="No forward listener can be named in a proxy auto-config file.\n")
        host, port = addresses[0]
        if host in ("0.0.0.0", "::"):  # noqa: S104  # who asks has reached this machine by a name, which is good for the proxy too
            host = request.url.host or host
        text = format_auto_config(self._hosts(), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return web.Response(text=text, headers={"Content-Type": "application/x-ns-proxy-autoconfig"})


class Quit:
    """``POST /quit``: ends the proxy as SIGTERM does, for the job whose sidecar it is.

    Args:
        on_quit: begins the end.
    """

    posts: Sequence[str] = ("/quit",)

    def __init__(self, on_quit: Callable[[], None]) -> None:
        self._on_quit = on_quit

    def routes(self) -> list[web.RouteDef]:
        """Return what is served."""
        return [web.post("/quit", self._answer)]

    async def _answer(self, request: web.Request) -> web.Response:
        # Browsers send one of them with every POST of a page, also of another origin, which must not end the proxy.
        if "Origin" in request.headers or "Sec-Fetch-Site" in request.headers:
            return web.Response(status=403, text="This is not for browsers.\n")
        asyncio.get_running_loop().call_soon(self._on_quit)
        return web.Response(text="The proxy drains, then ends.\n")


def format_auto_config(hosts: Iterable[str], proxy: str) -> str:
    """Return a proxy auto-config file; every host it names is quoted as JSON, which is JavaScript too."""
    conditions = [
        f"dnsDomainIs(host, {json.dumps(host.removeprefix('*'))})"
        if host.startswith("*.")
        else f"host === {json.dumps(host)}"
        for host in hosts
    ]
    return (
        "function FindProxyForURL(url, host) {\n"
        "  host = host.toLowerCase();\n"
        f"  if ({' || '.join(conditions) or 'false'}) return {json.dumps(f'PROXY {proxy}')};\n"
        '  return "DIRECT";\n'
        "}\n"
    )
