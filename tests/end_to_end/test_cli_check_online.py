"""`check --online` names the cause of each of many deliberate misconfigurations, and finds nothing wrong without one."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
from collections.abc import Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest
import trustme

from proxy.config.routed_hosts import routed_hosts
from proxy.doctor.findings import Level
from proxy.doctor.offline import check_configuration, check_offline
from proxy.doctor.online import check_online
from proxy.sandbox import (
    AlwaysUnauthorized,
    ClientApplication,
    ResourceApplication,
    TokenEndpointFault,
    TokenFault,
    create_client_certificate,
    register_certificate,
)
from proxy.sandbox.settings import API_APP_ID, API_URI
from tests.end_to_end.programs import COMMAND, Configuration, Place, configuration, run_program, write_configuration
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from proxy.doctor.findings import Finding
    from proxy.sandbox import Sandbox

Arrange: TypeAlias = Callable[["Sandbox", Place], Configuration]


@dataclass(frozen=True, slots=True)
class Misconfiguration:
    """One thing that is wrong, and the words by which an operator learns of it.

    Attributes:
        arrange: makes it wrong.
        names: parts of the sentences of one and the same finding.
        level: of that finding.
        path: what the API is called with.
    """

    arrange: Arrange
    names: tuple[str, ...]
    level: Level = Level.ERROR
    path: str = "/orders"


def _credential(**changes: object) -> Arrange:
    return lambda _, place: configuration(place, credential=changes)


def _route(**changes: object) -> Arrange:
    return lambda _, place: configuration(place, route=changes)


def _closed_authority(_: Sandbox, place: Place) -> Configuration:
    return configuration(place, credential={"authority": f"https://localhost:{free_port()}"})


def _closed_dial(_: Sandbox, place: Place) -> Configuration:
    return configuration(place, route={"dial": f"127.0.0.1:{free_port()}"})


def _another_certificate(sandbox: Sandbox, place: Place) -> Configuration:
    stranger = create_client_certificate(datetime.now(UTC)).certificate
    known = sandbox.tenant.client(sandbox.client_id)
    assert known is not None
    certificates = (register_certificate(stranger),)
    sandbox.tenant.register_client(ClientApplication(known.client_id, known.object_id, certificates))
    return configuration(place)


def _no_service_principal(sandbox: Sandbox, place: Place) -> Configuration:
    known = sandbox.tenant.client(sandbox.client_id)
    assert known is not None
    sandbox.tenant.register_client(ClientApplication(known.client_id, None, known.certificates))
    return configuration(place)


def _roles(*roles: str, version: int = 2) -> Arrange:
    def arrange(sandbox: Sandbox, place: Place) -> Configuration:
        granted = {sandbox.client_id: roles} if roles else {}
        sandbox.tenant.register_resource(ResourceApplication(API_APP_ID, (API_URI,), 1 if version == 1 else 2, granted))
        return configuration(place)

    return arrange


def _ask_own_token(sandbox: Sandbox, place: Place) -> Configuration:
    sandbox.faults.always_unauthorized = AlwaysUnauthorized(with_challenge=True)
    return configuration(place)


def _version_1_refused(sandbox: Sandbox, place: Place) -> Configuration:
    sandbox.faults.always_unauthorized = AlwaysUnauthorized()
    return _roles("Orders.Read", version=1)(sandbox, place)


def _clock(offset_s: float) -> Arrange:
    def arrange(sandbox: Sandbox, place: Place) -> Configuration:
        sandbox.faults.clock_offset_s = offset_s
        return configuration(place)

    return arrange


def _token_fault(kind: TokenFault) -> Arrange:
    def arrange(sandbox: Sandbox, place: Place) -> Configuration:
        sandbox.faults.token_endpoint = TokenEndpointFault(kind)
        return configuration(place)

    return arrange


def _wrong_name(_: Sandbox, place: Place) -> Configuration:
    return configuration(place, route={"hosts": ["orders.example"]}, listeners=[{"address": "127.0.0.1:0"}])


MISCONFIGURATIONS = {
    "client id of nobody": Misconfiguration(
        _credential(client_id="99999999-9999-9999-9999-999999999999"), ("AADSTS700016", "client id is not known")
    ),
    "another tenant": Misconfiguration(
        _credential(tenant_id="99999999-9999-9999-9999-999999999999"), ("AADSTS90002", "no such tenant")
    ),
    "certificate not uploaded": Misconfiguration(_another_certificate, ("AADSTS700027", "not registered", "cert show")),
    "no service principal": Misconfiguration(_no_service_principal, ("AADSTS7000229", "az ad sp create")),
    "scope of no API": Misconfiguration(_route(scope="api://nobody/.default"), ("AADSTS500011", "Application ID URI")),
    "audience of someone else": Misconfiguration(
        _credential(assertion_audience="https://login.example.com/token"), ("AADSTS700023", "assertion_audience")
    ),
    "authority that does not resolve": Misconfiguration(
        _credential(authority="https://login.invalid"), ("token endpoint cannot be used", "login.invalid does not resolve")
    ),
    "authority that nothing listens on": Misconfiguration(
        _closed_authority, ("token endpoint cannot be used", "refuses the connection")
    ),
    "authority of a private CA": Misconfiguration(
        _credential(ca_file=None), ("token endpoint cannot be used", "not trusted", "sandbox CA", "ca_file")
    ),
    "API of a private CA": Misconfiguration(_route(ca_file=None), ("not trusted", "sandbox CA", "ca_file")),
    "API that nothing listens on": Misconfiguration(_closed_dial, ("refuses the connection", "dial")),
    "API under another name": Misconfiguration(
        _wrong_name, ("is for other names than orders.example", "localhost")
    ),
    "subscription key missing": Misconfiguration(
        _route(set_headers=None), ("wants a subscription key", "set_headers", "not looked at the token")
    ),
    "subscription key wrong": Misconfiguration(
        _route(set_headers={"Ocp-Apim-Subscription-Key": "0" * 32}), ("refuses the subscription key", "active subscription")
    ),
    "no role, said by the token": Misconfiguration(_roles(), ("no roles", "az ad app permission"), Level.WARNING),
    "no role, refused by the gateway": Misconfiguration(
        _roles(), ("policy refuses the access token", "roles (none)", "missing role is the likely cause")
    ),
    "another role": Misconfiguration(
        _roles("Orders.Write"), ("policy refuses the access token", "roles Orders.Write", "required-claims")
    ),
    "token of version 1": Misconfiguration(
        _version_1_refused, ("policy refuses the access token", "version 1 token", "requestedAccessTokenVersion")
    ),
    "token refused by the API": Misconfiguration(_ask_own_token, ("The API refuses the access token",)),
    "API's own 401": Misconfiguration(
        lambda _, place: configuration(place), ("The API itself answers 401", "does not blame the token"), path="/status/401"
    ),
    "API's own 403": Misconfiguration(
        lambda _, place: configuration(place), ("The API itself answers 403", "Orders.Read"), path="/status/403"
    ),
    "path of no operation": Misconfiguration(
        lambda _, place: configuration(place), ("answers 404", "--path"), Level.WARNING, path="/no-such-operation"
    ),
    "clock an hour slow": Misconfiguration(_clock(3_600), ("behind the identity platform's", "NTP"), Level.WARNING),
    "clock two minutes fast": Misconfiguration(_clock(-120), ("ahead of the identity platform's", "NTP"), Level.WARNING),
    "platform throttles": Misconfiguration(_token_fault(TokenFault.TOO_MANY_REQUESTS), ("429", "too many tokens")),
    "platform broken": Misconfiguration(_token_fault(TokenFault.SERVER_ERROR_JSON), ("503", "tries again")),
    "platform no platform": Misconfiguration(_token_fault(TokenFault.BAD_REQUEST_HTML), ("400",)),
}  # fmt: skip


async def _diagnose(config: Path, path: str) -> list[Finding]:
    now = datetime.now(UTC)
    settings, findings = check_configuration(config, os.environ)
    assert settings is not None, findings
    findings += check_offline(settings, routed_hosts(settings), now)
    async for finding in check_online(settings, path, now):
        findings.append(finding)
    return findings


def _sentences(findings: list[Finding]) -> str:
    return "\n".join(f"{finding.level}: {finding.subject}: {finding.message} {finding.advice}" for finding in findings)


@pytest.mark.asyncio
@pytest.mark.parametrize("name", MISCONFIGURATIONS)
async def test_the_right_cause_is_named(name: str, sandbox: Sandbox, own_place: Place, tmp_path: Path) -> None:
    wrong = MISCONFIGURATIONS[name]
    config = write_configuration(wrong.arrange(sandbox, own_place), tmp_path)
    findings = await _diagnose(config, wrong.path)
    matching = [
        finding
        for finding in findings
        if all(part in f"{finding.message} {finding.advice}" for part in wrong.names) and finding.level is wrong.level
    ]
    assert matching, _sentences(findings)
    # Where there is an error, no other one leads the operator astray: they are all of one kind, one for each host.
    if wrong.level is Level.ERROR:
        errors = [finding for finding in findings if finding.level is Level.ERROR]
        assert errors == matching, _sentences(errors)
    assert own_place.subscription_key not in _sentences(findings)
    assert "eyJ" not in _sentences(findings)


@pytest.mark.asyncio
async def test_a_right_configuration_has_nothing_wrong_online(
    sandbox: Sandbox, own_place: Place, tmp_path: Path
) -> None:
    findings = await _diagnose(write_configuration(configuration(own_place), tmp_path), "/orders")
    assert {finding.level for finding in findings} == {Level.OK}, _sentences(findings)
    assert "roles Orders.Read" in _sentences(findings)
    assert f"accepts certificate {sandbox_thumbprint(sandbox)}" in _sentences(findings)
    assert sandbox.token_request_count == 1, "one token serves both hosts of the route"


def sandbox_thumbprint(sandbox: Sandbox) -> str:
    return register_certificate(sandbox.keys.client.certificate).sha1.hex().upper()


@pytest.mark.asyncio
async def test_one_credential_that_fails_does_not_hide_another(
    sandbox: Sandbox, own_place: Place, tmp_path: Path
) -> None:
    right = configuration(own_place)
    wrong = configuration(own_place, credential={"client_id": "99999999-9999-9999-9999-999999999999"})
    credentials = {"right": _only(right, "credentials"), "wrong": _only(wrong, "credentials")}
    routes = [
        {**_first_route(right), "hosts": [own_place.api_authority], "credential": "right"},
        {**_first_route(right), "hosts": [own_place.alias_host], "credential": "wrong"},
    ]
    config = write_configuration(right | {"credentials": credentials, "routes": routes}, tmp_path)
    findings = await _diagnose(config, "/")
    answered = [finding.subject for finding in findings if "the token was accepted" in finding.message]
    assert answered == [f"host {own_place.api_authority}, GET /"]
    assert [finding.subject for finding in findings if finding.level is Level.ERROR] == ["credential wrong"]
    assert sandbox.token_request_count == 2


def _only(settings: Configuration, section: str) -> object:
    value = settings[section]
    assert isinstance(value, dict)
    return next(iter(value.values()))


def _first_route(settings: Configuration) -> dict[str, object]:
    routes = settings["routes"]
    assert isinstance(routes, list)
    first: dict[str, object] = routes[0]
    return first


@pytest.mark.asyncio
async def test_the_command_says_it_as_json_and_exits_1(sandbox: Sandbox, own_place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(own_place, route={"set_headers": None}), tmp_path)
    done = await asyncio.to_thread(
        run_program, [COMMAND, "check", "--config", config, "--online", "--path", "/orders?top=1", "--json"]
    )
    report = json.loads(done.stdout)
    assert (done.status, report["ok"], report["errors"]) == (1, False, 2)
    causes = {finding["facts"].get("cause") for finding in report["findings"] if finding["level"] == "error"}
    assert causes == {"subscription_key_missing"}
    assert sandbox.refusals[-1].reason == "SubscriptionKeyNotFound"
    assert "Traceback" not in done.stderr


@pytest.mark.asyncio
async def test_the_command_exits_0_where_nothing_is_wrong(sandbox: Sandbox, own_place: Place, tmp_path: Path) -> None:
    config = write_configuration(configuration(own_place), tmp_path)
    done = await asyncio.to_thread(run_program, [COMMAND, "check", "--config", config, "--online"])
    assert done.status == 0, done.stdout
    assert done.stdout.count(b"the token was accepted") == 2
    assert done.stdout.count(b"It offers HTTP/1.1 and HTTP/2. The proxy uses HTTP/1.1, and HTTP/2 for gRPC calls.") == 2
    assert done.stderr == "Nothing is wrong.\n"
    assert sandbox.token_request_count == 1


@asynccontextmanager
async def _node(certificate: Path, *, allows_http1: bool) -> AsyncIterator[int]:
    """A server that refuses a handshake in which it is offered nothing that it speaks."""
    port = free_port()
    script = _HTTP2_SERVER % (str(certificate), json.dumps(allows_http1), port)
    server = await asyncio.create_subprocess_exec("node", "-e", script, stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        yield port
    finally:
        server.kill()
        await server.wait()


@asynccontextmanager
async def _choosing_nothing(certificate: Path, protocols: list[str]) -> AsyncIterator[int]:
    """A server that chooses no protocol in such a handshake, as those do that OpenSSL alone decides for; it answers HTTP/1.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    if protocols:
        context.set_alpn_protocols(protocols)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("server", "http2", "said", "numbers"),
    [
        pytest.param("node, both", "needed", "The proxy uses HTTP/1.1, and HTTP/2 for gRPC calls.", ["1.1", "2"]),
        pytest.param("node, both", "preferred", "The proxy uses HTTP/2, as the route says", ["1.1", "2"]),
        pytest.param("node, both", "off", "The proxy uses HTTP/1.1, as the route says", ["1.1", "2"]),
        pytest.param("node, HTTP/2", "needed", "It offers HTTP/2 only. The proxy uses that", ["2"]),
        pytest.param("node, HTTP/2", "off", "the route has `http2: off`", ["2"]),
        pytest.param("h2", "needed", "It offers HTTP/2 only. The proxy uses that", ["2"]),
        pytest.param("h2", "off", "the route has `http2: off`", ["2"]),
        pytest.param("", "needed", "It offers HTTP/1.1. The proxy uses that.", ["1.1"]),
        pytest.param("", "preferred", "although the route has `http2: preferred`", ["1.1"]),
        pytest.param("http/1.1", "off", "The proxy uses HTTP/1.1, as the route says", ["1.1"]),
    ],
)
async def test_the_versions_that_an_api_offers_are_said_and_one_of_http_2_alone_is_not_called_broken(
    sandbox: Sandbox, own_place: Place, tmp_path: Path, server: str, http2: str, said: str, numbers: list[str]
) -> None:
    assert sandbox is not None
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "api-ca.pem"))
    certificate = tmp_path / "api.pem"
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    kind, _, what = server.partition(", ")
    running = (
        _node(certificate, allows_http1=what == "both")
        if kind == "node"
        else _choosing_nothing(certificate, kind.split())
    )
    async with running as port:
        route = {"hosts": [f"localhost:{port}"], "ca_file": str(tmp_path / "api-ca.pem"), "http2": http2, "dial": None}
        config = write_configuration(
            configuration(own_place, route=route, listeners=[{"address": f"127.0.0.1:{free_port()}"}]), tmp_path
        )
        of_host = [one for one in await _diagnose(config, "/orders") if one.subject.startswith("host localhost")]
    (versions,) = [one for one in of_host if "http_versions" in one.facts]
    assert said in versions.message
    assert versions.facts["http_versions"] == numbers
    is_alone, is_off = numbers == ["2"], http2 == "off"
    assert (versions.level is Level.ERROR) is (is_alone and is_off)
    assert ("It was not called: it speaks HTTP/2 only" in _sentences(of_host)) is (is_alone and not is_off)
    assert any(one.level is Level.ERROR for one in of_host) is (is_alone and is_off), of_host


_HTTP2_SERVER = """
const pem = require("node:fs").readFileSync(%r);
const server = require("node:http2").createSecureServer({ key: pem, cert: pem, allowHTTP1: %s });
server.on("request", (request, response) => response.end("[]"));
server.listen(%d, "127.0.0.1", () => console.log("ready"));
"""
