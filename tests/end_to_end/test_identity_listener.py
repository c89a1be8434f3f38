"""An identity listener as gateways use it: `/authorize`, through the real command, by curl and raw bytes."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import os
import re
import secrets
import select
import signal
import socket
import ssl
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from proxy.policy.passwords import hash_password
from proxy.sandbox import TokenEndpointFault, TokenFault
from tests.end_to_end.leaks import KNOWN
from tests.end_to_end.programs import PATIENCE_S, ProxyProgram, configuration, write_configuration
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Configuration, Place

IDENTITY = {"address": "127.0.0.1:0", "mode": "identity", "authorize": True}


def handing_out(place: Place, *listeners: dict[str, object], **changes: Any) -> Configuration:
    """Return a configuration with a forward listener and identity listeners."""
    return configuration(place, listeners=[{"address": "127.0.0.1:0"}, *(listeners or [IDENTITY])], **changes)


def authorize_url(proxy: ProxyProgram, rest: str = "") -> str:
    return f"http://{proxy.address('identity')}/authorize{rest}"


def claims(answer: Answer) -> dict[str, object]:
    """Return the claims of the token in an answer, of which nothing else may be printed."""
    (line,) = answer.fields("Authorization")
    scheme, token = line.split(" ")
    assert scheme == "Bearer"
    KNOWN[f"a token handed out {len(KNOWN)}"] = token.rpartition(".")[2]
    middle = token.split(".")[1]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


def directives(answer: Answer) -> dict[str, int]:
    (line,) = answer.fields("Cache-Control")
    return {name: int(value) for name, value in (part.split("=") for part in line.split(", "))}


def raw(proxy: ProxyProgram, *pieces: bytes) -> bytes:
    """Send bytes and return everything that comes until the proxy closes."""
    host, port = proxy.address("identity").rsplit(":", 1)
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as connection:
        for piece in pieces:
            connection.sendall(piece)
        received = b""
        while block := connection.recv(65_536):
            received += block
    return received


@pytest.fixture(scope="module")
def gateway(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    """A proxy that tests leave as it is."""
    program = ProxyProgram(
        handing_out(place, {**IDENTITY, "server_names": ["api.corp.example"]}),
        tmp_path_factory.mktemp("identity"),
        evidence,
        "identity",
    )
    with program:
        yield program


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PROPFIND"])
def test_a_gateway_gets_the_field_for_a_routed_host_whatever_the_method(
    gateway: ProxyProgram, place: Place, curl: Curl, method: str
) -> None:
    how = ["--head"] if method == "HEAD" else ["--request", method]
    asked_at = time.time()
    answer = curl(*how, "--header", f"X-Forwarded-Host: {place.api_authority}", authorize_url(gateway))
    assert (answer.status, answer.content) == (200, b"")
    found = claims(answer)
    held = directives(answer)
    assert set(held) == {"max-age", "stale-if-error"}
    assert held["max-age"] > 0
    assert held["stale-if-error"] > 0
    assert asked_at + held["max-age"] + held["stale-if-error"] <= float(str(found["exp"]))
    line = gateway.wait_for_exchange(mode="identity", method=method, authority=place.api_authority)
    assert (line["status"], line["path"], line["outcome"], line["credential"]) == (
        200,
        "/authorize",
        "ok",
        "orders-client",
    )
    assert line["route"] == place.api_authority
    assert line["token_age_s"] is not None


@pytest.mark.parametrize(
    ("fields", "query", "status"),
    [
        pytest.param(
            ["X-Forwarded-Host: {api}", "Host: gateway"], "?host=nowhere.example", 200, id="X-Forwarded-Host first"
        ),
        pytest.param(
            ["X-Forwarded-Host: nowhere.example", "Host: {api}"], "?host={api}", 403, id="and nothing after it"
        ),
        pytest.param(["Host: gateway"], "?host={api}", 200, id="?host= second"),
        pytest.param(["Host: {api}"], "?host=nowhere.example", 403, id="?host= before Host"),
        pytest.param(["Host: {api}"], "", 200, id="Host last"),
        pytest.param([], "", 403, id="no route"),
        pytest.param(["X-Forwarded-Host: {api}, {api}"], "", 403, id="two hosts in one field"),
        pytest.param(["X-Forwarded-Host: {api}", "X-Forwarded-Host: {api}"], "", 403, id="two fields"),
        pytest.param(["X-Forwarded-Host: not a host"], "", 403, id="no host at all"),
        pytest.param(["X-Forwarded-Host: {name}:444"], "", 403, id="another port"),
        # What Envoy writes: its own path, and behind it the target of its client, whose query is the client's.
        pytest.param(["Host: {api}"], "/orders/1?host=nowhere.example", 200, id="a client's query says nothing"),
        pytest.param(["Host: gateway"], "/orders/1?host={api}", 403, id="nor does it in the client's favour"),
        pytest.param(["Host: {api}"], "x", 404, id="another path"),
        pytest.param(["Host: api.corp.example", "X-Forwarded-Host: {api}"], "", 200, id="one of server_names"),
        pytest.param(
            ["Host: evil.example", "X-Forwarded-Host: {api}"], "", 403, id="a name that a page may be rebound from"
        ),
        pytest.param(["Host: evil.example"], "?host={api}", 403, id="and with the host in the query"),
    ],
)
def test_the_host_comes_from_the_gateway_and_from_nobody_else(
    gateway: ProxyProgram, place: Place, curl: Curl, fields: list[str], query: str, status: int
) -> None:
    known = {"api": place.api_authority, "name": place.api_authority.partition(":")[0]}
    arguments = [word for line in fields for word in ("--header", line.format(**known))]
    answer = curl(*arguments, authorize_url(gateway, query.format(**known)))
    assert answer.status == status, answer.content
    assert len(answer.fields("Authorization")) == (1 if status == 200 else 0)
    if status != 200:
        assert answer.problem["status"] == status
        assert answer.fields("Cache-Control") == ["no-store"]


def test_what_a_gateway_cannot_be_given_is_metrics_and_a_line_too(
    gateway: ProxyProgram, place: Place, curl: Curl
) -> None:
    curl("--header", "X-Forwarded-Host: unrouted.example", authorize_url(gateway))
    line = gateway.wait_for_exchange(mode="identity", authority="unrouted.example:443")
    assert (line["status"], line["outcome"], line["code"]) == (403, "http_request_denied", "no_route")
    curl("--header", f"X-Forwarded-Host: {place.api_authority}", authorize_url(gateway))
    metrics = gateway.ask_admin("/metrics").decode()
    assert 'apim_auth_proxy_identity_answers_total{endpoint="authorize",route="-",status="403"}' in metrics
    assert (
        f'apim_auth_proxy_identity_answers_total{{endpoint="authorize",route="{place.api_authority}",status="200"}}'
        in metrics
    )


def test_requests_are_not_passed_on(gateway: ProxyProgram, place: Place, curl: Curl) -> None:
    answer = curl("--proxy", f"http://{gateway.address('identity')}", f"http://{place.api_authority}/orders")
    assert answer.status == 404
    assert "forwards no requests" in str(answer.problem["detail"])
    # RFC 9112 §3.2.2: a whole URL counts, and not the Host field beside it, which names this listener.
    whole = raw(
        gateway,
        b"GET http://other.example/authorize?host=%b HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n"
        % (place.api_authority.encode(), gateway.address("identity").encode()),
    )
    assert whole.startswith(b"HTTP/1.1 404 ")
    tunnel = curl("--proxy", f"http://{gateway.address('identity')}", f"https://{place.api_authority}/orders")
    assert tunnel.exit_status != 0
    assert not tunnel.fields("Authorization")


def test_no_client_reaches_an_identity_listener_through_the_proxy(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    port = free_port()
    destinations = {"allow": ["127.0.0.0/8"], "ports": [port]}
    listener = {**IDENTITY, "address": f"127.0.0.1:{port}"}
    proxy = start_proxy(handing_out(place, listener, other_hosts="tunnel", destinations=destinations))
    url = f"{authorize_url(proxy)}?host={place.api_authority}"
    assert curl(url).status == 200
    assert curl("--proxy", proxy.forward, url).status == 508
    tunnel = curl("--proxytunnel", "--proxy", proxy.forward, url)
    assert (tunnel.status, tunnel.report["http_connect"]) == (0, 508)


def test_a_connection_that_asks_for_an_upgrade_serves_no_other_request(gateway: ProxyProgram, place: Place) -> None:
    """Traefik and nginx pass the fields of a WebSocket handshake on to the service."""
    head = (
        f"GET /authorize HTTP/1.1\r\nHost: {place.api_authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    ).encode()
    answer = raw(gateway, head)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"TLS", id="TLS"),
        pytest.param(
            b"GET /authorize HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
            b"Content-Length",
            id="a length that is none",
        ),
        pytest.param(
            b"GET /authorize HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"limits.head_bytes", id="too long a field"
        ),
        pytest.param(
            b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"limits.target_bytes", id="too long a target"
        ),
    ],
)
def test_what_is_malformed_is_refused_with_the_reason(gateway: ProxyProgram, request_: bytes, reason: bytes) -> None:
    answer = raw(gateway, request_)
    assert answer.partition(b"\r\n")[0].endswith(b" 400 Bad Request"), answer
    (detail,) = re.findall(rb'"detail": "(.*?)(?<!\\\\)"', answer)
    assert reason in detail, answer


def test_a_connection_that_sends_no_whole_head_is_closed_and_one_too_many_is_told(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    limits = {"connections": 1}
    proxy = start_proxy(handing_out(place, limits=limits, timeouts={"head_s": 1, "drain_s": 5}))
    assert raw(proxy, b"GET /authorize HTTP/1.1\r\n") == b""
    ask = f"GET /authorize?host={place.api_authority} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
    host, port = proxy.address("identity").rsplit(":", 1)
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as kept:
        kept.sendall(ask)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        answer = curl(f"{authorize_url(proxy)}?host={place.api_authority}")
        assert answer.status == 503
        assert answer.problem["type"] == "urn:apim-auth-proxy:connection_limit_reached"


def test_clients_are_held_to_their_routes_and_told_apart(
    place: Place, start_proxy: StartProxy, curl: Curl, tmp_path: Path
) -> None:
    """Here with relay processes: the control process, which holds the keys, answers."""
    workers = 2
    socket_path = tmp_path / "identity.sock"
    other_path = tmp_path / "others.sock"
    clients = [
        {
            "name": "gateway",
            "networks": ["127.0.0.1/32"],
            "password_hash": str(hash_password(b"open sesame", secrets.token_bytes(16))),
        },
        {"name": "alias-only", "users": [str(os.getuid())], "routes": [place.alias_host]},
    ]
    routes = configuration(place)["routes"]
    assert isinstance(routes, list)
    first = {**routes[0], "hosts": [place.api_authority]}
    second = {**routes[0], "hosts": [place.alias_host]}
    unix = {"mode": "identity", "authorize": True}
    listeners: list[dict[str, object]] = [
        IDENTITY,
        {**unix, "address": f"unix:{socket_path}"},
        {**unix, "address": f"unix:{other_path}", "users": [str(os.getuid() + 1)]},
    ]
    proxy = start_proxy(handing_out(place, *listeners, clients=clients, routes=[first, second], workers=workers))
    api, alias = (f"{authorize_url(proxy)}?host={host}" for host in (place.api_authority, place.alias_host))

    stranger = curl(api)
    assert (stranger.status, stranger.problem["code"]) == (403, "no_credentials")
    wrong = curl("--proxy-header", "X: y", "--header", f"Proxy-Authorization: {_basic('gateway', 'guess')}", api)
    assert (wrong.status, wrong.problem["code"]) == (403, "wrong_credentials")
    right = ["--header", f"Proxy-Authorization: {_basic('gateway', 'open sesame')}"]
    assert curl(*right, api).status == curl(*right, alias).status == 200
    assert proxy.wait_for_exchange(mode="identity", status=200)["client_name"] == "gateway"

    local = ["--unix-socket", str(socket_path)]
    refused = curl(*local, f"http://localhost/authorize?host={place.api_authority}")
    assert (refused.status, refused.problem["code"]) == (403, "route_not_allowed")
    assert not refused.fields("Authorization")
    assert curl(*local, f"http://localhost/authorize?host={place.alias_host}").status == 200
    assert socket_path.stat().st_mode & 0o777 == 0o600
    other = curl("--unix-socket", str(other_path), f"http://localhost/authorize?host={place.alias_host}")
    assert (other.status, other.problem["code"]) == (403, "user_not_allowed")


def _basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_a_listener_with_a_client_ca_takes_certificates_of_that_ca_alone(
    place: Place, start_proxy: StartProxy, curl: Curl, tmp_path: Path
) -> None:
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    _write_pair(ca, "127.0.0.1", tmp_path / "server.pem")
    _write_pair(ca, "gateway.corp.example", tmp_path / "gateway.pem")
    _write_pair(other, "gateway.corp.example", tmp_path / "other.pem")
    tls = {"certificate": str(tmp_path / "server.pem"), "client_ca": str(tmp_path / "ca.pem")}
    proxy = start_proxy(
        handing_out(
            place,
            {**IDENTITY, "tls": tls},
            clients=[{"name": "gateway", "certificate_names": ["gateway.corp.example"]}],
        )
    )
    url = f"https://{proxy.address('identity')}/authorize?host={place.api_authority}"
    trust = ["--cacert", str(tmp_path / "ca.pem")]
    assert curl(*trust, "--cert", str(tmp_path / "gateway.pem"), url).status == 200
    _, port = proxy.address("identity").rsplit(":", 1)
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "gateway.pem")
    context.set_alpn_protocols(["h2"])
    with (
        closing(socket.create_connection(("127.0.0.1", int(port)), PATIENCE_S)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        assert secured.selected_alpn_protocol() is None, "it speaks HTTP/1.1 alone"
    assert curl(*trust, "--cert", str(tmp_path / "other.pem"), url).status == 0
    assert curl(*trust, url).status == 0
    assert curl(*trust, "--cert", str(tmp_path / "server.pem"), url).status == 403

    # After a reload the listener takes another CA's, and connects without a gap.
    other.cert_pem.write_to_path(str(tmp_path / "ca2.pem"))
    text = proxy.config_file.read_text().replace(str(tmp_path / "ca.pem"), str(tmp_path / "ca2.pem"))
    new = proxy.config_file.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(proxy.config_file)
    proxy.wait_for_line("apim-auth-proxy: reloaded")
    assert curl(*trust, "--cert", str(tmp_path / "gateway.pem"), url).status == 0
    assert curl(*trust, "--cert", str(tmp_path / "other.pem"), url).status == 200


def test_connections_count_before_their_handshake(place: Place, start_proxy: StartProxy, tmp_path: Path) -> None:
    ca = trustme.CA()
    _write_pair(ca, "127.0.0.1", tmp_path / "server.pem")
    tls = {"certificate": str(tmp_path / "server.pem")}
    proxy = start_proxy(handing_out(place, {**IDENTITY, "tls": tls}, limits={"connections": 2}))
    host, port = proxy.address("identity").rsplit(":", 1)
    with ExitStack() as silent:
        held = [
            silent.enter_context(closing(socket.create_connection((host, int(port)), PATIENCE_S))) for _ in range(40)
        ]
        cut, _, _ = select.select(held, [], [], PATIENCE_S)
        assert cut, "a connection that nobody has a accepted for is kept"
        for connection in cut:
            with suppress(ConnectionError):
                assert connection.recv(1) == b""
    # Those that never began their handshake are counted no more.
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    ask = f"GET /authorize?host={place.api_authority} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    give_up_at = time.monotonic() + PATIENCE_S
    answer = b""
    while not answer.startswith(b"HTTP/1.1 200 "):
        assert time.monotonic() < give_up_at, answer
        with (
            suppress(OSError),
            closing(socket.create_connection((host, int(port)), PATIENCE_S)) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            secured.sendall(ask)
            answer = secured.recv(65_536)


def _write_pair(ca: trustme.CA, name: str, file: Path) -> None:
    certificate = ca.issue_cert(name, common_name=name)
    certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
    file.chmod(0o600)


def test_a_reload_opens_closes_and_keeps_listeners(place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    workers = 2
    proxy = start_proxy(handing_out(place, workers=workers))
    address = proxy.address("identity")
    settings = handing_out(place, IDENTITY, {**IDENTITY, "server_names": ["two.example"]}, workers=workers)
    # A kept-alive connection of before goes on, by the new configuration.
    host, port = address.rsplit(":", 1)
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as kept:
        ask = f"GET /authorize?host={place.api_authority} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        kept.sendall(ask)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        write_configuration(settings, proxy.config_file.parent)
        proxy.wait_for_line("apim-auth-proxy: reloaded")
        kept.sendall(ask)
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
    assert curl(f"http://{address}/authorize?host={place.api_authority}").status == 200
    second = [line for line in proxy.lines if "(identity)" in line][-1].split()[-2]
    assert second != address
    assert curl(f"http://{second}/authorize?host={place.api_authority}").status == 200

    write_configuration(handing_out(place, workers=workers), proxy.config_file.parent)
    proxy.wait_for(lambda lines: sum("apim-auth-proxy: reloaded" in line for line in lines) == 2)
    assert curl(f"http://{second}/authorize?host={place.api_authority}").status == 0
    assert curl(f"http://{address}/authorize?host={place.api_authority}").status == 200


def test_a_connection_that_shows_less_than_the_listener_asks_for_now_is_ended(
    place: Place, tmp_path: Path, start_proxy: StartProxy
) -> None:
    """It came in clear; whoever connects from now on has to speak TLS."""
    ca, pair = trustme.CA(), tmp_path / "listener.pem"
    _write_pair(ca, "127.0.0.1", pair)
    proxy = start_proxy(handing_out(place))
    host, port = proxy.address("identity").rsplit(":", 1)
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as kept:
        kept.sendall(f"GET /authorize?host={place.api_authority} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert kept.recv(65_536).startswith(b"HTTP/1.1 200 ")
        write_configuration(
            handing_out(place, IDENTITY | {"tls": {"certificate": str(pair)}}), proxy.config_file.parent
        )
        proxy.wait_for_line("apim-auth-proxy: reloaded")
        assert kept.recv(65_536) == b""


def test_nobody_is_turned_away_by_a_reload(place: Place, start_proxy: StartProxy) -> None:
    """Neither on a new connection, accepted just before and read just after, nor on a kept-alive one: nginx made 500 of it."""
    proxy = start_proxy(handing_out(place))
    host, port = proxy.address("identity").rsplit(":", 1)
    ask = f"GET /authorize?host={place.api_authority} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    statuses: list[bytes] = []
    is_over = threading.Event()

    def ask_again(connection: socket.socket | None) -> None:
        while not is_over.is_set():
            with ExitStack() as stack:
                one = connection or stack.enter_context(socket.create_connection((host, int(port)), PATIENCE_S))
                one.sendall(ask)
                statuses.append(one.recv(65_536)[:12])

    with (
        closing(socket.create_connection((host, int(port)), PATIENCE_S)) as kept,
        ThreadPoolExecutor(3) as threads,
    ):
        asking = [threads.submit(ask_again, connection) for connection in (kept, None, None)]
        try:
            for count in range(1, 9):
                body_idle_s = {"body_idle_s": 60 + count}
                write_configuration(handing_out(place, timeouts=body_idle_s), proxy.config_file.parent)
                proxy.signal(signal.SIGHUP)
                proxy.wait_for(
                    functools.partial(
                        lambda n, lines: sum("apim-auth-proxy: reloaded" in each for each in lines) >= n, count
                    )
                )
        finally:
            is_over.set()
        for one in asking:
            one.result()
    assert len(statuses) > 8
    assert set(statuses) == {b"HTTP/1.1 200"}


# The life of a token, with a sandbox to be disturbed.


@pytest.mark.asyncio
async def test_a_refused_credential_is_502_and_an_outage_503_and_neither_has_a_token(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_JSON)
    settings = handing_out(own_place, credential={"lazy": True}, timeouts={"token_s": 1, "drain_s": 5})
    proxy = await asyncio.to_thread(start_proxy, settings)
    url = f"{authorize_url(proxy)}?host={own_place.api_authority}"
    down = await asyncio.to_thread(curl, url)
    assert down.status == 503
    assert int(down.fields("Retry-After")[0]) >= 1
    assert down.fields("Authorization") == []
    assert down.problem["type"] == "urn:apim-auth-proxy:proxy_internal_response"

    refused_settings = handing_out(
        own_place, credential={"lazy": True, "client_id": "00000000-0000-0000-0000-00000000dead"}
    )
    sandbox.faults.token_endpoint = None
    other = await asyncio.to_thread(start_proxy, refused_settings)
    refused = await asyncio.to_thread(curl, f"{authorize_url(other)}?host={own_place.api_authority}")
    assert (refused.status, refused.problem["code"]) == (502, "AADSTS700016")
    assert int(refused.fields("Retry-After")[0]) >= 1
    assert refused.fields("Authorization") == []


@pytest.mark.asyncio
async def test_a_gateway_that_leaves_while_it_waits_has_a_line_and_no_answer(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy
) -> None:
    sandbox.faults.token_endpoint = TokenEndpointFault(TokenFault.SERVER_ERROR_JSON)
    settings = handing_out(own_place, credential={"lazy": True}, timeouts={"token_s": 60, "drain_s": 5})
    proxy = await asyncio.to_thread(start_proxy, settings)
    host, port = proxy.address("identity").rsplit(":", 1)
    with closing(socket.create_connection((host, int(port)), PATIENCE_S)) as connection:
        connection.sendall(
            f"GET /authorize?host={own_place.api_authority} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        )
        await asyncio.to_thread(proxy.wait_for_line, "AADSTS90033")  # the request has arrived, and waits
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    line = await asyncio.to_thread(proxy.wait_for_exchange, mode="identity", outcome="aborted_client")
    assert (line["status"], line["path"], line["token_age_s"]) == (None, "/authorize", None)
    assert b'status="0"' not in await asyncio.to_thread(proxy.ask_admin, "/metrics")


@pytest.mark.asyncio
async def test_what_a_gateway_may_keep_ends_before_the_token_does_also_in_an_outage(
    sandbox: Sandbox, own_place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    sandbox.faults.token_lifetime_s = 6
    settings = handing_out(own_place, credential={"lazy": True}, timeouts={"token_s": 1, "drain_s": 5})
    proxy = await asyncio.to_thread(start_proxy, settings)
    url = f"{authorize_url(proxy)}?host={own_place.api_authority}"
    assert (await asyncio.to_thread(curl, url)).status == 200
    await sandbox.close_identity_platform()
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        asked_at = time.time()
        answer = await asyncio.to_thread(curl, url)
        if answer.status != 200:
            break
        held = directives(answer)
        # The claim is whole seconds.
        assert asked_at + held["max-age"] + held["stale-if-error"] < float(str(claims(answer)["exp"])) + 0.5
        assert time.monotonic() < give_up_at, "the token has expired long ago"
        await asyncio.sleep(0.1)
    assert answer.status == 503
    assert answer.fields("Authorization") == []
