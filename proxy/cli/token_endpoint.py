"""What a program needs to get tokens from the running proxy: the variables of App Service. Reads files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from proxy.cli.client_environment import ClientEnvironment
from proxy.config.addresses import ListenAddress, parse_listen_address
from proxy.config.loading import load_settings
from proxy.config.settings import ListenerMode
from proxy.token_service.header import header_file, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from proxy.config.settings import AdminSettings, Settings
    from proxy.config.source import Source

# With these set, SDKs take the endpoint for that of Service Fabric or Azure Arc, which speak otherwise.
_MISLEADING: Final = ("IDENTITY_SERVER_THUMBPRINT", "IMDS_ENDPOINT", "MSI_ENDPOINT", "MSI_SECRET")
_HOW: Final = (
    "Add a listener to the configuration:\n\n  - address: 127.0.0.1:8091\n    mode: identity\n    token_endpoint: true\n\n"
    "It has to be on TCP: programs cannot use a Unix socket here."
)


@dataclass(frozen=True, slots=True)
class EndpointPlace:
    """A listener with a token endpoint.

    Attributes:
        config: whose listener it is.
        address: as configured.
        file: where the running proxy has put the secret.
        has_forward_listener: whether the configuration has one, too, that programs can be told of.
        admin: where the proxy can be asked.
    """

    config: Source
    address: ListenAddress
    file: Path
    has_forward_listener: bool
    admin: AdminSettings | None

    def alone(self) -> ClientEnvironment:
        """Return what programs are given where nothing else listens for them: no proxy, no CA."""
        return ClientEnvironment(self.config, f"http://{self.address}", self.address, None, [], (), b"", self.admin, ())

    def apply(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return an environment with the endpoint in it; call it when the proxy runs.

        Raises:
            ConfigurationError: the secret may not be read.
            click.ClickException: the running proxy has none.
        """
        header = read_header(self.file)
        if header is None:
            raise click.ClickException(
                f"The proxy that runs has no token endpoint at {self.address}, or keeps its state elsewhere: there is no "
                f"{self.file}. Start it with this configuration, as this user."
            )
        host = urlsplit(header.endpoint).netloc
        changed = {name: value for name, value in environ.items() if name not in _MISLEADING}
        for name in ("NO_PROXY", "no_proxy"):
            listed = [entry for entry in environ.get(name, "").split(",") if entry]
            added = [entry for entry in (_host_of(host), host) if entry not in listed]
            changed[name] = ",".join([*listed, *added])
        return changed | {"IDENTITY_ENDPOINT": header.endpoint, "IDENTITY_HEADER": header.secret}


def find_token_endpoint(config: Source | None) -> EndpointPlace:
    """Return the listener whose tokens programs are to ask for.

    Raises:
        ConfigurationError: the configuration cannot be used.
        click.ClickException: it has no such listener.
    """
    if config is None:
        raise click.ClickException(
            "There is no configuration that could have a token endpoint: name one with --config."
        )
    settings = load_settings(config, os.environ, check_files=False)
    candidates = [
        (listener.tls is not None, listener.address)
        for listener in settings.listeners
        if listener.token_endpoint and parse_listen_address(listener.address).path is None
    ]
    if not candidates:
        raise click.ClickException(f"No listener of this configuration has a token endpoint. {_HOW}")
    # Few programs can be told to trust a CA for it, so a listener without TLS comes first.
    text = min(candidates)[1]
    return EndpointPlace(
        config,
        parse_listen_address(text),
        header_file(settings.state_directory, text),
        _has_forward_listener(settings),
        settings.admin,
    )


def _has_forward_listener(settings: Settings) -> bool:
    addresses = [
        parse_listen_address(listener.address)
        for listener in settings.listeners
        if listener.mode is ListenerMode.FORWARD
    ]
    return any(address.path is None and address.port for address in addresses)


def _host_of(netloc: str) -> str:
    host = urlsplit(f"//{netloc}").hostname or ""
    return f"[{host}]" if ":" in host else host
