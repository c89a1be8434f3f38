"""All that can be told of a configuration without asking anyone on the network, in the order in which it matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from proxy.config.faults import ConfigurationFaults, as_sentence
from proxy.config.loading import load_settings
from proxy.config.privacy import find_tolerated
from proxy.config.source import FileSource
from proxy.doctor.ca import check_interception
from proxy.doctor.credentials import check_credential
from proxy.doctor.findings import error, ok, warning
from proxy.doctor.listeners import check_listeners
from proxy.doctor.redirection import check_redirection
from proxy.doctor.routes import check_routes
from proxy.doctor.upstream_proxy import check_upstream_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from proxy.config.settings import Settings
    from proxy.config.source import Source
    from proxy.doctor.findings import Finding


def check_configuration(source: Path | Source, environ: Mapping[str, str]) -> tuple[Settings | None, list[Finding]]:
    """Return the settings, as far as there are any, and what is wrong with them.

    Where nothing but the files they name is missing, the settings are returned all the same, so that the rest can be
    looked at.
    """
    if isinstance(source, Path):
        source = FileSource(source)
    try:
        settings = load_settings(source, environ)
    except ConfigurationFaults as faults:
        findings = [_describe_fault(source.name, fault.path, fault.line, fault.message) for fault in faults.faults]
        try:
            return load_settings(source, environ, check_files=False), findings
        except ConfigurationFaults:
            return None, findings
    counts = ", ".join(
        _count(len(items), noun)
        for items, noun in (
            (settings.listeners, "listener"),
            (settings.credentials, "credential"),
            (settings.routes, "route"),
        )
    )
    return settings, [ok("configuration", f"{source.title} loads: {counts}.")]


def check_offline(settings: Settings, hosts: Sequence[str], now: datetime) -> Iterator[Finding]:
    """Yield everything there is to say about the settings of a configuration.

    Args:
        settings: as loaded; files that are missing are passed over, because loading reports them.
        hosts: the routed hosts, without ports.
        now: aware.
    """
    for name, credential in settings.credentials.items():
        yield from check_credential(name, credential, now)
    for key, sentence in find_tolerated(settings):
        yield warning(key, sentence)
    yield from check_routes(settings, now)
    yield from check_upstream_proxy(settings)
    yield from check_interception(settings, hosts, now)
    yield from check_listeners(settings, now)
    yield from check_redirection(settings)


def _describe_fault(file: str, path: str, line: int, message: str) -> Finding:
    where = f"{file}:{line}" if line else file
    sentence = ": ".join(part for part in (where, path, as_sentence(message)) if part)
    return error("configuration", sentence, file=file, line=line, key=path)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
