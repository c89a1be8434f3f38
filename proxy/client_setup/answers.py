"""What people type where `init` asks: brought into the form that the configuration wants, or refused in words. Pure."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from proxy.config.validation import judge
from proxy.config.values import HostPatternText, TenantText

_GUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def read_tenant(text: str) -> str:
    """Return a tenant's GUID or domain, also out of a URL that holds the GUID.

    Raises:
        ValueError: it is neither; with what to write.
    """
    tenant = text.strip().strip("{}")
    found = _GUID.search(tenant)
    if found is not None:
        return found.group().lower()
    wrong = f"{text.strip()!r} is not a tenant: write its GUID, or a domain such as contoso.onmicrosoft.com"
    if "." not in tenant:
        raise ValueError(wrong)
    try:
        return judge(TenantText, tenant)
    except ValueError:
        raise ValueError(wrong) from None


def read_host(text: str) -> str:
    """Return ``host`` or ``host:port``, also out of a URL.

    Raises:
        ValueError: there is none in it; with what to write.
    """
    host = text.strip()
    if "://" in host:
        host = urlsplit(host).netloc.rpartition("@")[2]
    host = host.partition("/")[0].removesuffix(":443")
    try:
        return judge(HostPatternText, host)
    except ValueError:
        raise ValueError(f"{text.strip()!r} is not a host: write it like contoso.azure-api.net") from None
