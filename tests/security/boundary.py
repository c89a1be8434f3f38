"""A proxy with a configuration of the test's own, in front of a raw upstream: what its boundary lets through. Does I/O.

The configuration is a file and goes through everything a user's goes through; only the identity platform is left out, in
whose place every route has one fixed token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import trustme
import yaml

from proxy.config.loading import load_settings
from proxy.dialing.resolver import Resolver
from proxy.policy.passwords import PasswordHash
from proxy.relay_server import RelayServer
from tests.security.names import LoopLookup, NamedLoop
from tests.wire.rig import FixedTokens, Peer, Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from proxy.config.settings import Settings
    from proxy.identity.credential import Target
    from proxy.relay.record import ExchangeRecord
    from proxy.relay.tokens import Source
    from proxy.relay_server import Plan
from tests.wire.rig import Trust

HOST: Final = "api.example.test"
OTHER_HOST: Final = "other.example.test"
PATIENCE_S: Final = 30.0
ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OneToken:
    """Gives every route the token of the tests."""

    def source_for(self, credential: str, target: Target) -> Source:  # noqa: ARG002  # the seam's signature
        return cast("Source", FixedTokens())


def light_hash(password: str) -> str:
    """A hash that costs nothing: most tests are not about its cost."""
    salt = b"0123456789abcdef"
    return str(PasswordHash(1, 1, 1, salt, hashlib.scrypt(password.encode(), salt=salt, n=2, r=1, p=1, dklen=32)))


@dataclass
class Boundary:
    """A running proxy.

    Attributes:
        server: the proxy.
        upstream: the only routed host's server.
        records: of every exchange.
        reply: what the upstream answers to every request.
        file: the configuration.
    """

    server: RelayServer
    upstream: Upstream
    records: list[ExchangeRecord] = field(default_factory=list)
    reply: bytes = ANSWER
    file: Path = field(default=Path())
    _peers: list[Peer] = field(default_factory=list)

    async def reload(self, **changes: Any) -> None:
        """Goes over to a changed configuration, as a running proxy does."""
        plan = self.plan(**changes)
        await self.server.open(plan)
        self.use(plan)

    def plan(self, **changes: Any) -> Plan:
        """Returns the plan of a changed configuration."""
        configuration = yaml.safe_load(self.file.read_text(encoding="utf-8")) | changes
        self.file.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
        return self.server.plan(_load(self.file), OneToken())

    def use(self, plan: Plan) -> None:
        """Goes over to a plan whose listeners are open."""
        self.server.use(plan)
        self.server.relay.observe = self.records.append

    async def connect(self, listener: int = 0, context: ssl.SSLContext | None = None) -> Peer:
        """A connection to a listener, with TLS if a context is given."""
        return await self.connect_to(self.server.addresses[listener], context)

    async def connect_to(self, address: tuple[str, int], context: ssl.SSLContext | None = None) -> Peer:
        """A connection to an address, with TLS if a context is given."""
        loop = asyncio.get_running_loop()
        host, port = address
        if host.startswith("unix:"):
            _, peer = await loop.create_unix_connection(Peer, host.removeprefix("unix:"))
        else:
            name = "localhost" if context is not None else None
            _, peer = await loop.create_connection(Peer, host, port, ssl=context, server_hostname=name)
        self._peers.append(peer)
        return peer

    async def ask(self, request: bytes, listener: int = 0, context: ssl.SSLContext | None = None) -> bytes:
        """The head of the answer to a request on a connection of its own; the upstream answers 200."""
        peer = await self.connect(listener, context)
        peer.send(request)
        return await self.answer(peer)

    async def answer(self, peer: Peer) -> bytes:
        """The head of the next answer; requests that reach the upstream meanwhile are answered 200."""
        while b"\r\n\r\n" not in peer.received:
            self.serve()
            if peer.lost or (peer.ended and b"\r\n\r\n" not in peer.received):
                break
            await asyncio.sleep(0.001)
        head, _, _ = bytes(peer.received).partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if head:
            await peer.read(len(head) + 4 + length)
        return head

    def serve(self) -> None:
        """Answers whatever requests have arrived at the upstream whole."""
        for connection in self.upstream.connections:
            while b"\r\n\r\n" in connection.received:
                head, _, rest = bytes(connection.received).partition(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
                )
                if len(rest) < length:
                    break
                connection.take(len(head) + 4 + length)
                connection.send(self.reply)


def get(path: str = "/", *fields: str, host: str = HOST) -> bytes:
    """A request in absolute-form."""
    lines = [f"GET http://{host}{path} HTTP/1.1", f"Host: {host}", *fields]
    return "\r\n".join([*lines, "", ""]).encode()


async def eventually(holds: Callable[[], bool]) -> None:
    """Waits until something holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110  # nothing announces it
            await asyncio.sleep(0.005)


def status(head: bytes) -> int:
    return int(head[9:12]) if head else 0


@contextlib.asynccontextmanager
async def running(directory: Path, trust: Trust, **changes: Any) -> AsyncIterator[Boundary]:
    """Runs a proxy with one forward listener, one route, and the test's changes to that configuration."""
    upstream = Upstream()
    await upstream.start(trust.upstream_context)
    configuration: dict[str, Any] = {
        "listeners": [{"address": "127.0.0.1:0"}],
        "credentials": {
            "c": {"token_endpoint": "https://login.example.test/token", "client_id": "i", "certificate": "c.pem"}
        },
        "routes": [{"hosts": [HOST], "credential": "c", "scope": "s", "dial": f"127.0.0.1:{upstream.port}"}],
        "admin": None,
        "state_directory": "state",
        "access_log": {"enabled": False},
        **changes,
    }
    trust.upstream_authority.cert_pem.write_to_path(str(directory / "upstream-ca.pem"))
    for route in configuration["routes"]:
        route.setdefault("ca_file", "upstream-ca.pem")
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    try:
        async with _serving(file, trust, upstream) as boundary:
            yield boundary
    finally:
        upstream.close()


def _load(file: Path) -> Settings:
    return load_settings(file, {"HOME": str(file.parent)}, check_files=False)


@contextlib.asynccontextmanager
async def _serving(file: Path, trust: Trust, upstream: Upstream) -> AsyncIterator[Boundary]:
    settings = _load(file)
    resolver = Resolver(LoopLookup()) if isinstance(asyncio.get_running_loop(), NamedLoop) else None
    server = RelayServer(settings, OneToken(), trust.contexts.context_for, resolver=resolver)
    boundary = Boundary(server, upstream, file=file)
    try:
        await server.start()
        server.relay.observe = boundary.records.append
        yield boundary
    finally:
        for peer in boundary._peers:
            if not peer.transport.is_closing():  # CPython 3.11.2 aborts no TLS transport that has been closed twice
                peer.transport.abort()
        server.relay.abort()
        await server.stop()
        for _ in range(10):
            await asyncio.sleep(0)


@dataclass
class ListenerCertificates:
    """Files for a listener with TLS, and what clients need to talk to it."""

    settings: dict[str, str]
    stranger: ssl.SSLContext
    known: ssl.SSLContext
    impostor: ssl.SSLContext

    @classmethod
    def create(cls, directory: Path, client_name: str) -> ListenerCertificates:
        """Certificates for localhost, for a client with a name, and for one of that name by another CA."""
        authority, clients, strangers = (trustme.CA(key_type=trustme.KeyType.ECDSA) for _ in range(3))
        own = authority.issue_cert("localhost", "127.0.0.1", key_type=trustme.KeyType.ECDSA)
        own.private_key_and_cert_chain_pem.write_to_path(directory / "proxy.pem")
        (directory / "proxy.pem").chmod(0o600)
        clients.cert_pem.write_to_path(directory / "clients.pem")
        contexts = []
        for issuer in (None, clients, strangers):
            context = ssl.create_default_context()
            authority.configure_trust(context)
            if issuer is not None:
                issuer.issue_cert(client_name, key_type=trustme.KeyType.ECDSA).configure_cert(context)
            contexts.append(context)
        return cls({"certificate": "proxy.pem", "client_ca": "clients.pem"}, *contexts)
