"""A credential that is the machine's managed identity itself. Does network I/O through it; keeps no token.

There is no application, no certificate and no token endpoint of a tenant: the endpoint on the machine gives the token.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from proxy.errors import IdentityError
from proxy.identity.credential import CredentialStatistics, RequestCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.errors import CredentialOutOfDate
    from proxy.identity.credential import IssuedToken, Target
    from proxy.identity.machine import Machine
    from proxy.identity.proof.interface import Proof

logger = logging.getLogger("proxy.identity")

SETTING: Final = "managed_identity"


class MachineCredential:
    """What `proxy.identity.credential.Credential` is for an application."""

    def __init__(self, name: str, machine: Machine, client_id: str | None) -> None:
        """Prepare.

        Args:
            name: its key in the configuration.
            machine: whose identity it is; closed by whoever made it.
            client_id: of a user-assigned identity; None: the system-assigned one.
        """
        self.name = name
        self._identity = machine.identity(client_id, SETTING)
        self._proof = f"managed identity {client_id or 'of this machine'}"
        self._url = machine.token_url
        self._client_id = client_id or ""
        self._counts = RequestCounts()
        self._in_use = ""

    @property
    def origin(self) -> str:
        """Whom it asks."""
        parts = urlsplit(self._url)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def throttled_as(self) -> tuple[str, str]:
        """By what the endpoint tells it apart from others that ask too often."""
        return self._url, self._client_id

    def name_token(self, target: Target, claims: str | None) -> str | None:  # noqa: ARG002 -- as a `Credential`'s
        """Return None: a machine's own token is its own, and its endpoint keeps it already."""
        return None

    async def request_token(self, target: Target, claims: str | None) -> IssuedToken:
        """Ask for one token.

        Raises:
            IdentityError: there is none, or no answer.
        """
        try:
            issued = await self._identity.request_token(target, claims)
        except IdentityError as error:
            self._counts.add_error(error)
            raise
        self._counts.add(outcome="ok", code="")
        self._in_use = self._proof
        logger.info(
            "credential %s: access token for %s obtained with %s, good for %.0f s",
            self.name,
            target,
            self._proof,
            issued.expires_in_s,
        )
        return issued

    def statistics(self) -> CredentialStatistics:
        """Return a snapshot."""
        return CredentialStatistics(self._counts.snapshot(), None, 0.0, self._in_use, {})

    def replace_proofs(self, proofs: Sequence[Proof]) -> None:
        """Do nothing: no file proves anything here."""

    def date_problems(self) -> list[str]:
        """Return nothing: there is no certificate."""
        return []

    def out_of_date(self) -> CredentialOutOfDate | None:
        """Return None, as above."""
        return None

    def take_up_certificates(self) -> bool:
        """Return False, as above."""
        return False
