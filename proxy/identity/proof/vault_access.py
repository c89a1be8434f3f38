"""Who may use a key vault: the machine's managed identity, or another credential. Does no I/O until it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.identity.credential import Target
from proxy.identity.https_client import HttpsClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.config.settings import CredentialSettings
    from proxy.dialing.dialer import Dialer
    from proxy.identity.machine import Machine
    from proxy.identity.proof.key_vault import VaultKey
    from proxy.identity.source import TokenSource


class VaultAccess:
    """Access tokens and connections for key vaults, shared by the keys that are used."""

    def __init__(
        self,
        find_source: Callable[[str, Target], TokenSource],
        machine: Machine,
        *,
        dialer: Dialer | None = None,
    ) -> None:
        """Prepare.

        Args:
            find_source: the token source of another credential.
            machine: whose managed identity uses vaults where no credential does; closed with this object.
            dialer: opens connections to vaults; managed identities are on the machine itself and reached directly.
        """
        self._find_source = find_source
        self.machine = machine
        self._dialer = dialer
        self._clients: dict[Path | None, HttpsClient] = {}

    def client(self, ca_file: Path | None) -> HttpsClient:
        """Return the client that trusts this CA file.

        Raises:
            ConfigurationError: the file cannot be used.
        """
        if ca_file not in self._clients:
            self._clients[ca_file] = HttpsClient("key vault", ca_file=ca_file, dialer=self._dialer)
        return self._clients[ca_file]

    def tokens(self, settings: CredentialSettings, key: VaultKey) -> TokenSource:
        """Return the access tokens that a credential uses its vault key with."""
        if settings.key_vault_credential is not None:
            return self._find_source(settings.key_vault_credential, Target(scope=f"{key.resource}/.default"))
        return self.machine.tokens(settings.managed_identity_client_id, key.resource, "managed_identity_client_id")

    async def close(self) -> None:
        """Close tokens."""
        await self.machine.close()
