"""One credential that fails harms its own routes only, and the proxy says which, since when and why: through the real command."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
import urllib.error
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox import TokenEndpointFault, TokenFault, create_client_certificate
from tests.end_to_end.leaks import learn_key
from tests.end_to_end.programs import COMMAND, PATIENCE_S, configuration, run_program, write_configuration

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.sandbox import Sandbox
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Configuration, Place, ProxyProgram

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

THROTTLED_ID = "77777777-7777-7777-7777-777777777777"
UNKNOWN_ID = "88888888-8888-8888-8888-888888888888"
GOOD = "orders-client"
# What a client of each credential that fails is told.
BAD = {
    "expired": (502, "certificate_expired"),
    "not-yet-valid": (502, "certificate_not_yet_valid"),
    "refused": (502, "AADSTS700016"),
    "throttled": (503, "too_many_requests"),
}


def write_pair(file: Path, begins_in: timedelta) -> Path:
    """Writes a certificate of a year with its key, and returns the file."""
    pair = create_client_certificate(datetime.now(UTC) + begins_in)
    learn_key(file.name, pair.private_key_pem.decode("ascii"))
    file.touch(0o600)
    file.write_bytes(pair.certificate_pem + pair.private_key_pem)
    return file


@dataclass
class Stage:
    """A sandbox, and one credential that works beside four that do not."""

    place: Place
    sandbox: Sandbox
    start_proxy: StartProxy
    curl: Curl
    expired: Path
    not_yet_valid: Path

    def configuration(self, *, good_lazy: bool = False, bad_lazy: bool = False, workers: int = 1) -> Configuration:
        settings: Configuration = configuration(self.place, workers=workers, timeouts={"drain_s": 5, "token_s": 10})
        credentials, routes = settings["credentials"], settings["routes"]
        assert isinstance(credentials, dict)
        assert isinstance(routes, list)
        credentials[GOOD]["lazy"] = good_lazy
        changes: dict[str, dict[str, object]] = {
            "expired": {"certificate": str(self.expired)},
            "not-yet-valid": {"certificate": str(self.not_yet_valid)},
            "refused": {"client_id": UNKNOWN_ID},
            "throttled": {"client_id": THROTTLED_ID},
        }
        for name, change in changes.items():
            credentials[name] = {**credentials[GOOD], **change, "lazy": bad_lazy}
            routes.append({**routes[0], "hosts": [f"{name}.example:{self.place.port}"], "credential": name})
        return settings

    async def start(self, settings: Configuration) -> ProxyProgram:
        return await asyncio.to_thread(self.start_proxy, settings)

    async def ask(self, proxy: ProxyProgram, name: str = GOOD) -> Answer:
        """Calls the API with one of the credentials."""
        authority = self.place.api_authority if name == GOOD else f"{name}.example:{self.place.port}"
        return await asyncio.to_thread(self.curl, "--proxy", proxy.forward, f"http://{authority}/bytes/1")

    def asked_by(self, client_id: str) -> int:
        """Returns how many token requests of a client there were."""
        return sum(("client_id", client_id) in request.form for request in self.sandbox.token_requests)


@pytest.fixture(scope="session")
def out_of_date(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair that has expired, and one that is not valid yet."""
    directory = tmp_path_factory.mktemp("out-of-date")
    expired = write_pair(directory / "expired.pem", -timedelta(days=800))
    return expired, write_pair(directory / "not-yet-valid.pem", timedelta(days=30))


@pytest.fixture
def stage(
    own_place: Place, sandbox: Sandbox, start_proxy: StartProxy, curl: Curl, out_of_date: tuple[Path, Path]
) -> Stage:
    """The stage, with one client throttled."""
    known = sandbox.tenant.client(sandbox.client_id)
    assert known is not None
    sandbox.tenant.register_client(replace(known, client_id=THROTTLED_ID))
    sandbox.faults.token_endpoint = TokenEndpointFault(
        TokenFault.TOO_MANY_REQUESTS, retry_after="600", client_id=THROTTLED_ID
    )
    return Stage(own_place, sandbox, start_proxy, curl, *out_of_date)


async def readiness(proxy: ProxyProgram) -> tuple[int, list[str]]:
    """Returns what /readyz answers: its status and its reasons."""
    try:
        content, status = await asyncio.to_thread(proxy.ask_admin, "/readyz"), 200
    except urllib.error.HTTPError as error:
        with error:
            content, status = error.read(), error.code
    return status, json.loads(content).get("reasons", [])


async def wait_for_readiness(proxy: ProxyProgram, status: int, named: int) -> list[str]:
    """Waits until /readyz has a status and names so many; returns its reasons."""
    give_up_at = time.monotonic() + PATIENCE_S
    while True:
        found, reasons = await readiness(proxy)
        if (found, len(reasons)) == (status, named):
            return reasons
        assert time.monotonic() < give_up_at, (found, reasons)
        await asyncio.sleep(0.05)


# Each two of the three properties in every combination.
@pytest.mark.parametrize(
    ("workers", "good_lazy", "bad_lazy"),
    [(1, False, False), (1, True, True), (2, False, True), (2, True, False)],
    ids=["one_process", "one_process_all_lazy", "workers_bad_ones_lazy", "workers_good_one_lazy"],
)
async def test_the_other_route_is_served_throughout(
    workers: int, good_lazy: bool, bad_lazy: bool, stage: Stage
) -> None:
    """A2, A4, A5, A9: an expired certificate, one that is not valid yet, a refused and a throttled client beside a good one."""
    proxy = await stage.start(stage.configuration(workers=workers, good_lazy=good_lazy, bad_lazy=bad_lazy))
    # Out-of-date certificates are known; a lazy credential that nobody has asked is not known to fail.
    await wait_for_readiness(proxy, 200, 2 if bad_lazy else 4)
    if good_lazy:
        assert stage.asked_by(stage.place.client_id) == 0, "A9: a lazy token was asked for before any client came"
    if bad_lazy:
        assert stage.asked_by(UNKNOWN_ID) == 0, "A9: likewise"

    for name, (status, code) in BAD.items():
        assert (await stage.ask(proxy)).status == 200
        refused = await stage.ask(proxy, name)
        assert (refused.status, refused.problem["code"]) == (status, code)
        if code.startswith("certificate"):
            assert f"{name}.pem: the certificate" in str(refused.problem["detail"])
            assert refused.problem["title"] == "The certificate of the proxy's credential is out of date"
    assert (await stage.ask(proxy)).status == 200

    reasons = await wait_for_readiness(proxy, 200, 4)
    assert all(any(f"(credential {name}, " in reason for reason in reasons) for name in BAD)
    metrics = (await asyncio.to_thread(proxy.ask_admin, "/metrics")).decode()
    for name, (_, code) in BAD.items():
        assert f'_credential_failing_seconds{{code="{code}",credential="{name}",' in metrics
    assert f'_credential_failing_seconds{{code="",credential="{GOOD}"' not in metrics
    state = json.loads(await asyncio.to_thread(proxy.ask_admin, "/api/state"))
    assert (state["ready"], len(state["missing"])) == (True, 4)
    for name in ("expired", "not-yet-valid"):
        proxy.wait_for_line(f"credential {name}: none of its certificates can be used")


async def test_a_lazy_token_is_not_asked_for_while_another_is_renewed(stage: Stage) -> None:
    """A9: relay processes look for new tokens four times a second, and looking is not asking."""
    stage.sandbox.faults.clear()
    stage.sandbox.faults.token_lifetime_s = 2
    settings = stage.configuration(workers=2)
    credentials = settings["credentials"]
    assert isinstance(credentials, dict)
    credentials["throttled"]["lazy"] = True
    proxy = await stage.start(settings)
    give_up_at = time.monotonic() + PATIENCE_S
    while stage.asked_by(stage.place.client_id) < 3:  # so seconds have passed
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.05)

    assert stage.asked_by(THROTTLED_ID) == 0
    assert (await stage.ask(proxy)).status == 200


async def test_a_reload_is_taken_up_although_a_certificate_has_expired(stage: Stage) -> None:
    """A2: the configuration is not at fault."""
    settings = stage.configuration()
    proxy = await stage.start(settings)
    routes = settings["routes"]
    assert isinstance(routes, list)
    routes[0]["hosts"].append("added.example")

    await asyncio.to_thread(write_configuration, settings, proxy.config_file.parent)

    await asyncio.to_thread(proxy.wait_for_line, "apim-auth-proxy: reloaded")
    assert (await stage.ask(proxy)).status == 200


async def test_a_listener_whose_certificate_has_expired_is_named_and_the_others_serve(stage: Stage) -> None:
    """A2: its clients refuse it, unless they were told not to; nobody else notices."""
    tls = {"certificate": str(stage.expired)}
    settings = configuration(
        stage.place, listeners=[{"address": "127.0.0.1:0"}, {"address": "localhost:0", "mode": "forward", "tls": tls}]
    )
    proxy = await stage.start(settings)

    assert (await stage.ask(proxy)).status == 200
    await asyncio.to_thread(proxy.wait_for_line, "listener localhost:0: the certificate expired on")
    metrics = (await asyncio.to_thread(proxy.ask_admin, "/metrics")).decode()
    assert '_certificate_expiry_timestamp_seconds{kind="listener",name="localhost:0",proof=""}' in metrics


async def test_the_only_credential_may_have_expired_and_is_replaced_without_a_restart(
    stage: Stage, tmp_path: Path
) -> None:
    """A2: it starts, is not ready, says why; `check` is strict."""
    mine = tmp_path / "mine.pem"
    shutil.copy(stage.expired, mine)
    settings = configuration(stage.place, credential={"certificate": str(mine)})
    proxy = await stage.start(settings)

    reasons = await wait_for_readiness(proxy, 503, 1)
    assert "mine.pem: the certificate expired on" in reasons[0]
    assert (await stage.ask(proxy)).problem["code"] == "certificate_expired"
    checked = await asyncio.to_thread(run_program, [COMMAND, "check", "--config", proxy.config_file])
    assert checked.status == 1
    assert b"mine.pem: the certificate expired on" in checked.stdout

    fresh = tmp_path / "fresh.pem"
    shutil.copy(stage.place.certificate, fresh)
    fresh.replace(mine)
    await wait_for_readiness(proxy, 200, 0)
    assert (await stage.ask(proxy)).status == 200


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_total_outage_is_not_ready_once_the_last_token_has_expired(workers: int, stage: Stage) -> None:
    """F7: /readyz, the page's first line and the metrics say since when and why."""
    stage.sandbox.faults.clear()
    stage.sandbox.faults.token_lifetime_s = 4
    settings = configuration(stage.place, workers=workers, timeouts={"drain_s": 5, "token_s": 1})
    proxy = await stage.start(settings)
    await wait_for_readiness(proxy, 200, 0)
    await stage.sandbox.close_identity_platform()

    reasons = await wait_for_readiness(proxy, 503, 1)

    assert f"(credential {GOOD}, {stage.place.scope}) since " in reasons[0]
    assert "cannot be reached" in reasons[0]
    assert (await stage.ask(proxy)).status == 503
    state = json.loads(await asyncio.to_thread(proxy.ask_admin, "/api/state"))
    assert not state["ready"]
    assert "since " in state["missing"][0]
    metrics = (await asyncio.to_thread(proxy.ask_admin, "/metrics")).decode()
    assert "apim_auth_proxy_ready 0.0" in metrics
    assert f'_credential_failing_seconds{{code="connection_failed",credential="{GOOD}",' in metrics

    await stage.sandbox.open_identity_platform()
    await wait_for_readiness(proxy, 200, 0)
