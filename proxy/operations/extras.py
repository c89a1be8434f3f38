"""Two small things on the admin site: a proxy auto-config file, and a way to end the proxy. Answers requests on the event loop."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from proxy.http_server import Request, Response
from proxy.policy.authority import HTTPS_PORT, parse_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from proxy.operations.admin import Routes


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

    def routes(self) -> Routes:
        """Return what is served."""
        return {"/proxy.pac": self._answer}

    async def _answer(self, request: Request) -> Response:
        addresses = self._addresses()
        if not addresses:
            return _answer_text(404, "No forward listener can be named in a proxy auto-config file.\n")
        host, port = addresses[0]
        named = request.authority or request.value("Host")
        if named and host in ("0.0.0.0", "::"):  # noqa: S104  # who asks has reached this machine by a name, which is good for the proxy too
            host = parse_authority(named.encode("utf-8", "surrogateescape"), HTTPS_PORT).host
        text = format_auto_config(self._hosts(), f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
        return _answer_text(200, text, "application/x-ns-proxy-autoconfig")


class Quit:
    """``POST /quit``: ends the proxy as SIGTERM does, for the job whose sidecar it is.

    Args:
        on_quit: begins the end.
    """

    posts: Sequence[str] = ("/quit",)

    def __init__(self, on_quit: Callable[[], None]) -> None:
        self._on_quit = on_quit

    def routes(self) -> Routes:
        """Return what is served."""
        return {"/quit": self._answer}

    async def _answer(self, request: Request) -> Response:
        # Browsers send one of them with every POST of a page, also of another origin, which must not end the proxy.
        if request.values("Origin") or request.values("Sec-Fetch-Site"):
            return _answer_text(403, "This is not for browsers.\n")
        asyncio.get_running_loop().call_soon(self._on_quit)
        return _answer_text(200, "The proxy drains, then ends.\n")


def _answer_text(status: int, text: str, media_type: str = "text/plain; charset=utf-8") -> Response:
    return Response(status, {"Content-Type": media_type}, text.encode())


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
