"""No secret is in anything that users, operators or their monitoring see. Runs last in its process, over all printed before.

Searched are the output of every proxy and sandbox of the session, their metrics and pages, and every answer in the proxy's own
name. With this file alone, its own traffic is all there is. What other test processes of the run saw, they search at their end.
"""

from __future__ import annotations

import base64
import json
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.end_to_end.conftest import OWN_SUBSCRIPTION_KEY
from tests.end_to_end.leaks import KNOWN, find_secrets, search_everything
from tests.end_to_end.programs import PATIENCE_S, SAID
from tests.end_to_end.test_other_authorization_server import ACCESS_TOKEN as OPAQUE_TOKEN

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.sandbox import SandboxKeys
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.leaks import Secrets
    from tests.end_to_end.programs import Place, ProxyProgram

# What the clients of this file send, and what must not be in a log either.
SENT = {
    "the client's Authorization": "sent-in-authorization-7f3a",
    "a cookie": "sent-in-a-cookie-9c1d",
    "the query": "sent-in-the-query-5b2e",
    "the content": "sent-in-the-content-4d8f",
    "the password for the proxy": "sent-in-proxy-authorization-2a6b",
}


@pytest.fixture
def known(place: Place, proxy: ProxyProgram, access_token: str, sandbox_keys: SandboxKeys) -> Secrets:  # noqa: ARG001
    """Every secret of the session, by what it is: these fixtures add theirs, where no earlier test wanted them."""
    password = base64.b64encode(f"me:{SENT['the password for the proxy']}".encode()).decode("ascii")
    keys = (" of ca.key", " of the session's client key", " of the tests' own client key")
    assert all(any(what.endswith(key) for what in KNOWN) for key in keys), "the keys have been read"
    assert {"a subscription key", "an access token's signature"} <= KNOWN.keys()
    assert KNOWN["an opaque access token"] == OPAQUE_TOKEN
    return KNOWN | SENT | {"an encoded password": password}


def open_text(path: str) -> str:
    with open(path, encoding="ascii") as file:  # noqa: PTH123 - a path as text
        return file.read()


def test_a_search_finds_what_is_there(known: Secrets, access_token: str, place: Place) -> None:
    for what, secret in known.items():
        assert what in find_secrets(f"before {secret} behind", known)
    header, claims, signature = access_token.split(".")
    assert "a JWT" in find_secrets(f'{{"token":"{header}.{claims}"}}', known)
    assert "a JWT" in find_secrets(f"Bearer {claims}", known)
    assert "an access token's signature" in find_secrets(signature, known)
    assert "a PEM private key" in find_secrets(open_text(place.certificate), known)
    assert find_secrets("nothing", known) == []


def test_the_search_at_the_sessions_end_finds_what_is_there(tmp_path: Path, access_token: str) -> None:
    (tmp_path / "proxy-0.stderr").write_text(f"one\n{access_token}\n")
    before = len(SAID)
    SAID.append(("check", f"the key is {OWN_SUBSCRIPTION_KEY}"))
    try:
        found = search_everything(tmp_path, {"a subscription key": OWN_SUBSCRIPTION_KEY})
    finally:
        del SAID[before:]
    assert found == {
        f"{tmp_path.name}/proxy-0.stderr": ["a JWT"],
        f"apim-auth-proxy check, {before}": ["a subscription key"],
    }


def test_nothing_that_was_printed_holds_a_secret(
    known: Secrets, evidence: Path, place: Place, proxy: ProxyProgram, curl: Curl
) -> None:
    query = f"?key={SENT['the query']}"
    fields = ["--header", f"Cookie: c={SENT['a cookie']}", "--oauth2-bearer", SENT["the client's Authorization"]]
    arguments = [*fields, "--proxy-user", f"me:{SENT['the password for the proxy']}", "--data", SENT["the content"]]
    through = ["--proxy", proxy.forward, "--cacert", str(proxy.ca_file)]
    for url in (f"http://{place.api_authority}", place.api_url):
        assert curl(*through, *arguments, f"{url}/secrets{query}").status == 200
    assert curl(*arguments, f"{proxy.reverse}/secrets{query}").status == 200
    assert curl(*through, *arguments, f"http://unrouted.test/secrets{query}").status == 403
    assert curl(*through, *arguments, "--header", "Host: other.test", f"{place.api_url}/secrets{query}").status == 421
    malformed = send_malformed(proxy, "\r\n".join((*(f"X: {secret}" for secret in SENT.values()), " folded: ")))
    assert malformed.startswith(b"HTTP/1.1 400")
    proxy.wait_for_exchange(path="/secrets", mode="reverse", status=200)

    seen = {path.name: path.read_text("utf-8", "replace") for path in evidence.iterdir()}
    pages = ("/", "/livez", "/readyz", "/startupz", "/metrics", "/api/state")
    seen |= {f"admin {page}": proxy.ask_admin(page).decode() for page in pages}
    seen["a malformed request's answer"] = malformed.decode("latin-1")
    assert '"path":"/secrets"' in seen["proxy.stderr"]
    assert "secrets" not in seen["admin /metrics"], "a path is no label"
    assert json.loads(seen["admin /api/state"])

    assert {name: found for name, text in seen.items() if (found := find_secrets(text, known))} == {}


def send_malformed(proxy: ProxyProgram, lines: str) -> bytes:
    """Sends a request whose head is refused; returns the answer."""
    address = urlsplit(proxy.forward)
    with socket.create_connection((address.hostname, address.port or 0), PATIENCE_S) as connection:
        connection.sendall(f"GET http://localhost/secrets?{SENT['the query']} HTTP/1.1\r\n{lines}\r\n\r\n".encode())
        return connection.makefile("rb").read()
