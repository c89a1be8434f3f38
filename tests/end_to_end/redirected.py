"""Networks of namespaces around a transparent listener: a program, the proxy, and a world with three servers. Does I/O."""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final

from tests.network_namespaces import Namespace, connect, made_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import trustme

# TEST-NET-3 (RFC 5737) and the documentation prefix (RFC 3849) stand for the internet.
ORDERS, BILLING, OTHER, LOGIN = (f"{name}.example.test" for name in ("orders", "billing", "other", "login"))
TOKEN: Final = "the-access-token-of-redirected-connections"
ADDRESSES: Final = {
    ORDERS: ("203.0.113.10", "2001:db8:113::10"),
    BILLING: ("203.0.113.11", "2001:db8:113::11"),
    OTHER: ("203.0.113.20", "2001:db8:113::20"),
    LOGIN: ("203.0.113.30", "2001:db8:113::30"),
}
# Nobody's: a client that is led there by its name servers is served all the same, if a route has the name.
WRONG_ADDRESS: Final = "203.0.113.99"


class _Answer(BaseHTTPRequestHandler):
    """Say what came, and which server it came to; or give a token to whoever asks, as a token endpoint does."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and content in one packet, or each waits for the other's acknowledgement

    def do_GET(self) -> None:
        content = json.dumps(
            {
                "at": self.connection.getsockname()[0],
                "host": self.headers["Host"],
                "authorization": self.headers["Authorization"],
                "from": self.client_address[0],
                "tls": isinstance(self.connection, ssl.SSLSocket),
            }
        ).encode()
        self._send(content)

    def do_POST(self) -> None:
        """Take the client assertion for right: what it has to be is tested elsewhere."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(json.dumps({"access_token": TOKEN, "token_type": "Bearer", "expires_in": 3600}).encode())

    def _send(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Say nothing: a handshake may be given up on purpose."""


@dataclass(slots=True)
class World:
    """What is beyond the proxy.

    Attributes:
        namespace: where its servers are.
        ca: issued their certificates.
    """

    namespace: Namespace
    ca: trustme.CA
    _servers: list[_Server] = field(default_factory=list)

    def serve(self, name: str) -> None:
        """Serve a name at its addresses, at port 443 with TLS and at port 80 without."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(context)
        for address in ADDRESSES[name]:
            self.namespace.ip("address", "add", address, "dev", "lo", *(["nodad"] if ":" in address else []))
            for port in (443, 80):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                listening = self.namespace.call(
                    partial(socket.create_server, (address, port), family=family, backlog=512)
                )
                server = _Server((address, port), _Answer, bind_and_activate=False)
                server.socket.close()
                server.socket = (
                    context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
                    if port == 443
                    else listening
                )
                threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
                self._servers.append(server)

    def close(self) -> None:
        """Close all servers."""
        for server in self._servers:
            server.shutdown()
            server.server_close()


@contextmanager
def made_world(ca: trustme.CA) -> Iterator[World]:
    """Make the namespace beyond, with three servers."""
    with ExitStack() as stack:
        world = World(stack.enter_context(made_namespace()), ca)
        stack.callback(world.close)
        for name in ADDRESSES:
            world.serve(name)
        yield world


def attach(inner: Namespace, world: Namespace, network: int, link: str = "eth0") -> tuple[str, str]:
    """Join a namespace to another, which becomes its way out; return the inner one's addresses."""
    ipv4, ipv6 = f"10.77.{network}", f"fd00:77:{network}:"
    connect(inner, world, [(f"{ipv4}.2/24", f"{ipv4}.1/24"), (f"{ipv6}:2/64", f"{ipv6}:1/64")], link)
    inner.ip("route", "add", "default", "via", f"{ipv4}.1")
    inner.ip("-6", "route", "add", "default", "via", f"{ipv6}:1")
    return f"{ipv4}.2", f"{ipv6}:2"


def write_hosts(directory: Path, **changes: str) -> Path:
    """Write the hosts file that stands for DNS."""
    lines = ["127.0.0.1 localhost", "::1 localhost"]
    for name, addresses in ADDRESSES.items():
        lines += [f"{address} {name}" for address in addresses]
    lines += [f"{address} {name}" for name, address in changes.items()]
    file = directory / "hosts"
    file.write_text("\n".join(lines) + "\n", encoding="ascii")
    return file


def speak_everywhere(namespace: Namespace, speak: Callable[[int], bytes], times: int) -> set[bytes]:
    """Call a function so many times from threads in a namespace, and return what it returned."""
    numbers = iter(range(times))
    found: set[bytes] = set()

    def work() -> None:
        for number in numbers:
            found.add(speak(number))

    threads = [threading.Thread(target=namespace.call, args=(work,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def wait_until(holds: Callable[[], bool], patience_s: float = 60) -> None:
    """Look again and again until something holds."""
    give_up_at = time.monotonic() + patience_s
    while not holds():
        assert time.monotonic() < give_up_at, "it does not come to hold"
        time.sleep(0.05)
