"""`init`: a certificate, a commented configuration, and the commands that register both. Writes files."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
import secrets
import shlex
import socket
import ssl
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from click.core import ParameterSource

from proxy.cli import describe_left_out
from proxy.cli.options import json_option
from proxy.cli.redirection import print_rules
from proxy.cli.terminal import say, write_json
from proxy.client_setup.answers import read_host, read_tenant
from proxy.client_setup.clouds import cloud_of
from proxy.client_setup.first_config import FirstConfig, format_first_config
from proxy.client_setup.registration import Form, Registration, default_scope, format_registration
from proxy.config.addresses import ListenAddress, parse_listen_address
from proxy.config.faults import ConfigurationFaults, as_sentence
from proxy.config.loading import load_settings
from proxy.config.settings import Cloud
from proxy.config.source import StandardInput
from proxy.errors import ConfigurationError
from proxy.identity.certificate import load_certificate
from proxy.identity.certificate_creation import create_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._-]{0,80}")
_ROLE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
_GUID: Final = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_DAYS: Final = 365
_KEY_BITS: Final = 2_048
_TRIED_PORTS: Final = 20
_ANY_ID: Final = "00000000-0000-0000-0000-000000000000"
# Which option says what stands under a key of the first configuration.
_OPTION_OF: Final = {
    "listeners[0].address": "--listen",
    "admin.address": "--admin",
    "credentials.api-client.client_id": "--client-id",
    "routes[0].scope": "--scope",
}


@click.command()
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    metavar="DIR",
    help="Where to write the files.",
)
@click.option(
    "--sandbox", is_flag=True, help="Set up a local sandbox in DIR/sandbox instead of Azure. Asks no questions."
)
@click.option("--tenant-id", metavar="ID", help="The tenant, as a GUID or a domain.")
@click.option("--host", metavar="HOST", help="The API's host, such as contoso.azure-api.net.")
@click.option("--client-id", metavar="ID", help="The application's client ID, if it is registered already.")
@click.option(
    "--scope", metavar="SCOPE", help="The API's identifier URI followed by /.default, if the API is registered already."
)
@click.option(
    "--managed-identity",
    metavar="system|ID",
    help="Use this machine's managed identity itself: system, or the client ID of a user-assigned one. No certificate is created.",
)
@click.option(
    "--federated-managed-identity",
    metavar="system|ID",
    help="Let the application trust a managed identity, instead of a certificate.",
)
@click.option(
    "--name", default="Orders", show_default=True, metavar="NAME", help="Start of the display names in Entra ID."
)
@click.option(
    "--role", default="Orders.Read", show_default=True, metavar="ROLE", help="The app role that the API requires."
)
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="ADDRESS",
    help="Address that programs use as their proxy.",
)
@click.option(
    "--admin", default="127.0.0.1:9901", show_default=True, metavar="ADDRESS", help="Address of the admin site."
)
@click.option(
    "--registration",
    type=click.Choice([form.value for form in Form]),
    default=Form.AZ.value,
    show_default=True,
    help="How to print the registration.",
)
@click.option(
    "--cloud",
    type=click.Choice([cloud.value for cloud in Cloud]),
    help="The Microsoft Entra ID cloud. [default: from the host: azure-api.us is usgov, azure-api.cn is china]",
)
@click.option(
    "--keep-key/--new-certificate",
    default=True,
    show_default=True,
    help="Keep the certificate and key that are in DIR, or create new ones. To replace existing ones, add --force.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files. A key is replaced only with --new-certificate.")
@click.option(
    "--transparent",
    is_flag=True,
    help="Write nothing. Print nftables rules that redirect connections to the transparent listener of DIR/config.yaml.",
)
@click.option(
    "--proxy-user", metavar="USER", help="With --transparent: the user that the proxy runs as, by name or number."
)
@click.option(
    "--inside", metavar="INTERFACE", help="With --transparent, on a gateway: where the programs' connections come in."
)
@json_option
def init(
    directory: Path,
    sandbox: bool,
    tenant_id: str | None,
    host: str | None,
    client_id: str | None,
    scope: str | None,
    managed_identity: str | None,
    federated_managed_identity: str | None,
    name: str,
    role: str,
    listen: str,
    admin: str,
    registration: str,
    cloud: str | None,
    keep_key: bool,
    force: bool,
    transparent: bool,
    proxy_user: str | None,
    inside: str | None,
    as_json: bool,
) -> None:
    """Create a key and a certificate, write a commented config.yaml, and print how to register them in Azure.

    Asks for whatever the options leave open. The registration goes to stdout, as commands or as a template: read it, then
    run it.

    If the applications are registered already, pass --client-id and --scope. Otherwise config.yaml contains ${CLIENT_ID}
    and ${API_ID}. The az commands replace both with the new IDs; a Bicep or Terraform template has outputs of the
    same names, for you to set as environment variables.
    """
    if transparent or proxy_user is not None or inside is not None:
        _print_rules(directory, listen, proxy_user, inside, transparent=transparent, as_json=as_json)
        return
    if _NAME.fullmatch(name) is None or _ROLE.fullmatch(role) is None:
        raise click.UsageError("--name and --role consist of letters, digits, dots, hyphens and underscores.")
    identity = _choose_identity(managed_identity, federated_managed_identity)
    if identity is not None and sandbox:
        raise click.UsageError("A managed identity does not go with --sandbox.")
    if Form(registration) is not Form.AZ and (client_id or scope):
        raise click.UsageError(
            f"--registration {registration} registers both applications from the start. What goes with an application that is "
            "registered already comes with --registration az."
        )
    config_file, pair = directory / "config.yaml", (directory / "clientapp.crt", directory / "clientapp.key")
    needs_pair = not sandbox and identity is None
    there = _find_pair(*pair) if needs_pair and keep_key else None
    _check_absent([config_file] if not needs_pair or there is not None else [config_file, *pair], force=force)
    tenant = "" if sandbox else _settle(tenant_id, read_tenant, "--tenant-id", "Tenant (GUID or domain)")
    api_host = "" if sandbox else _settle(host, read_host, "--host", "The API's host, such as contoso.azure-api.net")
    _require_usable(listen, admin, client_id, scope)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if sandbox:
            listen, admin = _choose_address("listen", listen), _choose_address("admin", admin)
            _write(config_file, format_first_config(_make_sandbox(directory, listen, admin)).encode())
            _say_sandbox(directory)
            if as_json:
                write_json({"written": [str(config_file), str(directory / "sandbox")], "registration": None})
            return
        in_cloud = Cloud(cloud) if cloud is not None else cloud_of(api_host)
        first = FirstConfig(
            tenant_id=tenant,
            client_id=client_id or "${CLIENT_ID}",
            host=api_host,
            scope=scope or default_scope(Form(registration)),
            certificate="clientapp.crt" if needs_pair else None,
            private_key="clientapp.key" if needs_pair else None,
            listen=listen,
            admin=admin,
            cloud=None if in_cloud is Cloud.PUBLIC else in_cloud.value,
            managed_identity=managed_identity,
            federated_managed_identity=federated_managed_identity,
        )
        certificate = there
        written = [config_file]
        if certificate is None and needs_pair:
            certificate, key = create_certificate(name, _DAYS, _KEY_BITS, datetime.now(UTC))
            _write(pair[1], key)
            try:
                _write(pair[0], certificate, 0o644)
            except OSError:
                pair[1].unlink(missing_ok=True)  # it has no certificate
                raise
            written += pair
        _write(config_file, format_first_config(first).encode())
    except OSError as error:
        raise click.ClickException(
            f"{directory} cannot be written to: {error.strerror}. Name another --directory."
        ) from None
    plan = Registration(
        name,
        role,
        str(uuid.uuid4()),
        str(pair[0]),
        "" if certificate is None else certificate.decode("ascii"),
        str(config_file),
        tenant,
        in_cloud,
        client_id,
        scope,
        is_new_certificate=needs_pair and there is None,
        identity=identity,
        is_federated=federated_managed_identity is not None,
    )
    text = format_registration(plan, Form(registration))
    if as_json:
        write_json({"written": [str(file) for file in written], "registration": {"form": registration, "text": text}})
    else:
        click.echo(text)
    next_steps = (
        f"  apim-auth-proxy check --config {_quote(config_file)} --online\n"
        f"  apim-auth-proxy exec --config {_quote(config_file)} --start -- curl -i https://{api_host.replace('*', 'NAME')}/"
    )
    if needs_pair:
        _say_what_next(written, next_steps, pair[0], is_new=there is None, is_registered=plan.is_complete)
    else:
        say(
            f"Wrote {config_file}. It needs no key and no certificate.\nNext, register it as printed above. Then, on the machine "
            f"that has the identity, check it and call the API:\n{next_steps}"
        )


def _require_usable(listen: str, admin: str, client_id: str | None, scope: str | None) -> None:
    """Refuse what an option says if no proxy would start with it, before anything is written.

    Raises:
        click.BadParameter: as the configuration's own checks put it.
    """
    likely = FirstConfig(
        tenant_id=_ANY_ID,
        client_id=client_id or _ANY_ID,
        host="api.example.com",
        scope=scope or "api://orders/.default",
        certificate="clientapp.crt",
        private_key="clientapp.key",
        listen=listen,
        admin=admin,
    )
    source = StandardInput(format_first_config(likely).encode(), Path.cwd())
    try:
        load_settings(source, os.environ, check_files=False)
    except ConfigurationFaults as wrong:
        for fault in wrong.faults:
            if fault.path in _OPTION_OF:
                raise click.BadParameter(as_sentence(fault.message), param_hint=_OPTION_OF[fault.path]) from None


def _check_absent(files: list[Path], *, force: bool) -> None:
    for file in files:
        if file.exists() and not force:
            raise click.ClickException(
                f"{file} exists already. Name another --directory, or overwrite it with --force."
            )


def _print_rules(
    directory: Path, listen: str, proxy_user: str | None, inside: str | None, *, transparent: bool, as_json: bool
) -> None:
    if not transparent:
        raise click.UsageError("--proxy-user and --inside go with --transparent.")
    is_default = click.get_current_context().get_parameter_source("listen") is ParameterSource.DEFAULT
    print_rules(directory / "config.yaml", None if is_default else listen, proxy_user, inside, as_json=as_json)


def _choose_identity(alone: str | None, federated: str | None) -> str | None:
    """Return the managed identity that is meant; None for none.

    Raises:
        click.UsageError: with what can be meant.
    """
    if alone is not None and federated is not None:
        raise click.UsageError(
            "Pass --managed-identity or --federated-managed-identity, not both: only the second one has an application."
        )
    identity = alone or federated
    if identity is not None and identity != "system" and _GUID.fullmatch(identity) is None:
        raise click.UsageError(
            f"{identity!r} is not a managed identity: write system, or the client ID of a user-assigned one."
        )
    return identity


def _say_what_next(
    written: list[Path], next_steps: str, certificate: Path, *, is_new: bool, is_registered: bool
) -> None:
    kept = "" if is_new else f" Kept {certificate} and its key, which were there and match."
    todo = "Next," if is_registered else "Next, register it as printed above. Then"
    life = (
        f"The certificate is valid for {_DAYS} days. `check` and a metric warn before it expires. To replace it "
        "without downtime, list the new one first under `certificates:`."
    )
    say(
        f"Wrote {', '.join(map(str, written))}.{kept} The key stays on this machine.\n"
        f"{todo} check it and call the API:\n{next_steps}" + (f"\n{life}" if is_new else "")
    )


def _find_pair(certificate: Path, key: Path) -> bytes | None:
    """Return the certificate that is there, None where neither it nor a key is.

    Raises:
        click.ClickException: what is there is no pair that can be used; a key is never replaced unasked.
    """
    if not certificate.exists() and not key.exists():
        return None
    try:
        found = load_certificate(certificate, key, None)
        problem = found.date_problem(datetime.now(UTC))
    except ConfigurationError as error:
        problem = error.detail
    if problem is None:
        return ssl.DER_cert_to_PEM_cert(found.chain_der[0]).encode("ascii")
    raise click.ClickException(
        f"{problem} The certificate and key in {certificate.parent} are kept unless told otherwise: move them away, or replace "
        "both with --new-certificate --force."
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
            f"`init` cannot ask: there is no terminal to answer at. Pass {option}. It asks nothing with --tenant-id ID and --host "
            "HOST, or with --sandbox."
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
                say(f"Another program is using {address}, so this configuration uses {other}.")
                return str(other)
    raise click.ClickException(
        f"Another program is using {address}. Stop it, or choose another address with --{option}."
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
    try:
        from proxy.sandbox import Sandbox, SandboxError, SandboxSettings, lasting_ports  # noqa: PLC0415
    except ModuleNotFoundError:
        raise click.ClickException(describe_left_out("sandbox")) from None

    async def make() -> None:
        identity_port, api_port, machine_port = lasting_ports(3)
        async with Sandbox(
            SandboxSettings(identity_port=identity_port, api_port=api_port, machine_port=machine_port)
        ) as running:
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
        f"Wrote {directory / 'config.yaml'} and a sandbox in {directory / 'sandbox'}. Call its API, which requires a token:\n"
        f"  apim-auth-proxy exec{there} -- curl -i {facts['api_alias']}/orders\n"
        "That runs the sandbox and a proxy until curl ends. To keep them running instead:\n"
        f"  apim-auth-proxy sandbox --directory {_quote(directory / 'sandbox')} &\n"
        f"  apim-auth-proxy run --config {config}"
    )


def _quote(path: Path) -> str:
    return shlex.quote(str(path))


def _write(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file that nobody else can read at any moment of it, whole or not at all."""
    whole = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        whole.replace(file)
    except BaseException:
        whole.unlink(missing_ok=True)
        raise
