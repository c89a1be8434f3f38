"""The upstream proxy of a document: what the environment says, and what cannot be meant. Does no I/O.

The environment is looked at once, when the configuration is loaded, so every process and every connection goes by the
same answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.config.sections import sections
from proxy.errors import ConfigurationError
from proxy.policy.upstream_proxy import parse_exemption, parse_proxy_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.config.faults import Finding
    from proxy.config.parsed import Value
    from proxy.config.sections import Section
    from proxy.policy.upstream_proxy import UpstreamProxy

_SECTION: Final = "upstream_proxy"
_URLS: Final = {"url": "HTTPS_PROXY", "plain_http_url": "HTTP_PROXY"}
_EXCEPTIONS: Final = "NO_PROXY"


def take_from_environment(root: Section, environ: Mapping[str, str]) -> list[Finding]:
    """Put the environment's proxies into a document that names none; return what cannot be used of them.

    A variable that names one of the document's own listeners is meant for clients on this machine, and passed over:
    going by it, the proxy would call itself.
    """
    written = root.get(_SECTION, {})
    if not isinstance(written, dict) or not _is_true(written.get("from_environment", True)):
        return []
    section: dict[str, Value] = dict(written)
    findings: list[Finding] = []
    if section.get("url") is None and section.get("plain_http_url") is None:
        for key, variable in _URLS.items():
            text = _read(environ, variable)
            # As curl does, which takes a proxy without a scheme for an http one.
            url = text if not text or "://" in text else f"http://{text}"
            try:
                proxy = parse_proxy_url(url) if url else None
            except ConfigurationError as error:
                findings.append(((_SECTION,), _explain(variable, error)))
                continue
            if proxy is not None and not _is_own_listener(root, proxy):
                section[key] = url
    if section.get("no_proxy") is None and (section.get("url") or section.get("plain_http_url")):
        entries = [entry for entry in _read(environ, _EXCEPTIONS).replace(",", " ").split() if _is_readable(entry)]
        if entries:
            section["no_proxy"] = list(entries)
    if section != written:
        root[_SECTION] = section
    return findings


def check_upstream_proxy(root: Section) -> Iterator[Finding]:
    """Yield what is wrong with the upstream proxy beside the rest of the document."""
    section = root.get(_SECTION)
    if not isinstance(section, dict):
        return
    for key in _URLS:
        text = section.get(key)
        try:
            proxy = parse_proxy_url(text) if isinstance(text, str) else None
        except ConfigurationError:
            continue
        if proxy is not None and _is_own_listener(root, proxy):
            yield (_SECTION, key), "this is a listener of this very proxy, which would call itself; name another proxy"


def _is_true(value: Value) -> bool:
    """Whether a truth value says yes; from ``${NAME}`` it comes as text, which validation makes one later."""
    return value is True or (isinstance(value, str) and value.strip().lower() in {"true", "yes", "on"})


def _read(environ: Mapping[str, str], name: str) -> str:
    # Lower case goes first, as in curl and Python.
    return (environ.get(name.lower()) or environ.get(name) or "").strip()


def _is_readable(entry: str) -> bool:
    """Whether an entry can be used; as other programs do, what cannot is passed over, for it may be meant for them."""
    try:
        parse_exemption(entry)
    except ConfigurationError:
        return False
    return True


def _is_own_listener(root: Section, proxy: UpstreamProxy) -> bool:
    for _, listener in sections(root, "listeners"):
        text = listener.get("address")
        try:
            address = parse_listen_address(text) if isinstance(text, str) else None
        except ConfigurationError:
            continue
        if address is None or address.path is not None or address.port != proxy.authority.port:
            continue
        host = proxy.authority.host
        is_loopback = host == "localhost" or host == "::1" or host.startswith("127.")
        is_all = address.host in ("0.0.0.0", "::")  # noqa: S104 -- compared, not bound
        if host == address.host or (is_loopback and (address.host == "localhost" or is_all)):
            return True
        if host == "localhost" and address.is_loopback:
            return True
    return False


def _explain(variable: str, error: ConfigurationError) -> str:
    return (
        f"the environment's {variable} cannot be used: {error.detail}; correct it, or set upstream_proxy: "
        "{ from_environment: false }"
    )
