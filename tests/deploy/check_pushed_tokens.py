"""Each recipe of deploy/gateways for a token that is kept up to date in a file, run for real, with the product's own writer."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest
import trustme
from websockets.sync.client import connect

from proxy.config.settings import TokenFileFormat, TokenFileSettings
from proxy.identity.access_token import create_access_token
from proxy.token_service.token_files import TokenFile
from tests.deploy.check_gateways import Stage
from tests.deploy.gateways import HOST, PATIENCE_S, Api, Identity, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from proxy.identity.access_token import AccessToken

FILES = {
    "envoy": (TokenFileFormat.ENVOY_SDS, "orders.yaml"),
    "haproxy": (TokenFileFormat.HAPROXY_MAP, "orders.map"),
    "caddy": (TokenFileFormat.CADDY, "orders"),
    "nginx": (TokenFileFormat.CADDY, "orders"),
    "traefik": (TokenFileFormat.TRAEFIK, "pushed/orders.yaml"),
}


class Source:
    """A token source that has what a test says."""

    def __init__(self) -> None:
        self.token: AccessToken | None = None

    def peek(self, _now_mono: float) -> AccessToken | None:
        return self.token

    def statistics(self) -> Source:
        return self

    failure_detail = "a test"


class Pushed(Stage):
    """A gateway with an API behind it and a token file beside it."""

    def push(self, value: str | None, life_s: float = 600.0) -> None:
        """Have the product write a token that may be sent for so long, or take it away."""
        source, now = self.source, time.monotonic()
        # A token is put on no request in the last tenth of its life, or the last five seconds.
        life_s = life_s / 0.9 if life_s < 45 else life_s + 5
        source.token = (
            None
            if value is None
            else create_access_token(value, requested_at_mono=now, expires_in_s=life_s, refresh_in_s=None, jitter=0)
        )
        asyncio.run(self.file.look(now))
        assert self.file.failures == 0

    def until(self, found: Callable[[], bool]) -> None:
        """Ask until something holds: gateways take up a file a moment later."""
        give_up_at = time.monotonic() + PATIENCE_S
        while not found():
            assert time.monotonic() < give_up_at, self.gateway.log.read_text()[-2_000:]
            time.sleep(0.05)

    def is_refused(self) -> bool:
        return self.ask()[0] >= 400

    source: Source
    file: TokenFile


@pytest.fixture(scope="module", params=FILES)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pushed]:
    name: str = request.param
    scratch: Path = tmp_path_factory.mktemp(name)
    kind, path = FILES[name]
    settings = TokenFileSettings(
        path=scratch / path,
        format=kind,
        credential="c",
        haproxy_socket=scratch / "admin.sock" if kind is TokenFileFormat.HAPROXY_MAP else None,
    )
    source = Source()
    file = TokenFile(settings, source)  # type: ignore[arg-type]  # what is asked of a source
    file.path.parent.mkdir(exist_ok=True)
    authority = trustme.CA()
    ca_file = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    api = Api(authority)
    # As it is when the proxy has started a while ago and has no token yet; HAProxy was not there to be told.
    asyncio.run(file.look(time.monotonic() - 60))
    file.failures = 0
    try:
        with running(name, scratch, api=api.served.port, ca_file=ca_file, is_pushed=True) as gateway:
            stage = Pushed(gateway, api, Identity())
            stage.source, stage.file = source, file
            yield stage
    finally:
        api.served.end()


def test_a_pushed_token_is_used_replaced_and_refused_when_it_has_ended(stage: Pushed) -> None:
    api = stage.api
    assert stage.is_refused(), "there is no token yet"
    stage.push("token-1")
    stage.until(lambda: not stage.is_refused())
    status, content, _ = stage.ask("POST", "/orders", b"x" * 1_000_000)
    assert (status, content["length"], content["host"]) == (200, 1_000_000, HOST)
    assert set(map(tuple, api.seen)) == {("Bearer token-1",)}

    api.seen.clear()
    fields = {"Authorization": "Bearer the-clients-own"}
    with connect(f"ws://127.0.0.1:{stage.gateway.port}/socket", additional_headers=fields, proxy=None) as channel:
        channel.send("hello")
        assert channel.recv(PATIENCE_S) == "echo hello"
    assert api.seen == [["Bearer token-1"]]

    big = "t" * 16_384
    stage.push(big)
    stage.until(lambda: stage.ask()[0] == 200 and api.seen[-1] == [f"Bearer {big}"])

    # Nobody renews it: the file stays as it is.
    stage.push("token-2", life_s=3)
    ends_at = time.time() + 3
    stage.until(lambda: stage.is_refused() or api.seen[-1] == ["Bearer token-2"])
    if stage.gateway.name == "traefik":
        # It looks at the clock when it reads its files, which it does when any of them changes, or when it starts.
        while time.time() <= ends_at + 1:
            time.sleep(0.1)
        (stage.file.path.parent / "another.yaml").write_text("# Nothing.\n")
        stage.until(stage.is_refused)
    else:
        while True:
            asked_at = time.time()
            if stage.is_refused():
                break
            assert asked_at < ends_at + 1, "an ended token was sent"  # seconds are counted whole
    api.seen.clear()
    assert stage.is_refused()
    assert api.seen == []

    stage.push("token-3")
    stage.until(lambda: stage.ask()[0] == 200 and api.seen[-1] == ["Bearer token-3"])
    stage.push(None)
    stage.until(stage.is_refused)
    api.seen.clear()
    assert stage.is_refused()
    assert api.seen == []


def test_a_haproxy_that_starts_later_has_the_token_from_the_file(tmp_path: Path) -> None:
    """Its map is empty after a start but for what the file has."""
    settings = TokenFileSettings(
        path=tmp_path / "orders.map",
        format=TokenFileFormat.HAPROXY_MAP,
        credential="c",
        haproxy_socket=tmp_path / "admin.sock",
    )
    source = Source()
    source.token = create_access_token(
        "token-1", requested_at_mono=time.monotonic(), expires_in_s=600, refresh_in_s=None, jitter=0
    )
    file = TokenFile(settings, source)  # type: ignore[arg-type]  # what is asked of a source
    asyncio.run(file.look(time.monotonic()))
    assert file.failures == 1, "there is no HAProxy to be told"
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    api = Api(authority)
    try:
        with running("haproxy", tmp_path, api=api.served.port, ca_file=tmp_path / "ca.pem", is_pushed=True) as gateway:
            assert Stage(gateway, api, Identity()).ask()[0] == 200
            asyncio.run(file.take_away())
            assert Stage(gateway, api, Identity()).ask()[0] == 503
    finally:
        api.served.end()
    assert api.seen == [["Bearer token-1"]]
