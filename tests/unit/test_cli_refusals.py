"""What `exec` asks the proxy about a program that failed, where the proxy is of another version."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from proxy.cli.refusals import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

ERROR = {"at": 10.0, "what": "api.test/x", "status": 403, "error": "http_request_denied", "code": "no_route"}
EVENTS: dict[str, Any] = {}


class AdminSite(BaseHTTPRequestHandler):
    """Sends the first of each kind of event."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        for name, value in EVENTS.items():
            self.wfile.write(f"event: {name}\ndata: {json.dumps(value)}\n\n".encode())

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def watch() -> Iterator[Watch]:
    with HTTPServer(("127.0.0.1", 0), AdminSite) as site:
        thread = threading.Thread(target=site.serve_forever, args=(0.01,))
        thread.start()
        yield Watch("127.0.0.1", site.server_address[1], "", since=5.0)
        site.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("exchanges", "errors", "hosts"),
    [
        ([], [ERROR], ["api.test"]),
        ([{"time": "1970-01-01T00:00:10+00:00"}], [ERROR], ["api.test"]),
        ([{"time": None}], [{key: value for key, value in ERROR.items() if key != "code"}], []),
        ([], [ERROR, {}], []),
        ({"new": 1}, {"new": 2}, []),
        ([7], ["another"], []),
    ],
)
def test_what_a_proxy_of_another_version_says_is_left_out_where_it_cannot_be_read(
    watch: Watch, exchanges: object, errors: object, hosts: list[str]
) -> None:
    EVENTS.clear()
    EVENTS.update(exchanges=exchanges, state={"errors": errors})
    assert [line.partition(":")[0] for line in watch.list_refusals(has_failed=False)] == hosts


@pytest.mark.parametrize("state", [[], 7, None, "text"])
def test_a_state_that_is_no_object_is_left_out(watch: Watch, state: object) -> None:
    EVENTS.clear()
    EVENTS.update(exchanges=[], state=state)
    assert watch.list_refusals(has_failed=False) == []
