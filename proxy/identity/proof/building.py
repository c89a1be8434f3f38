"""From settings to proofs: reads the files a credential names."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from proxy.config.settings import FEDERATION_AUDIENCES, CertificateSettings, ClientAuthentication
from proxy.dialing.trust import create_own_tls_context
from proxy.errors import ConfigurationError
from proxy.identity.assertion import AssertionOptions
from proxy.identity.certificate import describe_certificate, load_certificate, load_public_certificate
from proxy.identity.managed_identity import find_client_id
from proxy.identity.proof import federated_managed_identity
from proxy.identity.proof.client_secret import WARNING, ClientSecret
from proxy.identity.proof.federated_managed_identity import FederatedManagedIdentity
from proxy.identity.proof.federated_token import FederatedToken
from proxy.identity.proof.key_vault import KeyVaultSigner, parse_vault_key
from proxy.identity.proof.signed_assertion import CertificateSigner, SignedAssertion
from proxy.identity.proof.signer_command import CommandSigner
from proxy.identity.proof.tls_certificate import TlsCertificate
from proxy.keys.pairs import read_pair
from proxy.keys.passwords import read_password
from proxy.keys.tls import load_pair

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.config.settings import CredentialSettings
    from proxy.identity.proof.interface import Proof, Signer
    from proxy.identity.proof.vault_access import VaultAccess

logger = logging.getLogger("proxy.identity")


def list_certificates(settings: CredentialSettings) -> tuple[CertificateSettings, ...]:
    """Return the certificate files of a credential, with what belongs to each, in order of preference."""
    if settings.certificate is None:
        return settings.certificates
    return (
        CertificateSettings(
            certificate=settings.certificate, private_key=settings.private_key, password_file=settings.password_file
        ),
    )


def list_proof_files(settings: CredentialSettings) -> tuple[Path, ...]:
    """Return the files whose change means a new proof; a federated token is read anew each time anyway."""
    return tuple(
        file
        for entry in list_certificates(settings)
        for file in (entry.certificate, entry.private_key, entry.password_file)
        if file is not None
    )


def create_proofs(settings: CredentialSettings, vaults: VaultAccess) -> list[Proof]:
    """Return the proofs of a credential, in order of preference. Blocks on small files.

    Raises:
        ConfigurationError: a file cannot be read or used.
    """
    options = AssertionOptions(settings.assertion_algorithm.value, settings.send_certificate_chain)
    if settings.client_secret is not None:
        logger.warning("client %s %s", settings.client_id, WARNING)
        return [ClientSecret(settings.client_secret.reveal())]
    if settings.federated_token_file is not None:
        return [FederatedToken(settings.federated_token_file)]
    if settings.federated_managed_identity is not None:
        which = find_client_id(settings.federated_managed_identity)
        audience = settings.assertion_audience or FEDERATION_AUDIENCES[settings.cloud]
        tokens = vaults.machine.tokens(which, audience, federated_managed_identity.SETTING)
        return [FederatedManagedIdentity(tokens, which)]
    if settings.key_vault_key is not None or settings.signer_command:
        return [SignedAssertion(_create_signer(settings, vaults), options)]
    if settings.client_authentication is ClientAuthentication.TLS:
        return [load_tls_certificate(settings)]
    return [SignedAssertion(signer, options) for signer in _load_signers(settings)]


def load_tls_certificate(settings: CredentialSettings) -> TlsCertificate:
    """Return the certificate that a credential shows in TLS handshakes.

    Raises:
        ConfigurationError: a file cannot be read or used.
    """
    if settings.certificate is None:
        raise ConfigurationError("client_authentication: tls needs the certificate that is shown; add `certificate`.")
    pair = read_pair(settings.certificate, settings.private_key, read_password(settings.password_file))
    context = create_own_tls_context(settings.ca_file)
    load_pair(context, pair, settings.certificate)
    return TlsCertificate(describe_certificate(pair, settings.certificate), context)


def _create_signer(settings: CredentialSettings, vaults: VaultAccess) -> Signer:
    public = load_public_certificate(settings.certificate) if settings.certificate is not None else None
    if settings.key_vault_key is not None:
        key = parse_vault_key(settings.key_vault_key)
        tokens, client = vaults.tokens(settings, key), vaults.client(settings.ca_file)
        return KeyVaultSigner(key, tokens, client, certificate=public)
    if public is None:
        raise ConfigurationError("signer_command needs the certificate whose key it holds; add `certificate`.")
    return CommandSigner(settings.signer_command, public)


def _load_signers(settings: CredentialSettings) -> list[CertificateSigner]:
    """Return a signer for each certificate, whatever its dates: they are judged whenever a token is asked for."""
    listed = list_certificates(settings)
    if not listed:
        raise ConfigurationError("The credential names no certificate; add `certificate`.")
    return [
        CertificateSigner(load_certificate(one.certificate, one.private_key, read_password(one.password_file)))
        for one in listed
    ]
