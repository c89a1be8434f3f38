"""What can be wrong between the keys of one credential: which proof it has, and what belongs to which. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.config.faults import suggest
from proxy.config.settings import ClientAuthentication, CredentialSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.config.faults import Finding, KeyPath
    from proxy.config.parsed import Value

_PROOFS = (
    "certificate",
    "certificates",
    "key_vault_key",
    "federated_token_file",
    "federated_managed_identity",
    "client_secret",
)
# What may stand beside `managed_identity`: nothing that is about an application, or about how it proves itself.
_BESIDE_MANAGED_IDENTITY = frozenset({"managed_identity", "lazy"})
_MACHINES_OWN = (
    "managed_identity is the machine's own identity, without application, tenant or proof; remove this key. For an application "
    "that trusts that identity, write federated_managed_identity in its place"
)
# key: what it needs beside it
_NEEDS = (
    ("private_key", "certificate"),
    ("password_file", "certificate"),
    ("signer_command", "certificate"),
    ("key_vault_credential", "key_vault_key"),
    ("managed_identity_client_id", "key_vault_key"),
)
# two keys that say the same thing in two ways, and why one is enough; the first is reported
_EXCLUDES = (
    ("private_key", "signer_command", "the signer command holds the key"),
    ("password_file", "signer_command", "the signer command holds the key"),
    ("private_key", "key_vault_key", "the vault holds the key"),
    ("password_file", "key_vault_key", "the vault holds the key"),
    ("signer_command", "key_vault_key", "both sign"),
    ("managed_identity_client_id", "key_vault_credential", "both say who uses the vault"),
    ("cloud", "token_endpoint", "the cloud belongs to tenant_id"),
    ("cloud", "authority", "both say where to sign in"),
)


# With client_authentication: tls, what is about assertions, or about keys that cannot take part in a handshake.
_NOT_WITH_TLS = (
    ("tenant_id", "Microsoft Entra ID knows no such clients"),
    ("certificates", "one certificate is shown"),
    ("signer_command", "the key takes part in the handshake itself"),
    ("key_vault_key", "the key takes part in the handshake itself"),
    ("federated_token_file", "the certificate is the proof"),
    ("federated_managed_identity", "the certificate is the proof"),
    ("client_secret", "the certificate is the proof"),
    ("assertion_audience", "no assertion is sent"),
    ("assertion_algorithm", "no assertion is sent"),
    ("send_certificate_chain", "the handshake has the whole chain of the file"),
)


def _check_machines_own(path: KeyPath, given: set[str]) -> Iterator[Finding]:
    for key in CredentialSettings.__struct_fields__:
        if key in given and key not in _BESIDE_MANAGED_IDENTITY:
            yield (*path, key), _MACHINES_OWN


def _check_tls(path: KeyPath, given: set[str]) -> Iterator[Finding]:
    for key, why in _NOT_WITH_TLS:
        if key in given:
            yield (*path, key), f"with client_authentication: tls, {why}; remove this key"
    if "certificate" not in given:
        yield (*path, "client_authentication"), "tls needs the certificate that is shown; add certificate"


def check_proof(path: KeyPath, credential: Mapping[str, Value], names: Mapping[str, Value]) -> Iterator[Finding]:
    """Yield what is wrong between the keys of a credential.

    Args:
        path: of the credential.
        credential: as it is written.
        names: all credentials by name.
    """
    given = {key for key, value in credential.items() if value not in (None, [])}
    if "managed_identity" in given:
        yield from _check_machines_own(path, given)
        return
    if "client_id" not in given and credential.get("client_id") is None:
        yield (*path, "client_id"), "this key is required: the application (client) ID, a GUID in Microsoft Entra ID"
    if credential.get("client_authentication") == ClientAuthentication.TLS:
        yield from _check_tls(path, given)
        return
    proofs = [key for key in _PROOFS if key in given]
    if "key_vault_key" in proofs and "certificate" in proofs:
        proofs.remove("certificate")  # The vault key's own.
    if not proofs:
        yield path, "how does it prove who it is? Add certificate (`apim-auth-proxy cert new` makes one)"
    elif len(proofs) > 1:
        yield (*path, proofs[1]), f"{proofs[0]} already says how it proves who it is; remove one of the two"
    yield from _check_pairs(path, given)
    yield from _check_vault_credential(path, credential.get("key_vault_credential"), names)


def _check_pairs(path: KeyPath, given: set[str]) -> Iterator[Finding]:
    for key, other in _NEEDS:
        if key in given and other not in given:
            yield (*path, key), f"this key needs {other}; add that, or remove this key"
    for key, other, why in _EXCLUDES:
        if key in given and other in given:
            yield (*path, key), f"{why}: remove it, or {other}"


def _check_vault_credential(path: KeyPath, name: Value, names: Mapping[str, Value]) -> Iterator[Finding]:
    if not isinstance(name, str):
        return
    where = (*path, "key_vault_credential")
    if name not in names:
        yield where, f"no credential has this name; {suggest(name, names)}"
        return
    other = names[name]
    if name == path[-1] or (isinstance(other, dict) and other.get("key_vault_key") is not None):
        yield where, "that credential needs a vault itself; name one that does not"


def check_target(path: KeyPath, route: Mapping[str, Value]) -> Iterator[Finding]:
    """Yield what is wrong with what a route asks a token for."""
    has_scope, has_resource = route.get("scope") is not None, route.get("resource") is not None
    if has_scope and has_resource:
        yield (*path, "resource"), "scope already says what the token is for; remove one of the two"
    elif not has_scope and not has_resource:
        yield (*path, "scope"), "what is the token for? Add scope, such as api://orders/.default"
