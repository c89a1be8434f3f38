"""curl and httpx over HTTP/2 through the real command: where they insist on it, and where they only offer it."""

from __future__ import annotations

import json
import ssl
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.end_to_end.programs import configuration, environment, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.programs import Place, ProxyProgram

SAYS = "\n%{http_version} %{response_code}"


def curl(*arguments: object) -> tuple[str, str]:
    """Content, and version with status."""
    done = run_program(["curl", "-sS", "--max-time", "50", "-w", SAYS, *map(str, arguments)], environ=environment())
    assert done.status == 0, done.stderr
    content, _, said = done.stdout.decode().rpartition("\n")
    return content, said


def test_curl_insists_on_http_2_at_a_reverse_listener(proxy: ProxyProgram) -> None:
    content, said = curl("--http2-prior-knowledge", f"{proxy.reverse}/orders")
    assert said == "2 200"
    assert json.loads(content)


def test_curl_insists_on_http_2_inside_a_tunnel_and_gets_http_1_where_it_only_offers_it(
    proxy: ProxyProgram, place: Place
) -> None:
    usual = ("--proxytunnel", "--proxy", proxy.forward)
    in_clear = f"http://{place.api_authority}/orders"
    assert curl("--http2-prior-knowledge", *usual, in_clear)[1] == "2 200"
    assert curl("--http2", *usual, "--cacert", proxy.ca_file, f"{place.api_url}/orders")[1] == "1.1 200"


def test_curl_sends_content_and_gets_an_error_in_words(proxy: ProxyProgram, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(b"a" * 1_000_000)
    upload = ("--data-binary", f"@{tmp_path / 'content'}")
    content, said = curl("--http2-prior-knowledge", *upload, f"{proxy.reverse}/orders")
    assert said == "2 200", content
    content, said = curl("--http2-prior-knowledge", "-H", "Host: other.example", f"{proxy.reverse}/orders")
    assert said == "2 421"
    assert "server_names" in content


def test_an_upgrade_to_h2c_is_answered_in_http_1(proxy: ProxyProgram) -> None:
    assert curl("--http2", f"{proxy.reverse}/orders")[1] == "1.1 200"


@pytest.mark.parametrize("http1", [True, False])
def test_httpx_is_served_in_the_version_it_needs(proxy: ProxyProgram, place: Place, http1: bool) -> None:
    context = ssl.create_default_context(cafile=str(proxy.ca_file))
    with httpx.Client(http1=http1, http2=True, proxy=proxy.forward, verify=context, trust_env=False) as client:
        for _ in range(5):
            response = client.get(f"{place.api_url}/orders")
            assert response.status_code == 200
            assert response.http_version == ("HTTP/1.1" if http1 else "HTTP/2")


def test_a_listener_without_http_2_says_so(place: Place, start_proxy: StartProxy) -> None:
    described = configuration(place)
    described["listeners"] = [{"address": "127.0.0.1:0", "mode": "reverse", "upstream": place.api_url, "http2": "off"}]
    proxy = start_proxy(described)
    command = ["curl", "-sS", "--http2-prior-knowledge", f"{proxy.reverse}/orders"]
    assert run_program(command, environ=environment()).status != 0
    assert proxy.wait_for_exchange(code="http2")["status"] == 400
