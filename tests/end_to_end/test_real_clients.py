"""Programs in Python, Node and Java get through the proxy what they get directly with a token of their own.

Each runs as a process that makes the same calls twice: with a token, straight to the API; and without, with nothing but
the variables of a proxy and a CA set.
"""

from __future__ import annotations

import base64
import json
import random
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import ROOT, environment, run_program

if TYPE_CHECKING:
    from tests.end_to_end.programs import Place, ProxyProgram

KEY = "Ocp-Apim-Subscription-Key"
# Java compiles its program first, and npm asks a registry.
MUCH_PATIENCE_S = 120.0
UNDICI = "undici@6.29.1"
CLIENTS = Path(__file__).with_name("clients")
PYTHON = [sys.executable, "-m", "tests.end_to_end.clients.python_client"]
NODE = ["node", str(CLIENTS / "node_client.mjs")]
# A short program: what makes it start quickly is worth more than what would make it fast.
JAVA = ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(CLIENTS / "JavaClient.java")]

PROGRAMS = {
    "requests": [*PYTHON, "requests"],
    "httpx": [*PYTHON, "httpx"],
    "aiohttp": [*PYTHON, "aiohttp"],
    "urllib": [*PYTHON, "urllib"],
    "Node http": [*NODE, "http"],
    "Node fetch": [*NODE, "fetch"],
    "Node undici": [*NODE, "undici"],
    "Java HttpClient": JAVA,
}

CALLS = (
    ("GET", "/bytes/70000", b""),
    ("GET", "/chunked/70000", b""),
    ("GET", "/fields?Set-Cookie=a%3D1&Set-Cookie=b%3D2&X-Lower=1&Link=%3C/a%3E&Link=%3C/b%3E", b""),
    ("GET", "/status/404?reason=Gone%20Fishing", b""),
    ("GET", "/status/204", b""),
    ("GET", "/status/401", b""),
    ("HEAD", "/bytes/1000", b""),
    ("DELETE", "/status/200", b""),
    ("POST", "/echo", b"a small body"),
    ("PUT", "/echo", random.Random(11).randbytes(1_000_000)),
    ("GET", "/redirect?to=/bytes/5", b""),
)
SEEN = ("POST", "/orders?x=%20&x=1", b"what the API sees")


@dataclass(frozen=True, slots=True)
class Received:
    """One response, as the client's library tells it."""

    status: int
    reason: str
    fields: tuple[tuple[str, str], ...]
    content: bytes


def run_client(
    name: str, origins: list[str], variables: dict[str, str], fields: dict[str, str]
) -> list[list[Received]]:
    """Returns what a client received from each origin, for each of the calls and for the one that shows what was sent."""
    extra = [part for field in fields.items() for part in field]
    lines = [
        "\t".join((method, origin + path, base64.b64encode(content).decode("ascii"), *extra))
        for origin in origins
        for method, path, content in (*CALLS, SEEN)
    ]
    done = run_program(
        PROGRAMS[name],
        stdin="".join(f"{line}\n" for line in lines).encode(),
        environ=environment(**variables),
        directory=ROOT,
        patience_s=MUCH_PATIENCE_S,
    )
    assert done.status == 0, done.stderr
    received = [
        Received(status, reason, tuple((name, value) for name, value in fields), base64.b64decode(content))
        for status, reason, fields, content in map(json.loads, done.stdout.splitlines())
    ]
    count = len(CALLS) + 1
    assert len(received) == count * len(origins)
    return [received[start : start + count] for start in range(0, len(received), count)]


def trusting(ca_file: str | Path) -> dict[str, str]:
    """Returns the variables by which the clients learn of a CA."""
    return dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"), str(ca_file))


def unchanging(received: Received) -> Received:
    """Returns a response without Date, and without what its address put into it."""
    kept = tuple(field for field in received.fields if field[0].lower() != "date")
    return Received(received.status, received.reason, kept, received.content)


def seen_by_api(received: Received) -> tuple[dict[str, object], list[str]]:
    """Returns what reached the API, and the names of the fields that the proxy takes care of.

    Two fields are left out: Connection, which speaks of one connection where there are now two (RFC 9110 §7.6.1), and
    Accept-Encoding, which Node's fetch chooses by the URL's scheme.
    """
    assert received.status == 200, received
    report = json.loads(received.content)
    ours = {"authorization", KEY.lower()}
    names = sorted(name.lower() for name, _ in report["fields"] if name.lower() in ours)
    apart = {*ours, "connection", "accept-encoding"}
    report["fields"] = sorted([name, value] for name, value in report["fields"] if name.lower() not in apart)
    report["token"] = report["token"]["present"]
    return report, names


@pytest.fixture
def undici_directory(request: pytest.FixtureRequest) -> str:
    """Where npm has put undici."""
    return str(install_packages(request.config, [UNDICI]))


@pytest.fixture
def variables(name: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """What this client needs, whatever it does."""
    program = PROGRAMS[name][0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed here")
    return {"UNDICI_DIRECTORY": request.getfixturevalue("undici_directory")} if name == "Node undici" else {}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_without_oauth_gets_what_one_with_a_token_gets(
    name: str, variables: dict[str, str], place: Place, proxy: ProxyProgram, access_token: str
) -> None:
    with_token = {"Authorization": f"Bearer {access_token}", KEY: place.subscription_key}
    (direct,) = run_client(name, [place.api_url], variables | trusting(place.ca_file), with_token)
    through = variables | trusting(proxy.ca_file) | {"HTTP_PROXY": proxy.forward, "HTTPS_PROXY": proxy.forward}
    origins = [f"http://{place.api_authority}", place.api_url]

    for received in run_client(name, origins, through, {}):
        assert [*map(unchanging, received[:-1])] == [*map(unchanging, direct[:-1])]
        report, names = seen_by_api(received[-1])
        assert (report, names) == seen_by_api(direct[-1])
        assert names == ["authorization", KEY.lower()]
    assert [each.status for each in direct[:10]] == [200, 200, 200, 404, 204, 401, 200, 200, 200, 200]
