"""What a user sees when something is wrong: whose fault it is, in the status, in Proxy-Status, in words, and in the log."""

from __future__ import annotations

import json
import ssl
import urllib.request
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from proxy.sandbox import create_client_certificate
from tests.end_to_end.programs import ProxyProgram, configuration

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Configuration, Place

GUID = "99999999-9999-9999-9999-999999999999"


def check_problem(answer: Answer, status: int, error: str, *words: str) -> None:
    """Checks an answer in the proxy's own name: RFC 9457 problem details and RFC 9209 Proxy-Status."""
    assert answer.status == status, (answer.head, answer.content, answer.complaint)
    assert answer.problem["type"] == f"urn:apim-auth-proxy:{error}"
    assert answer.fields("Proxy-Status")[0].startswith(f"apim-auth-proxy; error={error};")
    for word in words:
        assert word in str(answer.problem["detail"])


# The client's mistakes.


def test_a_host_without_route_is_refused(curl: Curl, proxy: ProxyProgram) -> None:
    answer = curl("--proxy", proxy.forward, "http://unrouted.test/x?secret=1")
    check_problem(answer, 403, "http_request_denied", "unrouted.test", "hosts", "NO_PROXY")

    answer = curl("--proxy", proxy.forward, "https://unrouted.test/")
    assert (answer.exit_status, answer.report["http_connect"]) == (56, 403)
    assert proxy.wait_for_exchange(status=403, outcome="http_request_denied")


def test_a_request_for_the_proxy_itself_is_told_how_to_use_it(curl: Curl, proxy: ProxyProgram) -> None:
    check_problem(curl(f"{proxy.forward}/orders"), 400, "http_request_error", "HTTP_PROXY")


@pytest.mark.parametrize("host", ["elsewhere.example", "elsewhere.example:80", "localhost.elsewhere.example"])
def test_the_reverse_listener_refuses_the_name_of_another(host: str, curl: Curl, proxy: ProxyProgram) -> None:
    """A web page can make a browser send such a request (DNS rebinding)."""
    answer = curl("--header", f"Host: {host}", f"{proxy.reverse}/orders")
    check_problem(answer, 421, "http_request_error", f"server_names: [{host.partition(':')[0]}]")


def test_a_host_field_inside_a_tunnel_that_names_another_authority_is_refused(
    curl: Curl, proxy: ProxyProgram, place: Place
) -> None:
    through = ["--proxy", proxy.forward, "--cacert", str(proxy.ca_file), "--header", "Host: elsewhere.test"]
    check_problem(curl(*through, f"{place.api_url}/"), 421, "http_request_error")


def test_a_host_field_beside_an_absolute_form_target_makes_no_difference(
    curl: Curl, proxy: ProxyProgram, place: Place
) -> None:
    """C1: RFC 9112 §3.2.2. Some clients write the proxy's own name there."""
    answer = curl("--proxy", proxy.forward, "--header", "Host: elsewhere.test", f"http://{place.api_authority}/echo")
    assert answer.status == 200
    assert "elsewhere.test" not in answer.content.decode()


def test_a_server_name_that_is_not_the_tunnels_is_refused(curl: Curl, proxy: ProxyProgram, place: Place) -> None:
    """CONNECT names one routed host, SNI and Host another one."""
    switched = ["--connect-to", f"{place.alias_host}:443:{place.api_authority}", "--insecure"]
    answer = curl("--proxy", proxy.forward, *switched, f"{place.api_alias}/orders")

    assert answer.report["http_connect"] == 200
    check_problem(answer, 421, "http_request_error")


def test_a_client_that_does_not_trust_the_ca_finds_the_cause_in_the_log(
    curl: Curl, proxy: ProxyProgram, place: Place
) -> None:
    answer = curl("--proxy", proxy.forward, f"{place.api_url}/orders")

    assert answer.exit_status == 60, "curl's word for a certificate it does not trust"
    logged = proxy.wait_for_exchange(code="CLIENT_DISTRUSTS_CA", authority=place.api_authority)
    assert (logged["method"], logged["status"]) == ("CONNECT", None)


# The upstream's.


@pytest.fixture(scope="module")
def crooked(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    """A proxy whose routes lead to upstreams with something wrong, by name."""
    usual = configuration(place)
    (route,) = usual["routes"]  # type: ignore[misc]  # a list of one
    api = {"credential": route["credential"], "scope": route["scope"]}  # type: ignore[has-type]
    there, trust = {"dial": f"127.0.0.1:{place.port}"}, {"ca_file": place.ca_file}
    settings: Configuration = usual | {
        "routes": [
            route,  # type: ignore[has-type]
            {"hosts": ["closed.test"], "dial": "127.0.0.1:1", **api},
            {"hosts": ["nowhere.invalid"], **api},
            {"hosts": ["untrusted.test"], **there, **api},
            {"hosts": ["misnamed.test"], **there, **trust, **api},
        ],
        "timeouts": {"response_s": 0.5, "drain_s": 1},
    }
    with ProxyProgram(settings, tmp_path_factory.mktemp("crooked"), evidence, "crooked") as program:
        yield program


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ("closed.test", "destination_unavailable", ["127.0.0.1:1", "nothing listens"]),
        ("nowhere.invalid", "destination_unavailable", ["nowhere.invalid", "does not resolve"]),
        ("untrusted.test", "tls_certificate_error", ["ca_file", "No request was sent"]),
        ("misnamed.test", "tls_certificate_error", ["misnamed.test", "for other names", "DNS", "No request was sent"]),
    ],
)
def test_an_upstream_that_cannot_be_used_is_502(
    scheme: str, host: str, error: str, words: list[str], curl: Curl, crooked: ProxyProgram
) -> None:
    through = ["--proxy", crooked.forward, "--cacert", str(crooked.ca_file)]
    check_problem(curl(*through, f"{scheme}://{host}/orders"), 502, error, *words)
    assert crooked.wait_for_exchange(authority=f"{host}:443", status=502)["outcome"] == error


def test_an_upstream_that_is_too_slow_is_504(curl: Curl, crooked: ProxyProgram, place: Place) -> None:
    answer = curl("--proxy", crooked.forward, f"http://{place.api_authority}/slow/20")
    check_problem(answer, 504, "http_response_timeout", "timeouts.response_s")


# The identity platform's, which mostly are the operator's.


@pytest.fixture(scope="module")
def mistaken(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    """A proxy whose credentials and scopes have a mistake each; the host's name says which."""
    directory = tmp_path_factory.mktemp("mistaken")
    unregistered = create_client_certificate(datetime.now(UTC))
    certificate = directory / "unregistered.pem"
    certificate.touch(0o600)
    certificate.write_bytes(unregistered.certificate_pem + unregistered.private_key_pem)
    mistakes = {
        "certificate": ({"certificate": str(certificate)}, {}),
        "tenant": ({"tenant_id": GUID}, {}),
        "client": ({"client_id": GUID}, {}),
        "scope": ({}, {"scope": "api://nobody/.default"}),
    }
    settings = configuration(place)
    (credential,) = settings["credentials"].values()  # type: ignore[attr-defined]  # a mapping
    (route,) = settings["routes"]  # type: ignore[misc]  # a list of one
    settings["credentials"] = {name: credential | {"lazy": True} | keys for name, (keys, _) in mistakes.items()}
    settings["routes"] = [
        route | {"hosts": [f"{name}.test"], "credential": name} | keys  # type: ignore[has-type]
        for name, (_, keys) in mistakes.items()
    ]
    settings["listeners"] = [{"address": "127.0.0.1:0"}]
    with ProxyProgram(settings, directory, evidence, "mistaken") as program:
        yield program


@pytest.mark.parametrize(
    ("mistake", "code", "words"),
    [
        ("certificate", "AADSTS700027", ["certificate", "upload"]),
        ("tenant", "AADSTS90002", ["tenant_id"]),
        ("client", "AADSTS700016", ["client id"]),
        ("scope", "AADSTS500011", ["scope"]),
    ],
)
def test_a_refused_credential_is_502_with_code_cause_and_fix(
    mistake: str, code: str, words: list[str], curl: Curl, mistaken: ProxyProgram, place: Place
) -> None:
    path = f"/refused/{mistake}"
    answer = curl("--proxy", mistaken.forward, f"http://{mistake}.test{path}")
    check_problem(answer, 502, "proxy_configuration_error", *words)
    assert answer.problem["code"] == code
    assert code in answer.fields("Proxy-Status")[0]
    assert mistaken.wait_for_exchange(code=code, path=path)["status"] == 502

    trusting = ssl.create_default_context(cafile=place.ca_file)
    record_url = f"{place.authority}/sandbox/gateway-refusals"
    with urllib.request.urlopen(record_url, context=trusting) as record:  # noqa: S310 - an https URL
        reached = {refusal["path"] for refusal in json.load(record)["refusals"]}
    assert path not in reached, "without a token, nothing is sent"
