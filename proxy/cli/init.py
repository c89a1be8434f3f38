"""`init`: a certificate, a commented configuration, and the commands that register both. Writes files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import shlex
import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from proxy.cli.options import json_option
from proxy.cli.terminal import say, write_json
from proxy.client_setup.answers import read_host, read_tenant
from proxy.client_setup.first_config import FirstConfig, format_first_config
from proxy.client_setup.registration import Form, Registration, default_scope, format_registration
from proxy.config.addresses import ListenAddress, parse_listen_address
from proxy.identity.certificate_creation import create_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,80}")
_ROLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_DAYS: Final = 365
_KEY_BITS: Final = 2_048
_TRIED_PORTS: Final = 20


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where to write.",
)
@click.option("--sandbox", is_flag=True, help="For a sandbox on this machine, which DIR/sandbox then is; asks nothing.")
@click.option("--tenant-id", metavar="ID", help="GUID or domain of the tenant.")
@click.option("--host", metavar="HOST", help="The API's host, such as contoso.azure-api.net.")
@click.option("--client-id", metavar="ID", help="Of the application, where it is registered already.")
@click.option(
    "--scope", metavar="SCOPE", help="The API's identifier URI and /.default, where it is registered already."
)
@click.option(
    "--name", default="Orders", show_default=True, metavar="NAME", help="For the registrations' display names."
)
@click.option(
    "--role", default="Orders.Read", show_default=True, metavar="ROLE", help="The app role that the API asks for."
)
@click.option(
    "--listen", default="127.0.0.1:8080", show_default=True, metavar="ADDRESS", help="Of the forward listener."
)
@click.option("--admin", default="127.0.0.1:9901", show_default=True, metavar="ADDRESS", help="Of the admin site.")
@click.option(
    "--registration",
    type=click.Choice([form.value for form in Form]),
    default=Form.AZ.value,
    show_default=True,
    help="What to print for the registration.",
)
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@json_option
def init(
    directory: Path,
    sandbox: bool,
    tenant_id: str | None,
    host: str | None,
    client_id: str | None,
    scope: str | None,
    name: str,
    role: str,
    listen: str,
    admin: str,
    registration: str,
    force: bool,
    as_json: bool,
) -> None:
    """Make a key and a certificate, write a commented config.yaml, and print what registers them.

    Asks for what no option names. The registration goes to stdout, as commands or as a template; read it, then run it.
    What is registered already is named with --client-id and --scope; otherwise the configuration holds ${CLIENT_ID} and
    ${API_ID}. The commands write the ids in their place; a template puts them out, as variables of these names.
    """
    if _NAME.fullmatch(name) is None or _ROLE.fullmatch(role) is None:
        raise click.UsageError("--name and --role consist of letters, digits, dots, hyphens and underscores.")
    files = [directory / "config.yaml"] + (
        [] if sandbox else [directory / "clientapp.crt", directory / "clientapp.key"]
    )
    for file in files:
        if file.exists() and not force:
            raise click.ClickException(
                f"{file} exists already. Name another --directory, or overwrite it with --force."
            )
    tenant = "" if sandbox else _settle(tenant_id, read_tenant, "--tenant-id", "Tenant (GUID or domain)")
    api_host = "" if sandbox else _settle(host, read_host, "--host", "The API's host, such as contoso.azure-api.net")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if sandbox:
            listen, admin = _choose_address("listen", listen), _choose_address("admin", admin)
            _write(files[0], format_first_config(_make_sandbox(directory, listen, admin)).encode())
            _say_sandbox(directory)
            if as_json:
                write_json({"written": [str(files[0]), str(directory / "sandbox")], "registration": None})
            return
        first = FirstConfig(
            tenant_id=tenant,
            client_id=client_id or "${CLIENT_ID}",
            host=api_host,
            scope=scope or default_scope(Form(registration)),
            certificate="clientapp.crt",
            private_key="clientapp.key",
            listen=listen,
            admin=admin,
        )
        certificate, key = create_certificate(name, _DAYS, _KEY_BITS, datetime.now(UTC))
        for file, content, mode in zip(
            files, (format_first_config(first).encode(), certificate, key), (0o600, 0o644, 0o600), strict=True
        ):
            _write(file, content, mode)
    except OSError as error:
        raise click.ClickException(
            f"{directory} cannot be written to: {error.strerror}. Name another --directory."
        ) from None
    plan = Registration(
        name, role, str(uuid.uuid4()), str(files[1]), certificate.decode("ascii"), str(files[0]), tenant
    )
    text = format_registration(plan, Form(registration))
    if as_json:
        write_json({"written": [str(file) for file in files], "registration": {"form": registration, "text": text}})
    else:
        click.echo(text)
    say(
        f"Written: {', '.join(map(str, files))}. The key stays here. Run what is printed above, then:\n"
        f"  apim-auth-proxy check --config {_quote(files[0])} --online\n"
        f"The certificate lasts {_DAYS} days. `check` and a metric warn ahead; to replace it without a pause, list a new one "
        "before it under `certificates:`."
    )


def _settle(given: str | None, read: Callable[[str], str], option: str, question: str) -> str:
    """Return what an option says, or what somebody answers; asks again where that cannot be used."""

    def judge(text: str) -> str:
        try:
            return read(text)
        except ValueError as problem:
            raise click.BadParameter(f"{problem}.", param_hint=option) from None

    if given is not None:
        return judge(given)
    try:
        answer: str = click.prompt(question, err=True, value_proc=judge)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError(
            f"Nobody answers here. Say it with {option}; without questions, `init` takes --tenant-id ID and --host HOST, or"
            " --sandbox."
        ) from None
    return answer


def _choose_address(option: str, text: str) -> str:
    """Return the address, or one with another port where that is taken and nobody has asked for it."""
    address = parse_listen_address(text)
    if address.path is not None or address.port == 0 or _is_free(address):
        return text
    if click.get_current_context().get_parameter_source(option) is ParameterSource.DEFAULT:
        for port in range(address.port + 1, address.port + _TRIED_PORTS):
            other = ListenAddress(address.host, port)
            if _is_free(other):
                say(f"Another program listens at {address}, so it is {other} here.")
                return str(other)
    raise click.ClickException(
        f"Another program listens at {address}. Stop it, or name another address with --{option}."
    )


def _is_free(address: ListenAddress) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a proxy that has just ended is no obstacle
        try:
            probe.bind((address.host, address.port))
            probe.listen()
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _make_sandbox(directory: Path, listen: str, admin: str) -> FirstConfig:
    """Make a sandbox's keys and choose its ports, and return a configuration for it."""
    # It brings aiohttp, which the rest does not need.
    from proxy.sandbox import Sandbox, SandboxError, SandboxSettings, lasting_ports  # noqa: PLC0415

    async def make() -> None:
        identity_port, api_port = lasting_ports(2)
        async with Sandbox(SandboxSettings(identity_port=identity_port, api_port=api_port)) as running:
            await asyncio.to_thread(running.write_directory, directory / "sandbox")

    try:
        asyncio.run(make())
    except SandboxError as error:
        raise click.ClickException(str(error)) from None
    facts = json.loads((directory / "sandbox" / "sandbox.json").read_text(encoding="utf-8"))
    return FirstConfig(
        tenant_id=facts["tenant_id"],
        client_id=facts["client_id"],
        host=facts["api_alias"].removeprefix("https://"),
        scope=facts["scope"],
        certificate="sandbox/clientapp.pem",
        private_key=None,
        listen=listen,
        admin=admin,
        authority=facts["authority"],
        ca_file="sandbox/ca.pem",
        dial=f"127.0.0.1:{facts['api_url'].rpartition(':')[2]}",
        subscription_key=facts["subscription_key"],
        state_directory="state",
    )


def _say_sandbox(directory: Path) -> None:
    facts = json.loads((directory / "sandbox" / "sandbox.json").read_text(encoding="utf-8"))
    config = _quote(directory / "config.yaml")
    there = "" if directory == Path() else f" --config {config}"
    say(
        f"Written: {directory / 'config.yaml'}, and a sandbox in {directory / 'sandbox'}. Call its API, which wants a token:\n"
        f"  apim-auth-proxy exec{there} -- curl -i {facts['api_alias']}/orders\n"
        "That starts the sandbox and a proxy for as long as curl runs. To let them run:\n"
        f"  apim-auth-proxy sandbox --directory {_quote(directory / 'sandbox')} &\n"
        f"  apim-auth-proxy run --config {config}"
    )


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _write(file: Path, content: bytes, mode: int = 0o600) -> None:
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
