"""Who may use a key vault: the machine's managed identity, or another credential. Does no I/O until it is used."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from proxy.identity.credential import Target
from proxy.identity.https_client import HttpsClient
from proxy.identity.managed_identity import ManagedIdentity, find_endpoint
from proxy.identity.source import TokenSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from proxy.config.settings import CredentialSettings
    from proxy.dialing.dialer import Dialer
    from proxy.identity.proof.key_vault import VaultKey


class VaultAccess:
    """Access tokens and connections for key vaults, shared by the keys that are used."""

    def __init__(
        self,
        find_source: Callable[[str, Target], TokenSource],
        *,
        environ: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        dialer: Dialer | None = None,
    ) -> None:
        """Prepare.

        Args:
            find_source: the token source of another credential.
            environ: says where managed identities are; default: the process's.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
            dialer: opens connections to vaults; managed identities are on the machine itself and reached directly.
        """
        self._find_source = find_source
        self._environ = os.environ if environ is None else environ
        self._clock = clock
        self._wall_clock = wall_clock
        self._dialer = dialer
        self._machine: HttpsClient | None = None
        self._clients: dict[Path | None, HttpsClient] = {}
        self._managed: dict[tuple[str | None, str], TokenSource] = {}

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
        which = (settings.managed_identity_client_id, key.resource)
        if which not in self._managed:
            if self._machine is None:
                self._machine = HttpsClient("managed identity endpoint")
            identity = ManagedIdentity(
                find_endpoint(self._environ),
                self._machine,
                client_id=settings.managed_identity_client_id,
                clock=self._clock,
                wall_clock=self._wall_clock,
            )
            self._managed[which] = TokenSource(
                identity, Target(resource=key.resource), credential_name="managed identity", clock=self._clock
            )
        return self._managed[which]

    async def close(self) -> None:
        """Close tokens and connections."""
        for source in self._managed.values():
            await source.close()
        for client in self._clients.values():
            await client.close()
        if self._machine is not None:
            await self._machine.close()
