"""What becomes of a request for a token while it waits: the configuration changes, the token ends, nothing comes."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, cast

import pytest

from proxy.config.settings import ListenerMode, ListenerSettings, TimeoutSettings
from proxy.errors import IdentityPlatformUnavailable
from proxy.http_server import Request
from proxy.identity.access_token import create_access_token
from proxy.relay.accepted_connection import AcceptedConnection
from proxy.relay.head import parse_request_head
from proxy.token_service.handout import Handout
from proxy.token_service.offers import Offer

if TYPE_CHECKING:
    from proxy.http_server import Response
    from proxy.identity.access_token import AccessToken
    from proxy.relay.record import ExchangeRecord

pytestmark = pytest.mark.asyncio


class Source:
    """A token source whose token comes when a test says so."""

    def __init__(self) -> None:
        self.token: asyncio.Future[AccessToken] = asyncio.get_running_loop().create_future()
        self.is_asked = asyncio.Event()

    def peek(self, _now_mono: float) -> AccessToken | None:
        return None

    async def acquire(self) -> AccessToken:
        self.is_asked.set()
        return await self.token


class Offers:
    def __init__(self, source: Source) -> None:
        self.offer = Offer("api.example.com", "c", "id", cast("Any", source), "api://orders")

    def for_host(self, _authority: object) -> Offer:
        return self.offer

    def names(self, _host: str) -> bool:
        return False


ASKED = b"GET /authorize?host=api.example.com HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Stage:
    def __init__(self, token_s: float = 20) -> None:
        self.source = Source()
        self.records: list[ExchangeRecord] = []
        self.handout = Handout(
            ListenerSettings(address="127.0.0.1:8090", mode=ListenerMode.IDENTITY, authorize=True),
            ("127.0.0.1", 8090),
            offers=cast("Any", Offers(self.source)),
            admission=None,
            secret="",
            timeouts=TimeoutSettings(token_s=token_s),
            observe=self.records.append,
            counts={},
        )

    def ask(self) -> asyncio.Task[Response | None]:
        accepted = AcceptedConnection(cast("Any", None), "127.0.0.1")
        request = Request(parse_request_head(ASKED, target_bytes=100, field_count=1), cast("Any", None))
        return asyncio.create_task(self.handout.answer(request, accepted, None))

    async def answer_to(self, asked: asyncio.Task[Response | None]) -> Response:
        answer = await asked
        assert answer is not None
        return answer

    def give(self, life_s: float) -> None:
        now = time.monotonic()
        token = create_access_token("t", requested_at_mono=now, expires_in_s=60, refresh_in_s=None, jitter=0)
        if life_s < 0:
            token = create_access_token("t", requested_at_mono=now - 61, expires_in_s=60, refresh_in_s=None, jitter=0)
        self.source.token.set_result(token)


async def test_a_token_that_comes_is_handed_out() -> None:
    stage = Stage()
    asked = stage.ask()
    await stage.source.is_asked.wait()
    stage.give(60)
    answer = await stage.answer_to(asked)
    assert (answer.status, answer.fields["Authorization"]) == (200, "Bearer t")
    assert (stage.records[0].outcome, stage.records[0].credential) == ("ok", "c")


async def test_a_token_that_has_ended_by_the_time_it_comes_is_not_handed_out() -> None:
    stage = Stage()
    asked = stage.ask()
    await stage.source.is_asked.wait()
    stage.give(-1)
    answer = await stage.answer_to(asked)
    assert answer.status == 503
    assert "Authorization" not in answer.fields
    assert stage.records[0].code == "expired_on_arrival"
    assert stage.records[0].token_age_s is None


@pytest.mark.parametrize("gives", [True, False])
async def test_a_configuration_that_another_has_replaced_leaves_the_answer_to_that(gives: bool) -> None:
    stage = Stage()
    asked = stage.ask()
    await stage.source.is_asked.wait()
    stage.handout.is_retired = True
    if gives:
        stage.give(60)
    else:
        stage.source.token.set_exception(IdentityPlatformUnavailable("Its key is gone."))
    assert await asked is None
    assert stage.records == []


async def test_a_listener_that_is_gone_hands_out_nothing() -> None:
    stage = Stage()
    asked = stage.ask()
    await stage.source.is_asked.wait()
    stage.handout.is_closed = True
    stage.give(60)
    answer = await stage.answer_to(asked)
    assert (answer.status, answer.fields.get("Retry-After")) == (503, "1")
    assert "Authorization" not in answer.fields
    assert stage.records[0].code == "reloaded"


async def test_nobody_waits_for_a_token_for_ever() -> None:
    stage = Stage(token_s=0.01)
    answer = await stage.answer_to(stage.ask())
    assert (answer.status, answer.fields["Retry-After"]) == (503, "5")


@pytest.mark.logs_own_fault
async def test_a_fault_of_our_own_is_a_500_without_its_text() -> None:
    stage = Stage()
    stage.source.token.set_exception(RuntimeError("a secret"))
    answer = await stage.answer_to(stage.ask())
    assert answer.status == 500
    assert b"a secret" not in answer.content
    assert stage.records[0].outcome == "proxy_internal_error"
