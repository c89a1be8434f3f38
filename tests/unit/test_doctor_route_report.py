"""What would become of a request: every outcome with its reason, and field names without their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from proxy.config.loading import load_settings
from proxy.doctor.route_report import report_url
from proxy.errors import MalformedRequest

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.doctor.route_report import RouteReport

SETTINGS = {
    "listeners": [{"address": "127.0.0.1:8080"}],
    "credentials": {
        "entra": {"tenant_id": "contoso.example", "client_id": "c", "certificate": "c.pem"},
        "other": {"token_endpoint": "https://login.example/token", "client_id": "o", "certificate": "c.pem"},
    },
    "routes": [
        {"hosts": ["*.apis.example"], "credential": "entra", "scope": "api://all/.default"},
        {
            "hosts": ["orders.apis.example", "orders.apis.example:8443"],
            "credential": "other",
            "scope": "orders",
            "set_headers": {"X-Key": "secret-value"},
            "dial": "10.0.0.1:443",
        },
    ],
    "state_directory": "state",
}


def report(tmp_path: Path, url: str, **changes: object) -> RouteReport:
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(SETTINGS | changes), encoding="utf-8")
    return report_url(load_settings(config, {}, check_files=False), url)


def test_an_exact_host_beats_a_wildcard_and_the_report_says_which(tmp_path: Path) -> None:
    found = report(tmp_path, "https://orders.apis.example/x?y=1")
    assert (found.outcome, found.route, found.pattern) == ("routed", "routes[1]", "orders.apis.example")
    assert (found.credential, found.target, found.dial) == ("other", "orders", "10.0.0.1:443")
    assert found.token_endpoint == "https://login.example/token"
    assert found.fields == ("Authorization", "X-Key")
    assert "secret-value" not in repr(found)
    assert "must trust the proxy's CA" in found.way


def test_a_wildcard_is_named_as_such(tmp_path: Path) -> None:
    found = report(tmp_path, "https://a.b.apis.example/")
    assert (found.route, found.pattern, found.upstream) == ("routes[0]", "*.apis.example", "https://a.b.apis.example")
    assert "as *.apis.example" in found.why
    assert found.token_endpoint.endswith("/contoso.example/oauth2/v2.0/token")


@pytest.mark.parametrize(
    ("url", "upstream"),
    [
        ("http://orders.apis.example/", "https://orders.apis.example"),
        ("http://ORDERS.apis.example.:80/", "https://orders.apis.example"),
        ("http://orders.apis.example:8443/", "https://orders.apis.example:8443"),
    ],
)
def test_http_is_sent_on_as_https_and_needs_no_ca(tmp_path: Path, url: str, upstream: str) -> None:
    found = report(tmp_path, url)
    assert found.upstream == upstream
    assert "http is sent on as https" in found.why
    assert "needs no CA" in found.way
    assert "http://127.0.0.1:8080" in found.way


@pytest.mark.parametrize(
    "url", ["https://orders.apis.example:444/", "https://apis.example/", "http://elsewhere.example/"]
)
def test_what_no_route_names_is_refused_by_default(tmp_path: Path, url: str) -> None:
    found = report(tmp_path, url)
    assert (found.outcome, found.upstream, found.fields) == ("refused", "", ())
    assert "other_hosts" in found.why


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://orders.api.example/", "Did you mean orders.apis.example, which a route names?"),
        ("https://orders.apis.example:444/", "The port differs: a route names *.apis.example, orders.apis.example"),
        ("https://elsewhere.example/", "Add the host to a route"),
    ],
)
def test_what_is_nearly_routed_is_named(tmp_path: Path, url: str, said: str) -> None:
    assert said in report(tmp_path, url).why


def test_what_no_route_names_is_tunnelled_where_that_is_set_but_not_to_any_port(tmp_path: Path) -> None:
    assert report(tmp_path, "https://elsewhere.example/", other_hosts="tunnel").outcome == "tunnelled"
    refused = report(tmp_path, "https://elsewhere.example:22/", other_hosts="tunnel")
    assert (refused.outcome, "destinations.ports" in refused.why) == ("refused", True)


def test_a_reverse_listener_alone_is_said_to_be_one(tmp_path: Path) -> None:
    listener = {"address": "127.0.0.1:8081", "mode": "reverse", "upstream": "https://orders.apis.example"}
    assert "reverse listener" in report(tmp_path, "https://orders.apis.example/", listeners=[listener]).way


@pytest.mark.parametrize(
    "url", ["ftp://a.example/", "https://", "https://a b/", "https://[::1/", "https://u@a.example/"]
)
def test_what_is_no_url_of_ours_is_refused_in_words(tmp_path: Path, url: str) -> None:
    with pytest.raises(MalformedRequest) as refusal:
        report(tmp_path, url)
    assert refusal.value.detail.endswith(".")
