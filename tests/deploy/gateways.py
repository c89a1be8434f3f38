"""Gateways as deploy/gateways configures them, between an API and an identity service that does what a test wants. Runs programs.

The recipes are used as they are but for addresses, and for the seconds after which they give up.
"""

from __future__ import annotations

import asyncio
import http.client
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from aiohttp import WSMsgType, web

from tests.deploy.programs import DEPLOY
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    import trustme

HOST: Final = "contoso.azure-api.net"
RECIPES: Final = DEPLOY / "gateways"
PATIENCE_S: Final = 60.0
# In place of the recipes' 21 s.
GIVES_UP_S: Final = 1
_BIN: Final = Path(sys.executable).parent


def find(program: str) -> str:
    """Return the path of a program that pip or apt has installed; daemons live where PATH may not lead."""
    found = shutil.which(program, path=f"{_BIN}:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
    assert found is not None, (
        f"{program} is missing: see the group `deploy` in pyproject.toml and .ci/install-test-tools"
    )
    return found


class Served:
    """A server of aiohttp in a thread of its own.

    Args:
        handler: answers every request.
        context: for TLS.
        port: where; default: a free one.
    """

    def __init__(
        self,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
        context: ssl.SSLContext | None = None,
        port: int | None = None,
    ) -> None:
        self.port = free_port() if port is None else port
        self._handler = handler
        self._context = context
        self._loop = asyncio.new_event_loop()
        self._runner: web.AppRunner | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.open()

    def open(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(PATIENCE_S)

    def close(self) -> None:
        """Stop listening, and cut every connection."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(PATIENCE_S)

    def end(self) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    async def _open(self) -> None:
        application = web.Application(client_max_size=1 << 26)
        application.router.add_route("*", "/{path:.*}", self._handler)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, access_log=None, max_field_size=1 << 16)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context, reuse_address=True)
        await site.start()

    async def _close(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


class Api:
    """The API: says what it got.

    Attributes:
        seen: the values of Authorization of each request, in order.
    """

    def __init__(self, authority: trustme.CA) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(HOST).configure_cert(context)
        self.seen: list[list[str]] = []
        self.served = Served(self._answer, context)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request.headers.getall("Authorization", []))
        if request.path == "/socket":
            channel = web.WebSocketResponse()
            await channel.prepare(request)
            async for message in channel:
                if message.type == WSMsgType.TEXT:
                    await channel.send_str(f"echo {message.data}")
            return channel
        content = await request.read()
        return web.json_response({"host": request.host, "length": len(content), "target": request.path_qs})


@dataclass
class Identity:
    """The identity service, which does as it is told.

    Attributes:
        mode: what it does: ``token``, ``503``, ``hang``, ``bare`` (200 without a token), ``403``.
        token: what it gives.
        cache_control: what it says of that.
        asked: the fields of each request, in order.
    """

    mode: str = "token"
    token: str = "token-1"
    cache_control: str = "max-age=0, stale-if-error=0"
    asked: list[Mapping[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.served = Served(self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.asked.append({name.lower(): value for name, value in request.headers.items()})
        if self.mode == "hang":
            await asyncio.sleep(PATIENCE_S)
        if self.mode in ("503", "403"):
            return web.Response(status=int(self.mode), headers={"Retry-After": "1"})
        fields = {"Cache-Control": self.cache_control}
        if self.mode != "bare":
            fields["Authorization"] = f"Bearer {self.token}"
        return web.Response(headers=fields)


@dataclass
class Gateway:
    """A running gateway.

    Attributes:
        name: of its directory below deploy/gateways.
        port: where clients connect.
        log: what it printed.
    """

    name: str
    port: int
    log: Path


def replaced(text: str, replacements: Mapping[str, str]) -> str:
    for old, new in replacements.items():
        text = text.replace(old, new)
    return text


@contextmanager
def running(
    name: str, scratch: Path, *, identity: int = 1, api: int, ca_file: Path, is_pushed: bool = False
) -> Iterator[Gateway]:
    """Run a gateway by its recipe.

    Args:
        name: of its directory below deploy/gateways.
        scratch: a directory of its own.
        identity, api: ports.
        ca_file: that the API's certificate is of.
        is_pushed: by the recipe with a token file, which is in `scratch`.
    """
    port, guard = free_port(), free_port()
    replacements = {
        "127.0.0.1:8000": f"127.0.0.1:{port}",
        "127.0.0.1:8001": f"127.0.0.1:{guard}",
        "127.0.0.1:8090": f"127.0.0.1:{identity}",
        "127.0.0.1, port_value: 8000": f"127.0.0.1, port_value: {port}",
        "127.0.0.1, port_value: 8090": f"127.0.0.1, port_value: {identity}",
        f"address: {HOST}, port_value: 443": f"address: 127.0.0.1, port_value: {api}",
        f"{HOST}:443": f"127.0.0.1:{api}",
        "/etc/ssl/certs/ca-certificates.crt": str(ca_file),
        "/run/tokens": str(scratch),
        "/run/traefik": str(scratch / "pushed"),
        "/run/haproxy": str(scratch),
        "/dev/shm/apim-auth-proxy": str(scratch / "cache"),  # noqa: S108  # the recipe's
        "5500": f"{GIVES_UP_S}000",
        "21s": f"{GIVES_UP_S}s",
    }
    for file in (RECIPES / name).rglob("*"):
        if file.is_file():
            copy = scratch / file.relative_to(RECIPES / name)
            copy.parent.mkdir(exist_ok=True)
            copy.write_text(replaced(file.read_text(), replacements))
    log = scratch / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            _command(name, scratch, is_pushed=is_pushed),
            cwd=scratch,
            stdout=output,
            stderr=output,
            env=_environment(scratch),
        )
        try:
            wait_for_port(port, process, log)
            if not is_pushed:  # without a token 404 is an answer, too
                wait_for_routes(port)
            yield Gateway(name, port, log)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    gave_up = threading.Event()
    timer = threading.Timer(PATIENCE_S, gave_up.set)
    timer.start()
    try:
        while True:
            assert process.poll() is None, log.read_text()
            assert not gave_up.is_set(), log.read_text()
            with closing(socket.socket()) as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            gave_up.wait(0.05)
    finally:
        timer.cancel()


def wait_for_routes(port: int) -> None:
    """Wait until requests are answered by the recipe: Traefik listens before it has read what to do with them."""
    patience = threading.Event()
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
            connection.request("GET", "/")
            if connection.getresponse().status != 404:
                return
        assert time.monotonic() < give_up_at, "nothing but 404"
        patience.wait(0.05)


def _environment(scratch: Path) -> dict[str, str]:
    return {
        "HOME": str(scratch),
        "XDG_DATA_HOME": str(scratch),
        "XDG_CONFIG_HOME": str(scratch),
        "PATH": "/usr/bin:/bin",
    }


def _command(name: str, scratch: Path, *, is_pushed: bool) -> list[str]:
    if name == "nginx":
        main = scratch / "nginx.conf"
        # What Debian's package puts into /etc/nginx/modules-enabled.
        modules = ("ndk_http_module", "ngx_http_lua_module") if is_pushed else ()
        main.write_text(
            "".join(f"load_module /usr/lib/nginx/modules/{module}.so;\n" for module in modules)
            + f"daemon off;\nuser root;\npid {scratch}/pid;\nerror_log stderr notice;\nworker_processes 1;\n"
            "events {}\nhttp {\n  access_log off;\n"
            + "".join(
                f"  {kind}_temp_path {scratch}/{kind};\n"
                for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
            )
            + f"  include {scratch}/{'pushed' if is_pushed else 'apim-auth-proxy'}.conf;\n}}\n"
        )
        return [find("nginx"), "-p", str(scratch), "-e", "stderr", "-c", str(main)]
    if name == "envoy":
        return [
            find("envoy"),
            "-c",
            "pushed.yaml" if is_pushed else "envoy.yaml",
            "--concurrency",
            "1",
            "--disable-hot-restart",
            "--log-level",
            "warning",
        ]
    if name == "haproxy":
        return [find("haproxy"), "-db", "-f", "pushed.cfg" if is_pushed else "haproxy.cfg"]
    if name == "caddy":
        return [
            find("caddy"),
            "run",
            "--config",
            "Caddyfile.pushed" if is_pushed else "Caddyfile",
            "--adapter",
            "caddyfile",
        ]
    return [find("traefik"), f"--configFile={'pushed' if is_pushed else 'traefik'}.yaml"]
