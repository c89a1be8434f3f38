"""curl gets through the proxy, byte for byte, what it gets directly with a token of its own."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import pytest

from tests.end_to_end.programs import environment, run_program

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.curl import Answer, Curl
    from tests.end_to_end.programs import Place, ProxyProgram

BIG_BYTES = 3_000_000
FIELDS = "Set-Cookie=a%3D1&Set-Cookie=b%3D2&x-lower=1&X-Empty=&Link=%3C/a%3E&Link=%3C/b%3E"


@dataclass(frozen=True, slots=True)
class Case:
    """One request: arguments for curl, and the path with its query. ``{big}`` and ``{gzip}`` stand for files."""

    path: str
    arguments: tuple[str, ...] = ()
    stdin: bytes = b""


CASES = {
    "length": Case("/bytes/200000"),
    "empty": Case("/bytes/0"),
    "chunked": Case("/chunked/200000"),
    "events": Case("/sse?count=3&interval=0.01", ("--no-buffer",)),
    "fields": Case(f"/fields?{FIELDS}"),
    "not found": Case("/status/404"),
    "own reason": Case("/status/500?reason=Quite%20Broken"),
    "no content": Case("/status/204"),
    "not modified": Case("/status/304"),
    "an API's own 401": Case("/status/401"),
    "unknown operation": Case("/no-such-operation"),
    "HEAD": Case("/bytes/1000", ("--head",)),
    "DELETE": Case("/echo", ("--request", "DELETE")),
    "range": Case("/bytes/100", ("--range", "0-9")),
    "redirect": Case("/redirect?to=/bytes/5"),
    "redirect followed": Case("/redirect?to=/bytes/5", ("--location",)),
    "form": Case("/echo", ("--data", "name=value&other=%20")),
    "big body": Case("/echo", ("--data-binary", "@{big}")),
    "big body without 100-continue": Case("/echo", ("--data-binary", "@{big}", "--header", "Expect:")),
    "upload": Case("/echo", ("--upload-file", "{big}")),
    "chunked upload": Case("/echo", ("--upload-file", "-"), random.Random(7).randbytes(300_000)),
    "compressed": Case("/echo", ("--compressed", "--header", "Content-Encoding: gzip", "--data-binary", "@{gzip}")),
    "target": Case("/echo/%2e%2e//a;b=c?q=%00&r=a+b&&", ("--path-as-is",)),
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way through the proxy: curl's arguments, variables, and what stands before the path."""

    origin: str
    arguments: tuple[str, ...] = ()
    environ: dict[str, str] = field(default_factory=dict)


MakeWay: TypeAlias = Callable[["ProxyProgram", "Place"], Way]


def connect(proxy: ProxyProgram, origin: str) -> Way:
    return Way(origin, ("--proxy", proxy.forward, "--cacert", str(proxy.ca_file)))


def trusting(proxy: ProxyProgram, **variables: str) -> dict[str, str]:
    return {"CURL_CA_BUNDLE": str(proxy.ca_file)} | variables


WAYS: dict[str, MakeWay] = {
    "http URL": lambda proxy, place: Way(f"http://{place.api_authority}", ("--proxy", proxy.forward)),
    "https URL": lambda proxy, place: connect(proxy, place.api_url),
    "http in a tunnel": lambda proxy, place: Way(
        f"http://{place.api_authority}", ("--proxy", proxy.forward, "--proxytunnel")
    ),
    "reverse": lambda proxy, _: Way(proxy.reverse),
}
MORE_WAYS: dict[str, MakeWay] = {
    "http URL without port": lambda proxy, place: Way(f"http://{place.alias_host}", ("--proxy", proxy.forward)),
    "https URL without port": lambda proxy, place: connect(proxy, place.api_alias),
    "http_proxy": lambda proxy, place: Way(f"http://{place.api_authority}", (), {"http_proxy": proxy.forward}),
    "https_proxy": lambda proxy, place: Way(place.api_url, (), trusting(proxy, https_proxy=proxy.forward)),
    "HTTPS_PROXY": lambda proxy, place: Way(place.api_url, (), trusting(proxy, HTTPS_PROXY=proxy.forward)),
    "ALL_PROXY": lambda proxy, place: Way(f"http://{place.api_authority}", (), {"ALL_PROXY": proxy.forward}),
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    directory = tmp_path_factory.mktemp("uploads")
    big, zipped = directory / "big.bin", directory / "small.gz"
    big.write_bytes(random.Random(3).randbytes(BIG_BYTES))
    zipped.write_bytes(gzip.compress(b"compressed all the way\n" * 50, mtime=0))
    return {"big": str(big), "gzip": str(zipped)}


@pytest.fixture(scope="session")
def directly(curl: Curl, place: Place, access_token: str, files: dict[str, str]) -> Callable[[str], Answer]:
    """What curl gets without the proxy, with a token; asked once a case."""
    known: dict[str, Answer] = {}

    def ask(name: str) -> Answer:
        if name not in known:
            known[name] = curl(
                "--cacert",
                place.ca_file,
                "--oauth2-bearer",
                access_token,
                "--header",
                f"Ocp-Apim-Subscription-Key: {place.subscription_key}",
                *ask_with(CASES[name], files),
                place.api_url + CASES[name].path,
                stdin=CASES[name].stdin,
            )
        return known[name]

    return ask


def ask_with(case: Case, files: dict[str, str]) -> list[str]:
    return [argument.format(**files) for argument in case.arguments]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("way", WAYS)
def test_curl_gets_what_a_direct_call_with_a_token_gets(
    way: str,
    case: str,
    curl: Curl,
    proxy: ProxyProgram,
    place: Place,
    files: dict[str, str],
    directly: Callable[[str], Answer],
) -> None:
    through, request = WAYS[way](proxy, place), CASES[case]
    answer = curl(
        *through.arguments,
        *ask_with(request, files),
        through.origin + request.path,
        stdin=request.stdin,
        environ=through.environ,
    )
    direct = directly(case)

    assert (answer.exit_status, answer.complaint) == (direct.exit_status, direct.complaint)
    assert answer.unchanging == direct.unchanging
    assert direct.status, "the comparison is worth nothing without a response"


@pytest.mark.parametrize("case", ["length", "big body"])
@pytest.mark.parametrize("way", MORE_WAYS)
def test_curl_finds_the_proxy_by_its_variables_too(
    way: str,
    case: str,
    curl: Curl,
    proxy: ProxyProgram,
    place: Place,
    files: dict[str, str],
    directly: Callable[[str], Answer],
) -> None:
    through, request = MORE_WAYS[way](proxy, place), CASES[case]
    answer = curl(*through.arguments, *ask_with(request, files), through.origin + request.path, environ=through.environ)

    assert answer.exit_status == 0, answer.complaint
    assert answer.unchanging == directly(case).unchanging
    assert answer.status == 200


@pytest.mark.parametrize("way", WAYS)
def test_what_reaches_the_api_is_what_curl_sent_and_the_token(
    way: str, curl: Curl, proxy: ProxyProgram, place: Place, access_token: str
) -> None:
    key = "Ocp-Apim-Subscription-Key"
    request = ["--data", "a=1", "--header", "X-Twice: 1", "--header", "X-Twice: 2", "--header", "Cookie: c=d"]
    through = WAYS[way](proxy, place)
    direct = curl(
        *request, "--cacert", place.ca_file, "--oauth2-bearer", access_token, "--header", f"{key}: {place.subscription_key}",
        place.api_url + "/orders?x=%20",
    )  # fmt: skip
    answer = curl(*through.arguments, *request, through.origin + "/orders?x=%20")

    def seen(answer: Answer) -> dict[str, object]:
        assert answer.status == 200
        report: dict[str, object] = json.loads(answer.content)
        fields = report["fields"]
        assert isinstance(fields, list)
        # The proxy adds its own behind the client's; a reverse listener's Host is the upstream's.
        report["fields"] = sorted(fields)
        report["token"] = {**report["token"], "claims": None}  # type: ignore[dict-item]  # of two tokens
        return report

    assert seen(answer) == seen(direct)


@pytest.mark.parametrize("name", ["length", "chunked", "form"])
@pytest.mark.parametrize("way", WAYS)
def test_http_1_0_gets_the_same_content(
    way: str,
    name: str,
    curl: Curl,
    proxy: ProxyProgram,
    place: Place,
    files: dict[str, str],
    directly: Callable[[str], Answer],
) -> None:
    through, request = WAYS[way](proxy, place), CASES[name]
    answer = curl("--http1.0", *through.arguments, *ask_with(request, files), through.origin + request.path)

    assert (answer.exit_status, answer.complaint) == (0, "")
    assert (answer.status, answer.content) == (200, directly(name).content)
    assert answer.fields("Transfer-Encoding") == []


@pytest.mark.parametrize("way", WAYS)
def test_one_client_connection_serves_many_requests(way: str, proxy: ProxyProgram, place: Place) -> None:
    through = WAYS[way](proxy, place)
    urls = [f"{through.origin}/bytes/{number}" for number in range(1, 6)]
    done = run_program(["curl", "-sS", "-w", "%{stderr}%{num_connects} ", *through.arguments, *urls])

    assert done.status == 0, done.stderr
    assert done.stderr.split() == ["1", "0", "0", "0", "0"]
    assert len(done.stdout) == sum(range(1, 6))


@pytest.mark.parametrize("way", WAYS)
def test_parallel_transfers_do_not_mix(way: str, proxy: ProxyProgram, place: Place, tmp_path: Path) -> None:
    through = WAYS[way](proxy, place)
    lengths = range(1_000, 60_000, 2_000)
    done = run_program(
        ["curl", "-sS", "--parallel", "--parallel-immediate", "--parallel-max", "30", *through.arguments]
        + [
            text
            for length in lengths
            for text in (f"{through.origin}/bytes/{length}", "-o", str(tmp_path / str(length)))
        ]
    )

    assert done.status == 0, done.stderr
    pattern = bytes(number % 251 for number in range(max(lengths)))
    for length in lengths:
        assert (tmp_path / str(length)).read_bytes() == pattern[:length]


def test_426_says_which_protocol_to_ask_for(curl: Curl, proxy: ProxyProgram, place: Place) -> None:
    """Upgrade is hop-by-hop, and the response is worthless without it (RFC 9110 §15.5.22)."""
    answer = curl("--proxy", proxy.forward, f"http://{place.api_authority}/websocket")

    assert (answer.status, answer.fields("Upgrade"), answer.fields("Connection")) == (426, ["websocket"], ["Upgrade"])


def test_a_client_certificate_of_no_interest_is_no_obstacle(curl: Curl, proxy: ProxyProgram, place: Place) -> None:
    through = connect(proxy, place.api_url)
    answer = curl(*through.arguments, "--cert", place.certificate, f"{place.api_url}/bytes/3")

    assert (answer.exit_status, answer.status, answer.content) == (0, 200, b"\x00\x01\x02")


def test_the_clients_own_credentials_do_not_reach_the_api(curl: Curl, proxy: ProxyProgram, place: Place) -> None:
    answer = curl(
        "--proxy", proxy.forward, "--proxy-user", "me:mine", "--user", "someone:else",
        "--header", "Ocp-Apim-Subscription-Key: 0000", f"http://{place.api_authority}/orders",
    )  # fmt: skip

    assert answer.status == 200
    fields = [name.lower() for name, _ in json.loads(answer.content)["fields"]]
    assert fields.count("authorization") == 1
    assert fields.count("ocp-apim-subscription-key") == 1
    assert "proxy-authorization" not in fields


def test_an_upload_refused_early_does_not_hang(
    curl: Curl, proxy: ProxyProgram, place: Place, files: dict[str, str]
) -> None:
    answer = curl(
        "--proxy", proxy.forward, "--data-binary", f"@{files['big']}", f"http://{place.api_authority}/no-such-operation"
    )

    assert answer.status == 404
    assert "Proxy-Status" not in str(answer.head)


def test_a_client_that_leaves_is_no_news_to_the_next(curl: Curl, proxy: ProxyProgram, place: Place) -> None:
    path = "/bytes/300000000"
    command = ["curl", "-sS", "--no-buffer", "--proxy", proxy.forward, f"http://{place.api_authority}{path}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as hasty:
        try:
            assert hasty.stdout is not None
            assert hasty.stdout.read(3) == b"\x00\x01\x02"  # so it is in the middle of the response
        finally:
            hasty.kill()
    assert proxy.wait_for_exchange(outcome="aborted_client", path=path)["status"] == 200

    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/bytes/3").content == b"\x00\x01\x02"


def test_variables_can_exempt_a_host(proxy: ProxyProgram, place: Place) -> None:
    """NO_PROXY is the client's own affair: the API then answers a call without a token."""
    done = run_program(
        ["curl", "-sS", "--cacert", place.ca_file, f"{place.api_url}/orders"],
        environ=environment(https_proxy=proxy.forward, no_proxy="localhost"),
    )

    assert json.loads(done.stdout)["statusCode"] == 401
