from __future__ import annotations

import json
import re
from typing import Any

import pytest

from proxy.operations.log_lines import JsonFormat, LineFormat, TextFormat
from proxy.relay.record import ExchangeRecord

PLAIN = ExchangeRecord(
    ended_at=1_792_836_303.25,
    client="127.0.0.1",
    mode="forward",
    method=b"GET",
    authority="contoso.azure-api.net:443",
    target=b"/orders/1",
    status=200,
    received_bytes=0,
    sent_bytes=1_234,
    duration_s=0.0123,
    upstream_s=0.0111,
    route="contoso.azure-api.net",
    token_age_s=35.7,
    reused=True,
    outcome="ok",
    code="",
    http_version="1.1",
    upstream_http_version="1.1",
)

NASTY = [
    pytest.param(b'/a"b', '/a"b', id="quote"),
    pytest.param(b"/a\\b", "/a\\x5Cb", id="backslash"),
    pytest.param(b"/a\nb", "/a\\x0Ab", id="line feed"),
    pytest.param(b"/a\r\nGET /forged", "/a\\x0D\\x0AGET\\x20/forged", id="forged line"),
    pytest.param(b"/\x1b[31mred\x1b[0m", "/\\x1B[31mred\\x1B[0m", id="terminal escape"),
    pytest.param(b"/\x00\x7f", "/\\x00\\x7F", id="NUL and DEL"),
    pytest.param("/grün".encode(), "/gr\\xC3\\xBCn", id="UTF-8"),
    pytest.param(b"/\xff\xfe\xc3", "/\\xFF\\xFE\\xC3", id="not UTF-8"),
    pytest.param("/\u202e\u2028".encode(), "/\\xE2\\x80\\xAE\\xE2\\x80\\xA8", id="direction override, line separator"),
    pytest.param(b"/%0a%22", "/%0a%22", id="percent-encoded"),
    pytest.param(b"*", "*", id="asterisk"),
    pytest.param(b'/"},{"status":200', '/"},{"status":200', id="JSON of its own"),
    pytest.param(b"/%s%(x)d{0}", "/%s%(x)d{0}", id="format directives"),
]


def parse(record: ExchangeRecord) -> dict[str, Any]:
    line = JsonFormat().format([record])
    assert line.endswith("\n")
    parsed = json.loads(line)
    assert isinstance(parsed, dict)
    return parsed


def test_a_json_line_says_what_happened() -> None:
    assert parse(PLAIN) == {
        "time": "2026-10-24T10:05:03.250Z",
        "client": "127.0.0.1",
        "mode": "forward",
        "method": "GET",
        "authority": "contoso.azure-api.net:443",
        "path": "/orders/1",
        "status": 200,
        "received_bytes": 0,
        "sent_bytes": 1234,
        "duration_ms": 12.3,
        "upstream_ms": 11.1,
        "name_ms": None,
        "route": "contoso.azure-api.net",
        "token_age_s": 35,
        "reused": True,
        "outcome": "ok",
        "code": None,
        "client_name": None,
        "credential": None,
        "proof": None,
        "http_version": "1.1",
        "upstream_http_version": "1.1",
    }


def test_a_json_line_says_who_used_whose_token() -> None:
    used = PLAIN._replace(client_name="batch", credential="orders-client", proof="certificate 3FA9")
    assert {key: parse(used)[key] for key in ("client_name", "credential", "proof", "token_age_s")} == {
        "client_name": "batch",
        "credential": "orders-client",
        "proof": "certificate 3FA9",
        "token_age_s": 35,
    }


def test_a_text_line_names_the_client() -> None:
    (line,) = TextFormat(terminal=False, colour=False).format([PLAIN._replace(client_name="batch")]).splitlines()
    assert line.endswith("forward batch at 127.0.0.1")


@pytest.mark.parametrize(
    ("client", "upstream", "said"),
    [
        ("2", "1.1", "  HTTP/2 to HTTP/1.1  "),
        ("1.1", "2", "  HTTP/1.1 to HTTP/2  "),
        ("2", "2", "  HTTP/2 to HTTP/2  "),
        ("2", "", "  HTTP/2  "),
        ("1.0", "1.1", "  HTTP/1.0 to HTTP/1.1  "),
    ],
)
def test_a_text_line_says_the_versions_where_they_are_not_the_usual_one(client: str, upstream: str, said: str) -> None:
    record = PLAIN._replace(http_version=client, upstream_http_version=upstream)
    assert said in TextFormat(terminal=False, colour=False).format([record])
    assert (parse(record)["http_version"], parse(record)["upstream_http_version"]) == (client, upstream or None)


def test_what_is_not_there_is_null_and_the_keys_stay() -> None:
    refused = PLAIN._replace(
        method=b"", authority="", target=b"", status=0, upstream_s=None, route="", token_age_s=None, reused=False
    )
    parsed = parse(refused)
    assert list(parsed) == list(parse(PLAIN))
    missing = {"method", "authority", "path", "status", "upstream_ms", "name_ms", "route", "token_age_s", "code"}
    missing |= {"client_name", "credential", "proof"}
    assert {key for key, value in parsed.items() if value is None} == missing
    assert parsed["reused"] is False


@pytest.mark.parametrize(("target", "shown"), NASTY)
def test_no_target_breaks_out_of_its_json_string(target: bytes, shown: str) -> None:
    assert parse(PLAIN._replace(target=target)) == parse(PLAIN) | {"path": shown}


@pytest.mark.parametrize("field", ["client", "mode", "authority", "route", "outcome", "code"])
def test_no_other_text_breaks_out_of_its_json_string(field: str) -> None:
    changes: dict[str, Any] = {field: 'x"\n\x1b\\ \ud800é'}
    assert parse(PLAIN._replace(**changes)) == parse(PLAIN) | {field: 'x"\\x0A\\x1B\\x5C \\xED\\xA0\\x80\\xC3\\xA9'}


def test_a_method_does_not_break_out_of_its_json_string() -> None:
    assert parse(PLAIN._replace(method=b'G"\x00T'))["method"] == 'G"\\x00T'


@pytest.mark.parametrize(("target", "_shown"), NASTY)
@pytest.mark.parametrize(
    "line_format", [JsonFormat(), TextFormat(terminal=True, colour=True), TextFormat(terminal=False, colour=False)]
)
def test_a_line_is_one_line_of_printable_ascii(line_format: LineFormat, target: bytes, _shown: str) -> None:
    for record in (PLAIN._replace(target=target), PLAIN._replace(authority=target.decode("latin-1"), method=target)):
        line = line_format.format([record])
        assert line.count("\n") == 1
        assert line.endswith("\n")
        uncoloured = re.sub(r"\x1b\[\d+m(?=[ \d-]|$)|\x1b\[2m(?=[\dsaof])|\x1b\[0m(?=\s)", "", line)
        assert uncoloured[:-1].isascii()
        assert uncoloured[:-1].isprintable()


def test_many_different_fields_do_not_mix() -> None:
    """More clients than are remembered, twice over."""
    line_format = JsonFormat()
    for _ in range(2):
        lines = line_format.format(PLAIN._replace(client=f"10.0.{n // 256}.{n % 256}") for n in range(3_000))
        clients = [json.loads(line)["client"] for line in lines.splitlines()]
        assert clients == [f"10.0.{n // 256}.{n % 256}" for n in range(3_000)]


def test_seconds_and_milliseconds_belong_together_across_a_change_of_second() -> None:
    times = [1_792_836_303.999, 1_792_836_304.0, 1_792_836_303.5, 1_792_836_363.001]
    lines = JsonFormat().format(PLAIN._replace(ended_at=at) for at in times)
    assert [json.loads(line)["time"][14:] for line in lines.splitlines()] == [
        "05:03.999Z",
        "05:04.000Z",
        "05:03.500Z",
        "06:03.000Z",
    ]


@pytest.mark.parametrize("duration_s", [0.0, 0.00001, 0.01234, 0.19999, 0.2, 1.5, 86_400.0])
def test_durations_are_exact_to_a_hundredth_of_a_millisecond(duration_s: float) -> None:
    line_format = JsonFormat()
    for _ in range(2):
        shown = json.loads(line_format.format([PLAIN._replace(duration_s=duration_s)]))["duration_ms"]
        assert shown == pytest.approx(duration_s * 1000, abs=0.0101)


def test_a_text_line_says_what_happened() -> None:
    line = TextFormat(terminal=False, colour=False).format([PLAIN])
    assert line == (
        "2026-10-24T10:05:03.250Z  200      12.3 ms  GET     contoso.azure-api.net:443/orders/1  "
        "1.2 kB  upstream 11.1 ms  token 36 s old  reused  forward 127.0.0.1\n"
    )


def test_a_text_line_of_a_failure_names_it_first() -> None:
    failure = PLAIN._replace(
        status=502, outcome="proxy_configuration_error", code="AADSTS700027", upstream_s=None, token_age_s=None,
        reused=False, received_bytes=2_500_000, sent_bytes=310, duration_s=12.0, route="*.azure-api.net",
    )  # fmt: skip
    line = TextFormat(terminal=False, colour=False).format([failure])
    assert line == (
        "2026-10-24T10:05:03.250Z  502      12.00 s  GET     contoso.azure-api.net:443/orders/1  "
        "proxy_configuration_error AADSTS700027  sent up 2.5 MB  310 B  route *.azure-api.net  forward 127.0.0.1\n"
    )


def test_only_a_terminal_gets_colour() -> None:
    assert "\x1b[32m200\x1b[0m" in TextFormat(terminal=True, colour=True).format([PLAIN])
    assert "\x1b" not in TextFormat(terminal=True, colour=False).format([PLAIN])


@pytest.mark.parametrize("line_format", [JsonFormat(), TextFormat(terminal=False, colour=False)], ids=["json", "text"])
def test_lost_lines_are_told_in_a_line(line_format: LineFormat) -> None:
    line = line_format.format_loss(1_792_836_303.25, 17)
    assert line.count("\n") == 1
    assert "17" in line
    assert "2026-10-24T10:05:03.250Z" in line
