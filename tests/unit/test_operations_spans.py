"""Exchanges as spans: names and attributes of the semantic conventions, times, and what is an error for whom."""

from __future__ import annotations

from typing import Final

import pytest

from proxy.operations.spans import Kind, Span, describe_exchange
from proxy.relay.record import ExchangeRecord, TraceNote

SENT: Final = TraceNote(b"", b"", sent_after_s=0.25, sends=1, credential="orders-client")
DONE: Final = ExchangeRecord(
    ended_at=1_000.0,
    client="127.0.0.1",
    mode="forward",
    method=b"GET",
    authority="contoso.azure-api.net:443",
    target=b"/orders/7",
    status=200,
    received_bytes=3,
    sent_bytes=9,
    duration_s=1.0,
    upstream_s=0.5,
    route="contoso.azure-api.net",
    token_age_s=2.0,
    reused=True,
    outcome="ok",
    code="",
    client_name="batch",
    credential="orders-client",
    trace=SENT,
    http_version="2",
    upstream_http_version="1.1",
)


def spans(**changes: object) -> tuple[Span, ...]:
    return describe_exchange(DONE._replace(**changes))  # type: ignore[arg-type]  # each as the field has it


def test_an_exchange_is_a_server_span_with_a_client_span_inside() -> None:
    server, client = spans()
    assert (server.name, server.kind, server.failed) == ("GET", Kind.SERVER, False)
    assert (server.start_ns, server.end_ns) == (999_000_000_000, 1_000_000_000_000)
    assert server.attributes == {
        "http.request.method": "GET",
        "server.address": "contoso.azure-api.net",
        "server.port": 443,
        "client.address": "127.0.0.1",
        "url.path": "/orders/7",
        "url.scheme": "https",
        "network.protocol.version": "2",
        "http.request.body.size": 3,
        "http.response.body.size": 9,
        "http.response.status_code": 200,
        "apim_auth_proxy.mode": "forward",
        "apim_auth_proxy.outcome": "ok",
        "apim_auth_proxy.route": "contoso.azure-api.net",
        "apim_auth_proxy.credential": "orders-client",
        "apim_auth_proxy.client": "batch",
    }
    assert (client.name, client.kind, client.failed) == ("GET", Kind.CLIENT, False)
    assert (client.start_ns, client.end_ns) == (999_250_000_000, 1_000_000_000_000)
    assert client.attributes == {
        "http.request.method": "GET",
        "server.address": "contoso.azure-api.net",
        "server.port": 443,
        "url.full": "https://contoso.azure-api.net:443/orders/7",
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
    }


def test_a_wait_for_a_token_is_a_span_of_its_own() -> None:
    _, wait, _ = spans(trace=SENT._replace(token_wait=(0.05, 0.15)))
    assert (wait.name, wait.kind, wait.failed) == ("access token", Kind.INTERNAL, False)
    assert (wait.start_ns, wait.end_ns) == (999_050_000_000, 999_200_000_000)
    assert wait.attributes == {"apim_auth_proxy.credential": "orders-client"}


def test_a_wait_in_vain_is_an_error_with_its_code() -> None:
    note = TraceNote(b"", b"", token_wait=(0.0, 0.9), credential="orders-client")
    server, wait = spans(
        status=502, outcome="proxy_configuration_error", code="AADSTS700027", credential="", upstream_s=None, trace=note
    )
    assert server.failed
    assert server.attributes["error.type"] == "proxy_configuration_error"
    assert server.attributes["apim_auth_proxy.code"] == "AADSTS700027"
    assert wait.failed
    assert wait.attributes == {"apim_auth_proxy.credential": "orders-client", "error.type": "AADSTS700027"}


@pytest.mark.parametrize(
    ("status", "outcome", "server_error", "client_error"),
    [
        pytest.param(204, "ok", None, None, id="success"),
        pytest.param(404, "ok", None, "404", id="the API's 4xx is an error for who asked it only"),
        pytest.param(503, "ok", "503", "503", id="the API's 5xx"),
        pytest.param(504, "http_response_timeout", "http_response_timeout", "http_response_timeout", id="our own"),
        pytest.param(200, "aborted_upstream", "aborted_upstream", "aborted_upstream", id="cut"),
        pytest.param(0, "aborted_client", "aborted_client", "aborted_client", id="the client left first"),
    ],
)
def test_errors_are_whose_they_are(
    status: int, outcome: str, server_error: str | None, client_error: str | None
) -> None:
    server, client = spans(status=status, outcome=outcome)
    assert (server.attributes.get("error.type"), server.failed) == (server_error, server_error is not None)
    assert (client.attributes.get("error.type"), client.failed) == (client_error, client_error is not None)


def test_a_refusal_is_no_failure_of_the_server_but_says_what_it_is() -> None:
    (server,) = spans(status=403, outcome="http_request_denied", route="", trace=None)
    assert not server.failed
    assert server.attributes["error.type"] == "http_request_denied"


def test_the_status_of_our_own_answer_is_not_said_to_be_the_upstreams() -> None:
    server, client = spans(status=504, outcome="http_response_timeout")
    assert server.attributes["http.response.status_code"] == 504
    assert "http.response.status_code" not in client.attributes


def test_a_request_sent_again_says_how_often() -> None:
    assert spans(trace=SENT._replace(sends=3))[1].attributes["http.request.resend_count"] == 2


def test_methods_that_clients_make_up_are_one_name() -> None:
    (server, client) = spans(method=b"BREW\xff")
    assert (server.name, client.name) == ("HTTP", "HTTP")
    assert server.attributes["http.request.method"] == "_OTHER"
    assert server.attributes["http.request.method_original"] == "BREW\\xFF"


@pytest.mark.parametrize(
    ("authority", "address", "port"),
    [("[::1]:8443", "::1", 8443), ("a.example:80", "a.example", 80), ("", None, None)],
)
def test_an_authority_is_an_address_and_a_port(authority: str, address: str | None, port: int | None) -> None:
    attributes = spans(authority=authority)[0].attributes
    assert (attributes.get("server.address"), attributes.get("server.port")) == (address, port)


def test_a_tunnel_is_one_span() -> None:
    (server,) = spans(mode="tunnel", method=b"CONNECT", target=b"", route="-", trace=None)
    assert server.name == "CONNECT"
    assert "url.path" not in server.attributes
    assert "url.scheme" not in server.attributes
