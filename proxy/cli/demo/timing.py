"""What the proxy adds to a request: the same GET directly with a token, and through the proxy, in turns. Does network I/O."""

from __future__ import annotations

import ssl
import statistics
import time
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ROUNDS: Final = 100
_WARM_UP: Final = 10
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Timings:
    """Medians over connections that are kept open, in milliseconds."""

    direct_ms: float
    proxied_ms: float


def measure(api_url: str, path: str, ca_file: Path, fields: Mapping[str, str], proxy_url: str) -> Timings:
    """Return what one GET takes, directly over TLS and through the proxy. Blocks for about a second.

    Args:
        api_url: origin of the API.
        path: what is asked for.
        ca_file: what to trust for the API.
        fields: what the gateway wants of a direct request: token and subscription key.
        proxy_url: of the forward listener.

    Raises:
        OSError: a connection failed.
        http.client.HTTPException: a response was malformed.
    """
    api, proxy = urlsplit(api_url), urlsplit(proxy_url)
    context = ssl.create_default_context(cafile=ca_file)
    direct = HTTPSConnection(str(api.hostname), api.port, timeout=_TIMEOUT_S, context=context)
    proxied = HTTPConnection(str(proxy.hostname), proxy.port, timeout=_TIMEOUT_S)
    try:
        direct_s: list[float] = []
        proxied_s: list[float] = []
        for _ in range(_WARM_UP + ROUNDS):
            direct_s.append(_time(direct, path, fields))
            proxied_s.append(_time(proxied, f"http://{api.netloc}{path}", {}))
    finally:
        direct.close()
        proxied.close()
    return Timings(
        statistics.median(direct_s[_WARM_UP:]) * 1_000,
        statistics.median(proxied_s[_WARM_UP:]) * 1_000,
    )


def _time(connection: HTTPConnection, target: str, fields: Mapping[str, str]) -> float:
    begun = time.perf_counter()
    connection.request("GET", target, headers=dict(fields))
    response = connection.getresponse()
    response.read()
    taken = time.perf_counter() - begun
    if response.status != 200:
        raise OSError(f"status {response.status}")
    return taken
