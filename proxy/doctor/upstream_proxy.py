"""Which upstream proxy connections go through, and what is reached without it. Reads its file of trusted roots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.config.source import is_there
from proxy.dialing.building import build_proxies
from proxy.doctor.credentials import check_ca_file
from proxy.doctor.findings import ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.settings import Settings
    from proxy.doctor.findings import Finding

_SUBJECT: Final = "upstream proxy"


def check_upstream_proxy(settings: Settings) -> Iterator[Finding]:
    """Yield what there is to say about the upstream proxy without calling it; nothing where there is none."""
    proxies = build_proxies(settings.upstream_proxy)
    if proxies.for_tls is None and proxies.for_plain is None:
        return
    exceptions = ", ".join(settings.upstream_proxy.no_proxy)
    message = f"APIs, token endpoints and tunnels are reached through {proxies.for_tls or 'none'}"
    if proxies.for_plain != proxies.for_tls:
        message += f", plain http through {proxies.for_plain or 'none'}"
    message += f"; not {exceptions}." if exceptions else "."
    yield ok(
        _SUBJECT,
        message,
        url=str(proxies.for_tls or ""),
        plain_http_url=str(proxies.for_plain or ""),
        no_proxy=list(settings.upstream_proxy.no_proxy),
    )
    if settings.upstream_proxy.ca_file is not None and is_there(settings.upstream_proxy.ca_file):
        yield check_ca_file(_SUBJECT, settings.upstream_proxy.ca_file)
