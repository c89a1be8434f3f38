"""The collector's URL: what is taken, what is refused and why, and where spans go in the end."""

from __future__ import annotations

import pytest

from proxy.config.validation import judge
from proxy.config.values import CollectorUrl


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:4318", "https://otel.example", "http://[::1]:4318/", "https://otel.example/otlp/v1/traces"],
)
def test_collectors_are_taken_with_and_without_tls_and_paths(url: str) -> None:
    assert judge(CollectorUrl, url) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("127.0.0.1:4318", "write a whole URL"),
        ("grpc://127.0.0.1:4317", "write a whole URL"),
        ("", "write a whole URL"),
        ("https://user:password@otel.example", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("https://otel.example/?key=1", "OTEL_EXPORTER_OTLP_HEADERS"),
        ("https://", "host cannot be used"),
        ("https://a b", "host cannot be used"),
    ],
)
def test_what_is_no_collectors_url_is_refused_with_the_way_out(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        judge(CollectorUrl, url)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
        ("http://127.0.0.1:4318/", "http://127.0.0.1:4318/v1/traces"),
        ("https://otel.example/otlp", "https://otel.example/otlp/v1/traces"),
        ("https://otel.example/otlp/v1/traces", "https://otel.example/otlp/v1/traces"),
    ],
)
def test_spans_go_to_the_path_that_otlp_gives_them(url: str, expected: str) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="the extra otel is not installed")
    from proxy.operations.tracing import format_endpoint

    assert format_endpoint(url) == expected
