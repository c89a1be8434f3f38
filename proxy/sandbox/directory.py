"""The directory a sandbox writes for its users, and what the next sandbox in the same directory takes over from it.

Does I/O (files). Files that hold a key, private or subscription, are 0600 from their first byte, and replaced whole.

    config.yaml     a working configuration for `apim-auth-proxy run`
    sandbox.json    where everything is
    clientapp.pem   the client's certificate and key; also apart, as clientapp.crt and clientapp.key
    ca.pem          the CA to trust; ca.key is its key
    signing.pem     the keys that access tokens are signed with
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from proxy.sandbox.authority_ca import GATEWAY_NAME, CertificateAuthority, create_ca, is_usable
from proxy.sandbox.gateway import SUBSCRIPTION_KEY_FIELD
from proxy.sandbox.keys import (
    ClientCertificate,
    SandboxKeys,
    create_client_certificate,
    create_signing_keys,
    rsa_key_pem,
)
from proxy.sandbox.settings import SandboxError, SandboxSettings
from proxy.sandbox.tokens import SigningKey, signing_key

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime
    from pathlib import Path

# What says that a directory is a sandbox's.
_DESCRIPTION = "sandbox.json"
_PUBLIC_FILES = frozenset({"ca.pem", "clientapp.crt"})

_CONFIG_HEADER = """\
# Written by `apim-auth-proxy sandbox`, anew at each start. Use it with `apim-auth-proxy run --config config.yaml`, then
#   curl --proxy http://{proxy_address} http://{gateway_name}/orders
#   curl --proxy http://{proxy_address} http://{api_authority}/orders
"""


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """What a running sandbox tells its users."""

    tenant_id: str
    client_id: str
    identity_url: str
    token_endpoint: str
    scope: str
    api_url: str
    subscription_key: str
    keys: SandboxKeys
    machine_url: str
    identity_endpoint: str
    identity_header: str
    managed_identity_client_id: str

    def __repr__(self) -> str:
        return f"SandboxFacts(identity_url={self.identity_url!r}, api_url={self.api_url!r})"


def write_directory(facts: SandboxFacts, directory: Path, *, proxy_address: str, admin_address: str) -> None:
    """Write every file. The directory is made, 0700, if absent.

    Raises:
        SandboxError: the directory cannot be written to, or holds what no sandbox has made.
    """
    refuse_foreign(directory)
    client, ca = facts.keys.client, facts.keys.ca
    signing = b"".join(
        rsa_key_pem(each.private_key) + each.certificate.public_bytes(serialization.Encoding.PEM)
        for each in facts.keys.signing_keys
    )
    files = {
        "ca.pem": ca.certificate_pem,
        "ca.key": ca.private_key_pem,
        "signing.pem": signing,
        "clientapp.crt": client.certificate_pem,
        "clientapp.key": client.private_key_pem,
        "clientapp.pem": client.certificate_pem + client.private_key_pem,
        "config.yaml": format_config(facts, proxy_address, admin_address).encode(),
        _DESCRIPTION: json.dumps(describe(facts, directory.absolute()), indent=2).encode() + b"\n",
    }
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name, content in files.items():
            _replace(directory / name, content, 0o644 if name in _PUBLIC_FILES else 0o600)
    except OSError as error:
        raise SandboxError(f"{directory} cannot be written to ({error.strerror}). Name another directory.") from error


def refuse_foreign(directory: Path) -> None:
    """Raise where a directory holds files and none of them is a sandbox's description: ours would replace somebody's own.

    Raises:
        SandboxError: with a way out.
    """
    try:
        names = {path.name for path in directory.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise SandboxError(f"{directory} cannot be read ({error.strerror}). Name another directory.") from error
    if names and _DESCRIPTION not in names:
        raise SandboxError(
            f"{directory} holds files, and no sandbox has made them: there is no {_DESCRIPTION} among them. A sandbox would "
            "replace config.yaml, keys and certificates. Name an empty or a new directory."
        )


def describe(facts: SandboxFacts, directory: Path) -> dict[str, object]:
    """Return the content of ``sandbox.json``. Paths are absolute."""
    return {
        "tenant_id": facts.tenant_id,
        "client_id": facts.client_id,
        "authority": facts.identity_url,
        "token_endpoint": facts.token_endpoint,
        "scope": facts.scope,
        "api_url": facts.api_url,
        "api_alias": f"https://{GATEWAY_NAME}",
        "subscription_key": facts.subscription_key,
        "certificate": str(directory / "clientapp.pem"),
        "private_key": str(directory / "clientapp.key"),
        "ca_file": str(directory / "ca.pem"),
        "config_file": str(directory / "config.yaml"),
        "managed_identity_host": facts.machine_url,
        "managed_identity_client_id": facts.managed_identity_client_id,
        "identity_endpoint": facts.identity_endpoint,
        "identity_header": facts.identity_header,
    }


def format_config(facts: SandboxFacts, proxy_address: str, admin_address: str) -> str:
    """Return a working configuration for the proxy.

    Beside the address the gateway listens on, it routes a name as real gateways have it: without a port, and not one
    that clients exempt from proxying as they do ``localhost``.
    """
    api = urlsplit(facts.api_url)
    common: dict[str, object] = {
        "credential": "orders-client",
        "scope": facts.scope,
        "set_headers": {SUBSCRIPTION_KEY_FIELD: facts.subscription_key},
        "ca_file": "ca.pem",
    }
    configuration: dict[str, object] = {
        "listeners": [{"address": proxy_address, "mode": "forward"}],
        "credentials": {
            "orders-client": {
                "tenant_id": facts.tenant_id,
                "client_id": facts.client_id,
                "certificate": "clientapp.pem",
                "authority": facts.identity_url,
                "ca_file": "ca.pem",
            }
        },
        "routes": [
            {"hosts": [f"localhost:{api.port}", f"127.0.0.1:{api.port}"], **common},
            {"hosts": [GATEWAY_NAME], **common, "dial": f"127.0.0.1:{api.port}"},
        ],
        "admin": {"address": admin_address},
        "state_directory": "state",
    }
    header = _CONFIG_HEADER.format(
        proxy_address=proxy_address, gateway_name=GATEWAY_NAME, api_authority=f"localhost:{api.port}"
    )

    class _NoAliases(yaml.SafeDumper):
        def ignore_aliases(self, _data: object) -> bool:
            return True  # two routes share values; anchors would be valid, and puzzling

    return header + yaml.dump(configuration, Dumper=_NoAliases, sort_keys=False)


def load_settings(directory: Path, settings: SandboxSettings, now: datetime) -> SandboxSettings:
    """Return the settings with keys, subscription key and ports taken over from the directory.

    So clients of an earlier sandbox there need not notice a restart. What is missing, or about to expire, is made anew.
    Blocks.

    Raises:
        SandboxError: a file is there, but is not what it should be; or the directory holds what no sandbox has made.
    """
    refuse_foreign(directory)
    earlier = _read_description(directory)
    named = ("authority", "api_url", "managed_identity_host")
    ports = {name: urlsplit(earlier.get(name, "")).port or 0 for name in named}
    return replace(
        settings,
        keys=settings.keys or _load_keys(directory, now),
        subscription_key=settings.subscription_key or earlier.get("subscription_key"),
        identity_port=settings.identity_port or ports["authority"],
        api_port=settings.api_port or ports["api_url"],
        machine_port=settings.machine_port or ports["managed_identity_host"],
        identity_header=settings.identity_header or earlier.get("identity_header"),
    )


def _read_description(directory: Path) -> Mapping[str, str]:
    path = directory / _DESCRIPTION
    description = _load(path, lambda raw: dict(json.loads(raw)))
    return {name: value for name, value in (description or {}).items() if isinstance(value, str)}


def _load_keys(directory: Path, now: datetime) -> SandboxKeys:
    ca_certificate = _load(directory / "ca.pem", x509.load_pem_x509_certificate)
    ca_key = _load(directory / "ca.key", _parse_ec_key)
    if ca_certificate is None or ca_key is None or not is_usable(ca_certificate, now):
        ca = create_ca(now)
    else:
        ca = CertificateAuthority(ca_certificate, ca_key)
    client = _load(directory / "clientapp.pem", _parse_client)
    if client is None or not is_usable(client.certificate, now):
        client = create_client_certificate(now)
    signing = _load(directory / "signing.pem", _parse_signing_keys)
    return SandboxKeys(ca, client, signing or create_signing_keys(now))


_Parsed = TypeVar("_Parsed")


def _load(path: Path, parse: Callable[[bytes], _Parsed]) -> _Parsed | None:
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SandboxError(f"{path} cannot be read ({error.strerror}).") from error
    except (ValueError, TypeError) as error:
        raise SandboxError(
            f"{path} is not what a sandbox wrote there. Delete it, or name another directory."
        ) from error


def _parse_ec_key(raw: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(raw, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError
    return key


def _parse_rsa_key(raw: bytes) -> rsa.RSAPrivateKey:
    key = serialization.load_pem_private_key(raw, None)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise TypeError
    return key


def _parse_client(raw: bytes) -> ClientCertificate:
    begin = raw.find(b"-----BEGIN PRIVATE KEY-----")
    return ClientCertificate(_parse_rsa_key(raw[max(begin, 0) :]), x509.load_pem_x509_certificate(raw))


def _parse_signing_keys(raw: bytes) -> tuple[SigningKey, ...]:
    begin = b"-----BEGIN PRIVATE KEY-----"
    sections = [begin + each for each in raw.split(begin)[1:]]
    return tuple(signing_key(_parse_rsa_key(each), x509.load_pem_x509_certificate(each)) for each in sections)


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace a file whole: readers see the old one or the new one, and never with wider permissions."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
