"""The token endpoint for local programs: real SDKs get tokens by `exec --token-endpoint` alone, and nobody else does."""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from tests.end_to_end.chromium import PROGRAM, browser_tab
from tests.end_to_end.leaks import KNOWN
from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import (
    COMMAND,
    ProxyProgram,
    configuration,
    environment,
    run_program,
    write_configuration,
)
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Finished, Place

AZURE_IDENTITY = """
import sys
from azure.identity import {name}
print({name}({arguments}).get_token(sys.argv[1]).token)
"""
MSAL = """
import sys, msal, requests
client = msal.ManagedIdentityClient(msal.{identity}, http_client=requests.Session())
print(client.acquire_token_for_client(resource=sys.argv[1].removesuffix('/.default'))['access_token'])
"""
NODE = """
const { ManagedIdentityCredential } = require('@azure/identity');
new ManagedIdentityCredential().getToken(process.argv[2]).then((found) => console.log(found.token));
"""
PYTHON_PROGRAMS = {
    "azure-identity": AZURE_IDENTITY.format(name="ManagedIdentityCredential", arguments=""),
    "azure-identity, by client id": AZURE_IDENTITY.format(
        name="ManagedIdentityCredential", arguments="client_id=sys.argv[2]"
    ),
    "azure-identity, default": AZURE_IDENTITY.format(name="DefaultAzureCredential", arguments=""),
    "msal": MSAL.format(identity="SystemAssignedManagedIdentity()"),
    "msal, by client id": MSAL.format(identity="UserAssignedManagedIdentity(client_id=sys.argv[2])"),
}
# What HTTP_PROXY is in our users' environments, and what without NO_PROXY would get the request and the secret.
ELSEWHERE = "http://127.0.0.1:9"


def claims(token: str) -> dict[str, Any]:
    assert re.fullmatch(r"[\w.-]+", token), token
    KNOWN[f"a token handed out {len(KNOWN)}"] = token.rpartition(".")[2]
    middle = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    return found


class Endpoint:
    """A running proxy with a token endpoint.

    Attributes:
        proxy: the proxy.
        place: its sandbox.
        url, secret: as programs find them in their environment.
    """

    def __init__(self, proxy: ProxyProgram, place: Place) -> None:
        self.proxy = proxy
        self.place = place
        shown = self.run("-c", "import os; print(os.environ['IDENTITY_ENDPOINT'], os.environ['IDENTITY_HEADER'])")
        self.url, self.secret = shown.stdout.decode().split()
        KNOWN[f"a token endpoint's secret {len(KNOWN)}"] = self.secret

    def run(self, *arguments: str) -> Finished:
        """Run Python under `exec --token-endpoint`, in an environment with a proxy."""
        return self.run_command(sys.executable, *arguments)

    def run_command(self, *command: str) -> Finished:
        environ = environment(HTTP_PROXY=ELSEWHERE, http_proxy=ELSEWHERE, HTTPS_PROXY=ELSEWHERE, https_proxy=ELSEWHERE)
        arguments: list[str | Path] = [
            COMMAND,
            "exec",
            "--config",
            self.proxy.config_file,
            "--token-endpoint",
            "--",
            *command,
        ]
        done = run_program(arguments, environ=environ)
        assert done.status == 0, done.stderr
        return done

    @property
    def resource(self) -> str:
        return self.place.scope.removesuffix("/.default")

    def query(self, **changes: str | None) -> str:
        wanted = {"api-version": "2019-08-01", "resource": self.resource, **changes}
        return "?" + "&".join(f"{name}={value}" for name, value in wanted.items() if value is not None)


@pytest.fixture(scope="module")
def endpoint(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[Endpoint]:
    port, other = free_port(), free_port()
    settings = configuration(
        place,
        listeners=[
            {"address": f"127.0.0.1:{other}"},
            {"address": f"127.0.0.1:{port}", "mode": "identity", "token_endpoint": True},
        ],
    )
    with ProxyProgram(settings, tmp_path_factory.mktemp("endpoint"), evidence, "endpoint") as proxy:
        yield Endpoint(proxy, place)


@pytest.mark.parametrize("name", PYTHON_PROGRAMS)
def test_unmodified_python_sdks_get_a_token_by_exec_alone(endpoint: Endpoint, name: str) -> None:
    done = endpoint.run("-c", PYTHON_PROGRAMS[name], endpoint.place.scope, endpoint.place.client_id)
    found = claims(done.stdout.decode().strip())
    assert found["azp"] == endpoint.place.client_id
    assert found["exp"] > time.time()


def test_unmodified_azure_identity_for_node_gets_a_token_by_exec_alone(
    endpoint: Endpoint, pytestconfig: pytest.Config
) -> None:
    directory = install_packages(pytestconfig, ["@azure/identity@4.13.0"])
    script = directory / "token.cjs"
    script.write_text(NODE, encoding="utf-8")
    done = endpoint.run_command("node", str(script), endpoint.place.scope)
    assert claims(done.stdout.decode().strip())["azp"] == endpoint.place.client_id


def test_the_answer_is_app_services_own(endpoint: Endpoint, curl: Curl) -> None:
    answer = curl("--header", f"X-IDENTITY-HEADER: {endpoint.secret}", endpoint.url + endpoint.query())
    assert answer.status == 200
    assert answer.fields("Content-Type") == ["application/json"]
    assert answer.fields("Cache-Control") == ["no-store"]
    found = json.loads(answer.content)
    expires = claims(found.pop("access_token"))["exp"]
    assert isinstance(found["expires_on"], str)
    # Before the token itself ends: what a program keeps by this is not refused by a gateway whose clock is a little ahead.
    assert time.time() < int(found["expires_on"]) <= expires
    assert abs(int(found["expires_on"]) - time.time() - found["expires_in"]) < 60
    assert (found["token_type"], found["resource"], found["client_id"]) == (
        "Bearer",
        endpoint.resource,
        endpoint.place.client_id,
    )
    line = endpoint.proxy.wait_for_exchange(
        mode="identity", status=200, path="/token", route=endpoint.place.api_authority
    )
    assert line["token_age_s"] is not None
    assert b'apim_auth_proxy_identity_answers_total{endpoint="token"' in endpoint.proxy.ask_admin("/metrics")


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param({"secret": None}, 401, "identity_header", id="no secret"),
        pytest.param({"secret": "0" * 64}, 401, "identity_header", id="a wrong secret"),
        pytest.param({"secret": ""}, 401, "identity_header", id="an empty secret"),
        pytest.param({"secret": "twice"}, 401, "identity_header", id="two secrets"),
        pytest.param({"method": "POST"}, 405, "method_not_allowed", id="POST"),
        pytest.param({"method": "HEAD"}, 405, "method_not_allowed", id="HEAD"),
        pytest.param({"field": "X-Forwarded-For: 10.0.0.1"}, 403, "not_direct", id="X-Forwarded-For"),
        pytest.param({"field": "Forwarded: for=10.0.0.1"}, 403, "not_direct", id="Forwarded"),
        pytest.param({"field": "Via: 1.1 a"}, 403, "not_direct", id="Via"),
        pytest.param({"field": "Origin: http://localhost:3000"}, 403, "not_direct", id="Origin"),
        pytest.param({"field": "Sec-Fetch-Site: none"}, 403, "not_direct", id="Sec-Fetch-Site"),
        pytest.param({"field": "Host: localhost"}, 403, "foreign_host", id="Host without the port"),
        pytest.param({"field": "Host: evil.example"}, 403, "foreign_host", id="a name that was rebound"),
        pytest.param({"field": "Host: 127.0.0.1:1"}, 403, "foreign_host", id="another port"),
        pytest.param(
            {"query": {"resource": "api://somebody-elses"}}, 400, "unknown_resource", id="no route's resource"
        ),
        pytest.param({"query": {"resource": None}}, 400, "no_resource", id="no resource"),
        pytest.param({"query": {"client_id": "somebody"}}, 400, "unknown_resource", id="another client id"),
        pytest.param({"query": {"mi_res_id": "x"}}, 400, "unknown_parameter", id="an identity by another id"),
        pytest.param({"query": {"api-version": "2017-09-01"}}, 400, "api_version", id="an earlier version"),
        pytest.param({"query": {"api-version": None}}, 400, "api_version", id="no version"),
    ],
)
def test_each_guard_refuses_in_the_protocols_own_form(
    endpoint: Endpoint, curl: Curl, change: dict[str, Any], status: int, code: str
) -> None:
    secret = change.get("secret", endpoint.secret)
    fields = [] if secret is None else ["--header", f"X-IDENTITY-HEADER: {secret}" if secret else "X-IDENTITY-HEADER;"]
    if secret == "twice":
        fields = ["--header", f"X-IDENTITY-HEADER: {endpoint.secret}", "--header", "X-IDENTITY-HEADER: x"]
    method = change.get("method", "GET")
    how = ["--head"] if method == "HEAD" else ["--request", method]
    more = ["--header", change["field"]] if "field" in change else []
    answer = curl(*fields, *how, *more, endpoint.url + endpoint.query(**change.get("query", {})))
    assert answer.status == status, answer.content
    assert answer.fields("Proxy-Status")
    assert not answer.fields("Authorization")
    assert answer.fields("Allow") == (["GET"] if status == 405 else [])
    if method != "HEAD":
        found = json.loads(answer.content)
        assert (found["statusCode"], found["error"]) == (status, code)
        assert found["message"].startswith("apim-auth-proxy: ")
        assert endpoint.secret not in answer.content.decode()
        assert "access_token" not in found
    line = endpoint.proxy.wait_for_exchange(mode="identity", status=status, code=code)
    assert line["token_age_s"] is None


def test_a_wrong_secret_is_told_nothing_about_why(endpoint: Endpoint, curl: Curl) -> None:
    near = endpoint.secret[:-1] + ("0" if endpoint.secret[-1] != "0" else "1")
    answers = {
        curl("--header", f"X-IDENTITY-HEADER: {secret}", endpoint.url + endpoint.query()).content
        for secret in ("x", near, endpoint.secret + "0", endpoint.secret.upper())
    }
    assert len(answers) == 1


def test_the_secret_is_in_a_file_of_the_proxys_user_alone_and_another_one_at_each_start(
    place: Place, start_proxy: StartProxy
) -> None:
    port = free_port()
    settings = configuration(
        place, listeners=[{"address": f"127.0.0.1:{port}", "mode": "identity", "token_endpoint": True}]
    )
    first = start_proxy(settings)
    (file,) = (first.config_file.parent / "state").glob("identity-header-*.json")
    assert file.stat().st_mode & 0o777 == 0o600
    before = json.loads(file.read_text())
    # Without any forward listener, too: then the program gets no proxy, and no CA.
    show = "import os; print(os.environ['IDENTITY_ENDPOINT'], 'HTTPS_PROXY' in os.environ)"
    arguments: list[str | Path] = [
        COMMAND,
        "exec",
        "--config",
        first.config_file,
        "--token-endpoint",
        "--",
        sys.executable,
        "-c",
        show,
    ]
    assert run_program(arguments).stdout.decode().split() == [f"http://127.0.0.1:{port}/token", "False"]
    # A second proxy of the same configuration does not start, and takes nothing from the first.
    again = run_program([COMMAND, "run", "--config", first.config_file])
    assert again.status != 0
    assert json.loads(file.read_text()) == before
    assert first.stop() == 0
    assert not file.exists()
    gone = run_program(arguments)
    assert gone.status == 1
    assert "No proxy listens" in gone.stderr
    second = start_proxy(settings)
    (file,) = (second.config_file.parent / "state").glob("identity-header-*.json")
    after = json.loads(file.read_text())
    assert before["secret"] != after["secret"]
    assert len(bytes.fromhex(after["secret"])) == 32
    KNOWN.update({"a secret of before": before["secret"], "a secret of after": after["secret"]})


def test_without_such_a_listener_exec_says_what_to_add(proxy: ProxyProgram) -> None:
    done = run_program([COMMAND, "exec", "--config", proxy.config_file, "--token-endpoint", "--", "true"])
    assert done.status == 1
    assert "token_endpoint: true" in done.stderr


def test_exec_can_start_the_proxy_it_asks(place: Place, tmp_path: Path) -> None:
    settings = configuration(
        place,
        listeners=[
            {"address": f"127.0.0.1:{free_port()}"},
            {"address": f"127.0.0.1:{free_port()}", "mode": "identity", "token_endpoint": True},
        ],
        admin=None,
    )
    file = write_configuration(settings, tmp_path)
    arguments: list[str | Path] = [COMMAND, "exec", "--config", file, "--start", "--token-endpoint", "--"]
    done = run_program([*arguments, sys.executable, "-c", PYTHON_PROGRAMS["azure-identity"], place.scope])
    assert claims(done.stdout.decode().strip())["azp"] == place.client_id, done.stderr


def test_a_program_gets_the_tokens_of_its_clients_routes_alone(
    place: Place, start_proxy: StartProxy, curl: Curl
) -> None:
    routes = configuration(place)["routes"]
    assert isinstance(routes, list)
    own = {**routes[0], "hosts": [place.api_authority]}
    others = {**routes[0], "hosts": [place.alias_host], "scope": "api://others/.default"}
    port = free_port()
    proxy = start_proxy(
        configuration(
            place,
            credential={"lazy": True},
            listeners=[{"address": f"127.0.0.1:{port}", "mode": "identity", "token_endpoint": True}],
            routes=[own, others],
            clients=[{"name": "here", "networks": ["127.0.0.0/8"], "routes": [place.api_authority]}],
        )
    )
    (file,) = (proxy.config_file.parent / "state").glob("identity-header-*.json")
    header = json.loads(file.read_text())
    KNOWN["a secret of clients"] = header["secret"]
    ask = ["--header", f"X-IDENTITY-HEADER: {header['secret']}"]
    url = f"{header['endpoint']}?api-version=2019-08-01&resource="
    assert curl(*ask, url + place.scope.removesuffix("/.default")).status == 200
    refused = curl(*ask, f"{url}api://others")
    assert (refused.status, json.loads(refused.content)["error"]) == (400, "unknown_resource")
    assert "api://others" not in json.loads(refused.content)["message"].replace("A route's `scope`", "")


# Every means by which a page can send something, without leave and with it, from its own origin and under a name of its own.
SEND = """Promise.all([
  fetch('%(url)s', {mode: 'no-cors'}).then(r => r.text()).catch(e => ''),
  fetch('%(url)s', {headers: {'X-IDENTITY-HEADER': '%(secret)s'}}).then(r => r.text()).catch(e => ''),
  fetch('%(url)s', {credentials: 'include'}).then(r => r.text()).catch(e => ''),
  new Promise(done => { const image = new Image(); image.onerror = image.onload = () => done(''); image.src = '%(url)s'; }),
  new Promise(done => { const s = document.createElement('script'); s.onerror = s.onload = () => done('');
                        s.src = '%(url)s'; document.head.append(s); }),
]).then(found => found.join(''))"""


@pytest.mark.asyncio
@pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed")
async def test_a_web_page_gets_nothing_although_it_knows_the_secret(endpoint: Endpoint) -> None:
    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>page</title>", content_type="text/html")

    application = web.Application()
    application.router.add_get("/", page)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    known = {"url": endpoint.url + endpoint.query(), "secret": endpoint.secret}
    try:
        async with browser_tab() as tab:
            await tab.open(f"http://127.0.0.1:{runner.addresses[0][1]}/")
            await tab.until("document.title === 'page'")
            assert await tab.evaluate(SEND % known) == ""
            # Typed into the address bar, and then from the endpoint's own origin, where nothing keeps a page from reading answers.
            await tab.open(endpoint.url + endpoint.query())
            await tab.until("document.body && document.body.innerText.includes('apim-auth-proxy')")
            read = await tab.evaluate(SEND % known)
            assert "statusCode" in read
            assert "access_token" not in read
    finally:
        await runner.cleanup()
    statuses = {line["status"] for line in endpoint.proxy.exchanges if line["client"] and line["path"] == "/token"}
    assert statuses >= {403}
