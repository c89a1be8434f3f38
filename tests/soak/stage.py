"""The proxy under test, as a program, with everything around it: identity platform, upstreams, certificates. Does I/O."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trustme

from proxy.sandbox import Sandbox
from tests.end_to_end.programs import Place, ProxyProgram, configuration
from tests.soak.connection import Listeners
from tests.soak.echo import serve_echo
from tests.soak.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.end_to_end.programs import Configuration
    from tests.soak.journal import Journal

HOST: Final = "api.soak.example"
WILDCARD: Final = "*.many.soak.example"
_NAMES_BELOW_WILDCARD: Final = 20
# Short, so that what is left over shows itself soon; longer than any pause of a client or an upstream that is alive.
TIMEOUTS: Final = {
    "client_idle_s": 10,
    "upstream_idle_s": 3,
    "body_idle_s": 20,
    "response_s": 20,
    "tunnel_idle_s": 20,
    "drain_s": 5,
}


@dataclass(frozen=True, slots=True)
class Certificates:
    """What the upstream shows, and what the proxy has to trust.

    Attributes:
        ca_file: the issuer's certificate.
        context: the upstream's.
    """

    ca_file: Path
    context: ssl.SSLContext


def create_certificates(directory: Path) -> Certificates:
    """Makes a CA and the upstream's certificate."""
    authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ca_file = directory / "upstream-ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, WILDCARD, key_type=trustme.KeyType.ECDSA).configure_cert(context)
    return Certificates(ca_file, context)


@dataclass(frozen=True, slots=True)
class Stage:
    """All that the soak needs.

    Attributes:
        settings: the proxy's configuration.
        listeners: for its clients.
    """

    sandbox: Sandbox
    proxy: ProxyProgram
    settings: Configuration
    listeners: Listeners


@contextlib.asynccontextmanager
async def set_up(
    directory: Path,
    journal: Journal,
    processes: int = 1,
    *,
    certificates: Certificates | None = None,
    dial_port: int | None = None,
) -> AsyncIterator[Stage]:
    """Starts everything; ends it again.

    Args:
        directory: for configurations, certificates and logs.
        journal: of the upstreams.
        processes: relay processes of the proxy.
        certificates: of the upstream.
        dial_port: where the routed upstream is; None: one that does what the journal's plans say is started.
    """
    certificates = certificates or create_certificates(directory)
    secure, plain = Upstream(journal, certificates.context), Upstream(journal, None)
    async with Sandbox() as sandbox, contextlib.AsyncExitStack() as stack:
        for upstream in (secure, plain):
            await upstream.start()
            stack.callback(upstream.close)
        echo = await asyncio.start_server(
            lambda reader, writer: serve_echo(journal, reader, writer), "127.0.0.1", 0, backlog=1024
        )
        stack.callback(echo.close)
        echo_port = echo.sockets[0].getsockname()[1]
        await asyncio.to_thread(sandbox.write_directory, directory / "sandbox")
        place = Place.read(directory / "sandbox")
        route = {
            "hosts": [HOST, WILDCARD],
            "dial": f"127.0.0.1:{dial_port or secure.port}",
            "ca_file": str(certificates.ca_file),
        }
        settings: Configuration = configuration(
            place,
            route=route,
            listeners=[
                {"address": "127.0.0.1:0"},
                {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
            ],
            other_hosts="tunnel",
            destinations={"allow": ["127.0.0.0/8"], "ports": [plain.port, echo_port]},
            timeouts=TIMEOUTS,
            access_log={"file": str(directory / "access.log"), "format": "json"},
            workers=processes,
        )
        proxy = await asyncio.to_thread(ProxyProgram, settings, directory / "proxy", directory, "proxy")
        try:
            listeners = Listeners(
                forward=int(proxy.address("forward").rpartition(":")[2]),
                reverse=int(proxy.address("reverse").rpartition(":")[2]),
                hosts=(HOST, HOST, *(f"n{number}.{WILDCARD[2:]}" for number in range(_NAMES_BELOW_WILDCARD))),
                reverse_host=HOST,
                plain=f"127.0.0.1:{plain.port}",
                echo=f"127.0.0.1:{echo_port}",
                context=ssl.create_default_context(cafile=str(proxy.ca_file)),
            )
            yield Stage(sandbox, proxy, settings, listeners)
        finally:
            await asyncio.to_thread(proxy.stop)
