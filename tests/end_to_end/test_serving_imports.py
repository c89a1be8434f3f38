"""What a serving process does without: aiohttp, which is the sandbox's, takes 9 MiB and 80 ms of CPU before ready."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import configuration

if TYPE_CHECKING:
    from tests.end_to_end.conftest import StartProxy
    from tests.end_to_end.curl import Curl
    from tests.end_to_end.programs import Place

# aiohttp and what comes with it have parts in C, which a process has mapped for as long as it runs.
BY_AIOHTTP = re.compile(r"/(aiohttp|multidict|yarl|frozenlist|propcache)/")


def family(pid: int) -> list[int]:
    """Return a process and all that it has started, and those have."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [pid, *(one for child in children for one in family(int(child)))]


@pytest.mark.parametrize("workers", [1, 2])
def test_no_serving_process_imports_aiohttp(workers: int, place: Place, start_proxy: StartProxy, curl: Curl) -> None:
    """With everything that once did: the admin site with its page, and an identity listener with both of its endpoints."""
    identity = {"address": "127.0.0.1:0", "mode": "identity", "authorize": True, "token_endpoint": True}
    proxy = start_proxy(configuration(place, listeners=[{"address": "127.0.0.1:0"}, identity], workers=workers))
    for path in ("/", "/metrics", "/api/state", "/proxy.pac", "/livez"):
        assert proxy.ask_admin(path)
    assert curl(f"http://{proxy.address('identity')}/authorize?host={place.api_authority}").status == 200
    assert curl("--proxy", proxy.forward, f"http://{place.api_authority}/orders").status == 200

    processes = family(proxy.process.pid)
    assert len(processes) >= (1 if workers == 1 else 1 + workers)
    for process in processes:
        maps = Path(f"/proc/{process}/maps").read_text(encoding="utf-8")
        assert BY_AIOHTTP.findall(maps) == [], Path(f"/proc/{process}/cmdline").read_bytes()


def test_such_an_import_would_be_seen() -> None:
    program = "import aiohttp; print(open('/proc/self/maps').read())"
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert {"aiohttp", "multidict"} <= set(BY_AIOHTTP.findall(shown.stdout))
