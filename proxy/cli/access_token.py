"""`token`: print an access token, or what is in it. Does I/O through `proxy.identity`."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import click

from proxy.cli.completion import complete_credential, complete_host
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import say, silence_logging, write_json
from proxy.config.faults import suggest
from proxy.config.loading import load_settings
from proxy.config.one_route import OneRoute
from proxy.doctor.claims import decode_access_token
from proxy.doctor.online import build_sources, target_of
from proxy.errors import MalformedRequest
from proxy.identity.credential import Target
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.routing import RouteTable, parse_host_pattern

if TYPE_CHECKING:
    from proxy.config.settings import Settings
    from proxy.config.source import Source


@click.command(cls=ConfiguredCommand)
@takes_configuration(shared=["scope"])
@click.option(
    "--host",
    metavar="HOST",
    shell_complete=complete_host,
    help="A routed HOST or HOST:PORT: print the token that its requests get.",
)
@click.option(
    "--credential",
    metavar="NAME",
    shell_complete=complete_credential,
    help="Name of a credential in the configuration. Needs --scope.",
)
@click.option(
    "--scope",
    metavar="SCOPE",
    help="What the token is for: api://orders/.default. Without a configuration file, the route's.",
)
@click.option(
    "--claims", is_flag=True, help="Print the token's claims, decoded but not verified, instead of the token."
)
@json_option
def token(
    config: Source, host: str | None, credential: str | None, scope: str | None, claims: bool, as_json: bool
) -> None:
    """Print a new access token to stdout, and nothing else, for a routed host or for a credential and a scope.

    Without a configuration file there is only one route, so neither has to be given.

    The token is requested the same way the proxy does it. Anyone who has it can call the API until it expires.
    """
    if isinstance(config, OneRoute):
        if credential is not None:
            raise click.UsageError("--credential is a name in a configuration's file; leave it out, there is one only.")
    elif (host is None) == (credential is None) or (credential is None) != (scope is None):
        raise click.UsageError("Which token? Pass --host HOST, or --credential NAME with --scope SCOPE.")
    silence_logging()
    settings = load_settings(config, os.environ)
    if host is not None:
        name, target = _find_route(settings, host)
    elif credential is not None:
        name, target = _find_credential(settings, credential, scope)
    else:
        name, target = settings.routes[0].credential, target_of(settings.routes[0])
    value, life_s = asyncio.run(_obtain(settings, name, target))
    if claims:
        _write_claims(value)
    elif as_json:
        write_json(
            {
                "access_token": value,
                "token_type": "Bearer",
                "expires_in": int(life_s),
                "credential": name,
                "target": str(target),
            }
        )
    else:
        click.echo(value)


def _find_route(settings: Settings, host: str) -> tuple[str, Target]:
    try:
        authority = parse_authority(host.encode("utf-8", "surrogatepass"), HTTPS_PORT)
    except MalformedRequest as problem:
        raise click.BadParameter(problem.detail, param_hint="--host") from None
    table = RouteTable(
        (parse_host_pattern(text), index) for index, route in enumerate(settings.routes) for text in route.hosts
    )
    found = table.find(authority)
    if found is None:
        known = ", ".join(text for route in settings.routes for text in route.hosts)
        raise click.BadParameter(f"no route names {authority}; there are: {known}", param_hint="--host")
    return settings.routes[found].credential, target_of(settings.routes[found])


def _find_credential(settings: Settings, credential: str | None, scope: str | None) -> tuple[str, Target]:
    if credential is None or credential not in settings.credentials:
        hint = suggest(credential or "", settings.credentials)
        raise click.BadParameter(f"no credential has this name; {hint}", param_hint="--credential")
    return credential, Target(scope=scope)


async def _obtain(settings: Settings, name: str, target: Target) -> tuple[str, float]:
    sources = build_sources(settings, name)
    try:
        obtained = await sources.source_for(name, target).acquire()
        return obtained.value, obtained.expires_at_mono - obtained.obtained_at_mono
    finally:
        await sources.close()


def _write_claims(value: str) -> None:
    decoded = decode_access_token(value)
    if decoded is None:
        raise click.ClickException("The access token is opaque: it is not a JWT, so it has no claims to show.")
    write_json({"header": dict(decoded.header), "claims": dict(decoded.claims)})
    say("Decoded for diagnosis; the signature was not verified.")
