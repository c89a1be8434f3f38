"""The environment that `env` prints and `exec` sets: from a configuration, or from the defaults. Reads and writes files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from proxy.cli.options import CONFIG_HERE
from proxy.cli.terminal import say
from proxy.client_setup.bundle import write_bundle
from proxy.client_setup.variables import Setup, list_variables
from proxy.config.addresses import ListenAddress, parse_listen_address
from proxy.config.loading import load_settings
from proxy.config.one_route import CONFIG_VARIABLE, DEFAULT_LISTENER
from proxy.config.routed_hosts import routed_hosts
from proxy.config.settings import AdminSettings, ListenerMode
from proxy.config.state_directory import require_default_state_directory
from proxy.interception.opening import open_authority
from proxy.interception.store import load

if TYPE_CHECKING:
    from pathlib import PurePath

    from proxy.client_setup.variables import Variable
    from proxy.config.settings import Settings
    from proxy.config.source import Source


def _read_proxy_url(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Return the URL as it is; raise without showing it, because it may hold a password."""
    if text is None:
        return None
    try:
        url = urlsplit(text)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
        is_usable = is_usable and url.path in ("", "/") and not url.query and not url.fragment
    except ValueError:  # a port that is none, or an address with an open bracket
        is_usable = False
    if not is_usable:
        raise click.BadParameter(
            "write http://HOST:PORT or http://NAME:PASSWORD@HOST:PORT, with special characters of the password percent-encoded, "
            "such as %2F for /."
        )
    return text


proxy_url_option = click.option(
    "--proxy-url",
    metavar="URL",
    callback=_read_proxy_url,
    help="Where clients reach the proxy, such as http://NAME:PASSWORD@proxy:8080. Default: its first forward listener.",
)


@dataclass(frozen=True, slots=True)
class ClientEnvironment:
    """What clients are given.

    Attributes:
        config: what it comes from; None for the defaults.
        proxy_url: where the proxy is.
        address: its listener; None where a URL was named.
        named: the listener of this configuration that the named URL is; None where it is none, or no URL was named.
        variables: to be set.
        hosts: the routed hosts as configured, with ports and wildcards; without a configuration, what the CA may sign for.
        trusted: PEM of the interception CA.
        admin: where the proxy can be asked; None for nowhere.
        files: the bundle's, where they are on this machine.
    """

    config: Source | None
    proxy_url: str
    address: ListenAddress | None
    named: ListenAddress | None
    variables: list[Variable]
    hosts: tuple[str, ...]
    trusted: bytes
    admin: AdminSettings | None
    files: tuple[Path, ...]

    def apply(self) -> dict[str, str]:
        """Return this process' environment with the variables in it."""
        # An empty SSL_CERT_DIR is none at all; a set one would have OpenSSL look elsewhere, too, which does no harm.
        return {**os.environ, **{variable.name: variable.value for variable in self.variables}}


def prepare(config: Source | None, proxy_url: str | None, ca_directory: PurePath | None = None) -> ClientEnvironment:
    """Write the merged bundle into the state directory and return what clients are to be given.

    Args:
        config: the configuration, if there is one.
        proxy_url: where clients reach the proxy, if not at its first forward listener.
        ca_directory: where clients find the bundle's files, if not where they are.

    Raises:
        ConfigurationError: the configuration, or a file it names, cannot be used.
        click.ClickException: there is no CA yet, or no listener that variables can name.
    """
    address: ListenAddress | None = None
    named: ListenAddress | None = None
    hosts: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    admin: AdminSettings | None = AdminSettings()
    if config is None:
        directory = require_default_state_directory(os.environ)
        found = load(directory)
        if found is None:
            raise click.ClickException(
                f"There is no configuration. Name a file with --config or in {CONFIG_VARIABLE}, or run this where "
                f"{CONFIG_HERE} is. `apim-auth-proxy init` writes a first configuration."
            )
        trusted = found.trusted_pem()
        hosts = patterns = found.newest.constraints.listed()
        if proxy_url is None:
            address = parse_listen_address(DEFAULT_LISTENER)
        say(
            f"Note: there is no configuration here, so this is for the proxy at {proxy_url or f'http://{address}'} and the CA in "
            f"{directory}, the default state directory. If another is meant, name its configuration with --config."
        )
    else:
        settings = load_settings(config, os.environ, check_files=False)
        admin = settings.admin
        directory, hosts = settings.state_directory, tuple(routed_hosts(settings))
        patterns = tuple(text for route in settings.routes for text in route.hosts)
        trusted = open_authority(settings, hosts, datetime.now(UTC)).trusted_pem()
        directory.mkdir(
            mode=0o700, parents=True, exist_ok=True
        )  # with an organisation's own CA, nobody has made it yet
        if proxy_url is None:
            address, proxy_url = _choose_listener(settings)
        else:
            named = _find_listener(settings, proxy_url)
    url = proxy_url.rstrip("/") if proxy_url is not None else f"http://{address}"
    bundle = write_bundle(directory, trusted, os.environ)
    files = bundle.pem, bundle.truststore
    pem, truststore = files if ca_directory is None else (ca_directory / file.name for file in files)
    # Settings name the bundle by its path on this machine.
    place = directory if ca_directory is None else None
    setup = Setup(url, pem, truststore, hosts, place, has_wgetrc=_has_wgetrc())
    variables = list_variables(setup, os.environ)
    return ClientEnvironment(config, url, address, named, variables, patterns, trusted, admin, files)


def _has_wgetrc() -> bool:
    try:
        return (Path.home() / ".wgetrc").is_file()
    except RuntimeError:  # there is no home
        return False


def _choose_listener(settings: Settings) -> tuple[ListenAddress, str]:
    candidates = [
        (listener.tls is not None, parse_listen_address(listener.address))
        for listener in settings.listeners
        if listener.mode is ListenerMode.FORWARD and parse_listen_address(listener.address).path is None
    ]
    # Few clients can speak TLS with a proxy, so a listener without comes first.
    for has_tls, address in sorted(candidates, key=lambda candidate: candidate[0]):
        if address.port:
            reachable = _reachable(address)
            return reachable, f"{'https' if has_tls else 'http'}://{reachable}"
    raise click.ClickException(
        "No listener of this configuration can be named in a variable: that takes `mode: forward` on TCP with a fixed port. "
        "Add one, or say with --proxy-url where the proxy is."
    )


def _find_listener(settings: Settings, proxy_url: str) -> ListenAddress | None:
    """Return the listener that a URL leads to: who sends a password has to name the URL of a proxy that is right here."""
    url = urlsplit(proxy_url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    wanted = ListenAddress("127.0.0.1" if host == "localhost" else host, port)
    for listener in settings.listeners:
        address = _reachable(parse_listen_address(listener.address))
        if (
            address.path is None
            and ListenAddress("127.0.0.1" if address.host == "localhost" else address.host, address.port) == wanted
        ):
            return address
    return None


def _reachable(address: ListenAddress) -> ListenAddress:
    hosts = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # it is what clients can not connect to
    return ListenAddress(hosts.get(address.host, address.host), address.port)
