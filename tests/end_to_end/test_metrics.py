"""The metrics are what their page says: a real proxy, traffic of every kind, and both directions compared."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.programs import ROOT, ProxyProgram, configuration
from tests.end_to_end.test_reload import rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place

PAGE: Final = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
# What these labels may say is a fixed list, so the page has every value.
LISTED: Final = ("status_class", "error", "side", "outcome", "kind")


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the page."""

    kind: str
    labels: frozenset[str]


def documented() -> dict[str, Entry]:
    rows = re.findall(r"^\| `([a-z0-9_]+)` \| (counter|gauge|histogram) \| ([^|]+) \| [^|]+ \|$", PAGE, re.MULTILINE)
    return {name: Entry(kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def documented_values(label: str) -> set[str]:
    row = re.search(rf"^\| `{label}` \| (.+) \|$", PAGE, re.MULTILINE)
    assert row is not None, f"the page has no row for the label {label}"
    return set(re.findall(r"`([^`]+)`", row[1]))


def emitted(content: bytes) -> dict[str, Metric]:
    """Families by the name that queries use: counters end in _total."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family
        for family in text_string_to_metric_families(content.decode())
    }


@pytest.fixture(scope="module")
def content(place: Place, proxy_of_all_sorts: ProxyProgram, curl: Curl) -> bytes:
    """The metrics after traffic that makes each of them appear."""
    proxy = proxy_of_all_sorts
    url = f"http://{place.api_authority}"
    through = ("--proxy", proxy.forward)
    assert curl(*through, f"{url}/orders").status == 200
    assert curl(*through, "--cacert", str(proxy.ca_file), f"{place.api_url}/orders").status == 200
    assert curl(*through, f"{url}/status/404").status == 404
    assert curl(*through, "http://unknown.example/").status == 403
    assert curl(*through, "http://broken.example/").status == 502
    with socket.create_connection(("127.0.0.1", int(proxy.forward.rpartition(":")[2]))) as client:
        request = f"GET {url}/sse?count=50&interval=60 HTTP/1.1\r\nHost: {place.api_authority}\r\n\r\n"
        client.sendall(request.encode())
        assert client.recv(20).startswith(b"HTTP/1.1 200")
    proxy.wait_for_exchange(outcome="aborted_client")
    with socket.create_connection(("127.0.0.1", int(proxy.forward.rpartition(":")[2]))) as client:
        # Of HTTP/2: the preface, SETTINGS, and DATA that belongs to no stream.
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5) + bytes(9))
        while client.recv(4_096):
            pass
    assert curl(f"http://{proxy.address('identity')}/authorize?host={place.api_authority}").status == 200
    rewrite(proxy, {"listeners": []})
    return proxy.ask_admin("/metrics")


@pytest.fixture(scope="module")
def proxy_of_all_sorts(
    place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path
) -> Iterator[ProxyProgram]:
    directory = tmp_path_factory.mktemp("metrics")
    settings = configuration(
        place,
        token_files=[
            {"path": str(directory / "t"), "format": "plain", "credential": "orders-client", "scope": place.scope}
        ],
    )
    listeners, credentials, routes = settings["listeners"], settings["credentials"], settings["routes"]
    assert isinstance(listeners, list)
    listeners.append({"address": "127.0.0.1:0", "mode": "identity", "authorize": True})
    assert isinstance(credentials, dict)
    assert isinstance(routes, list)
    credentials["broken"] = credentials["orders-client"] | {"client_id": "99999999-9999-9999-9999-999999999999"}
    routes.append(routes[0] | {"hosts": ["broken.example"], "credential": "broken"})
    key = directory / "cache.key"
    key.touch(0o600)
    key.write_bytes(base64.b64encode(bytes(32)))
    # Nobody answers there, which is counted as well.
    settings["token_cache"] = {"url": "redis://127.0.0.1:1", "key_files": [str(key)]}
    with ProxyProgram(settings, directory, evidence, "metrics") as program:
        yield program


def test_every_metric_of_the_page_is_emitted_and_every_emitted_one_is_on_the_page(content: bytes) -> None:
    pages, found = documented(), emitted(content)
    assert len(pages) > 40
    assert sorted(pages.keys() ^ found.keys()) == []
    assert {name: family.type for name, family in found.items()} == {name: entry.kind for name, entry in pages.items()}


def test_labels_are_those_of_the_page(content: bytes) -> None:
    pages = documented()
    for name, family in emitted(content).items():
        assert family.samples, f"{name} has no sample: the traffic here does not make it appear"
        for sample in family.samples:
            assert sample.labels.keys() - {"le"} == pages[name].labels, name


def test_values_of_labels_are_those_of_the_page(content: bytes) -> None:
    for name, family in emitted(content).items():
        for sample in family.samples:
            for label in sample.labels.keys() & set(LISTED):
                assert sample.labels[label] in documented_values(label), f"{name}, {label}"


def test_a_refused_configuration_is_seen_for_as_long_as_it_is_the_newest(content: bytes) -> None:
    found = emitted(content)
    assert [sample.value for sample in found["apim_auth_proxy_last_reload_successful"].samples] == [0]
    outcomes = {one.labels["outcome"]: one.value for one in found["apim_auth_proxy_reloads_total"].samples}
    assert outcomes == {"ok": 0, "refused": 1}


def test_every_label_of_the_page_is_explained() -> None:
    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE[PAGE.index("## Labels") : PAGE.index("## Traces")], re.MULTILINE)
    explained = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert explained == {label for entry in documented().values() for label in entry.labels}


def test_every_error_type_is_on_the_page() -> None:
    from proxy.errors import ProxyError

    kinds: set[str] = set()
    waiting = [ProxyError]
    while waiting:
        kind = waiting.pop()
        kinds.add(kind.proxy_status)
        waiting.extend(kind.__subclasses__())
    assert kinds <= documented_values("error")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian's package prometheus) is not installed")
def test_promtool_has_nothing_to_say(content: bytes) -> None:
    checked = subprocess.run(["promtool", "check", "metrics"], input=content, capture_output=True, timeout=30)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_a_traceparent_reaches_the_api_unchanged(place: Place, proxy: ProxyProgram, curl: Curl) -> None:
    fields = ("traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate: a=1,b=2")
    answer = curl("--proxy", proxy.forward, *("-H", fields[0], "-H", fields[1]), f"http://{place.api_authority}/orders")
    received = [f"{name}: {value}" for name, value in json.loads(answer.content)["fields"]]
    assert [line for line in received if line.startswith("trace")] == list(fields)
