"""Each recipe of deploy/gateways, run for real: a token on every request, and no request without one, whatever the service does."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import jwt
import pytest
import trustme
from websockets.sync.client import connect

from tests.deploy.gateways import GIVES_UP_S, HOST, PATIENCE_S, Api, Gateway, Identity, running
from tests.end_to_end.programs import ProxyProgram
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.programs import Configuration

NAMES = ["nginx", "envoy", "haproxy", "caddy", "traefik"]
# That keep a token by the answer's Cache-Control.
CACHING = ["nginx", "haproxy"]
CLIENTS_OWN = {
    "Authorization": "Bearer the-clients-own",
    "X-Forwarded-Host": "elsewhere.example",
    "Cookie": "session=1",
}


class Stage:
    """A gateway with an API behind it and an identity service beside it."""

    def __init__(self, gateway: Gateway, api: Api, identity: Identity) -> None:
        self.gateway = gateway
        self.api = api
        self.identity = identity

    def ask(
        self,
        method: str = "GET",
        target: str = "/orders?page=2",
        body: bytes | None = None,
        patience_s: float = PATIENCE_S,
    ) -> tuple[int, dict[str, Any], http.client.HTTPMessage]:
        """Send a request with fields of the client's own; return status, content and fields. Status 0: no answer in time."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=patience_s)) as connection:
            try:
                connection.request(method, target, body, headers=CLIENTS_OWN)
                response = connection.getresponse()
                content = response.read()
            except TimeoutError:
                return 0, {}, http.client.HTTPMessage()
        is_json = response.getheader("Content-Type", "").startswith("application/json")
        return response.status, json.loads(content) if is_json else {}, response.headers


@pytest.fixture(scope="module", params=NAMES)
def whole_stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    scratch: Path = tmp_path_factory.mktemp(request.param)
    authority = trustme.CA()
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    api, identity = Api(authority), Identity()
    try:
        with running(
            request.param, scratch, identity=identity.served.port, api=api.served.port, ca_file=ca_file
        ) as gateway:
            yield Stage(gateway, api, identity)
    finally:
        api.served.end()
        identity.served.end()


@pytest.fixture
def stage(whole_stage: Stage) -> Stage:
    identity = whole_stage.identity
    identity.mode, identity.token, identity.cache_control = "token", "token-1", "max-age=0, stale-if-error=0"
    whole_stage.api.seen.clear()
    identity.asked.clear()
    return whole_stage


def test_a_request_gets_the_token_in_place_of_the_clients_own(stage: Stage) -> None:
    status, content, _ = stage.ask()
    assert status == 200, stage.gateway.log.read_text()[-2_000:]
    assert content == {"host": HOST, "length": 0, "target": "/orders?page=2"}
    assert stage.api.seen == [["Bearer token-1"]]
    (asked,) = stage.identity.asked
    assert "authorization" not in asked
    assert "cookie" not in asked
    assert HOST in (asked.get("x-forwarded-host"), asked["host"])
    assert asked.get("x-forwarded-host", HOST) == HOST, "not what the client said"


def test_a_new_token_is_used_at_once_where_none_is_kept(stage: Stage) -> None:
    stage.ask()
    stage.identity.token = "token-2"  # of a test
    stage.ask()
    assert stage.api.seen == [["Bearer token-1"], ["Bearer token-2"]]


def test_a_megabyte_is_posted(stage: Stage) -> None:
    status, content, _ = stage.ask("POST", "/orders", b"x" * 1_000_000)
    assert status == 200, stage.gateway.log.read_text()[-2_000:]
    assert content["length"] == 1_000_000
    assert stage.api.seen == [["Bearer token-1"]]


def test_a_websocket_passes(stage: Stage) -> None:
    fields = {"Authorization": "Bearer the-clients-own"}
    with connect(f"ws://127.0.0.1:{stage.gateway.port}/socket", additional_headers=fields, proxy=None) as channel:
        channel.send("hello")
        assert channel.recv(PATIENCE_S) == "echo hello"
    assert stage.api.seen == [["Bearer token-1"]]


def test_a_token_of_sixteen_kilobytes_arrives_whole(stage: Stage) -> None:
    stage.identity.token = "t" * 16_384
    for method, body in (("GET", None), ("POST", b"x" * 100_000)):
        status, _, _ = stage.ask(method, "/orders", body)
        assert status == 200, stage.gateway.log.read_text()[-2_000:]
    assert stage.api.seen == [[f"Bearer {'t' * 16_384}"]] * 2


@pytest.mark.parametrize("mode", ["503", "403", "bare", "hang", "gone"])
def test_without_a_token_nothing_reaches_the_api(stage: Stage, mode: str) -> None:
    stage.identity.mode = mode
    if mode == "gone":
        stage.identity.served.close()
    try:
        is_endless = (
            mode == "hang" and stage.gateway.name == "traefik"
        )  # it has no time limit here: the client's ends it
        for method, body in (("GET", None), ("POST", b"x" * 100_000))[: 1 if mode == "hang" else 2]:
            status, _, fields = stage.ask(method, "/orders", body, 2 * GIVES_UP_S if is_endless else PATIENCE_S)
            assert status >= 400 or is_endless, fields.items()
    finally:
        if mode == "gone":
            stage.identity.served.open()
    assert stage.api.seen == []
    stage.identity.mode = "token"
    assert stage.ask()[0] == 200, "it goes on as soon as there is a token again"


def test_what_is_kept_bridges_an_outage_and_ends_with_the_token(stage: Stage) -> None:
    if stage.gateway.name not in CACHING:
        stage.identity.cache_control = "max-age=60, stale-if-error=60"
        stage.ask()
        stage.ask()
        assert len(stage.identity.asked) == 2, "nothing is kept here, so nothing outlives the service"
        return
    stage.identity.token, stage.identity.cache_control = "kept", "max-age=3, stale-if-error=3"
    assert stage.ask()[0] == 200
    began = time.monotonic()
    assert stage.ask()[0] == 200
    assert len(stage.identity.asked) == 1
    stage.identity.mode = "503"
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        asked_after_s = time.monotonic() - began
        if stage.ask()[0] != 200:
            break
        assert asked_after_s < 7, "an expired token was sent"  # seconds are counted whole
        assert time.monotonic() < give_up_at
        time.sleep(0.1)
    assert len(stage.identity.asked) > 1, "it was asked again when the token was stale"
    assert set(map(tuple, stage.api.seen)) == {("Bearer kept",)}
    assert time.monotonic() - began > 3, "the outage was not bridged"
    stage.identity.mode, stage.identity.cache_control = "token", "max-age=0, stale-if-error=0"
    assert stage.ask()[0] == 200


def test_every_gateway_gets_its_token_from_a_real_proxy(sandbox: dict[str, Any], tmp_path: Path) -> None:
    port = free_port()
    settings: Configuration = {
        "listeners": [{"address": f"127.0.0.1:{port}", "mode": "identity", "authorize": True}],
        "credentials": {
            "orders-client": {
                "tenant_id": sandbox["tenant_id"],
                "client_id": sandbox["client_id"],
                "certificate": str(sandbox["directory"] / "clientapp.pem"),
                "authority": sandbox["authority"],
                "ca_file": sandbox["ca_file"],
            }
        },
        "routes": [{"hosts": [HOST], "credential": "orders-client", "scope": sandbox["scope"]}],
        "admin": {"address": "127.0.0.1:0"},
        "state_directory": "state",
    }
    authority = trustme.CA()
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    api = Api(authority)
    try:
        with ProxyProgram(settings, tmp_path / "proxy", tmp_path, "proxy") as proxy:
            for name in NAMES:
                (tmp_path / name).mkdir()
                with running(name, tmp_path / name, identity=port, api=api.served.port, ca_file=ca_file) as gateway:
                    api.seen.clear()
                    status, _, _ = Stage(gateway, api, Identity()).ask(
                        "POST", "/orders?host=elsewhere.example", b"x" * 10_000
                    )
                    assert status == 200, (name, proxy.lines[-5:])
                    ((field,),) = api.seen
                    scheme, token = field.split(" ")
                    assert scheme == "Bearer"
                    assert jwt.decode(token, options={"verify_signature": False})["azp"] == sandbox["client_id"]
    finally:
        api.served.end()
