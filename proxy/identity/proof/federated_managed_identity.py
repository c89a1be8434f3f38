"""Proof by a token of the machine's managed identity, which the application trusts as a federated credential.

Source: RFC 7523 §2.2 with a foreign issuer; Entra ID's "managed identity as a federated identity credential". Does network I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.identity.proof.interface import FormProof
from proxy.identity.proof.signed_assertion import ASSERTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from proxy.identity.source import TokenSource

SETTING: Final = "federated_managed_identity"


class FederatedManagedIdentity(FormProof):
    """A token that the machine is given; kept as long as it holds, because its endpoint is shared by all on the machine."""

    def __init__(self, tokens: TokenSource, client_id: str | None) -> None:
        """Prepare.

        Args:
            tokens: of the identity, for the audience that the application's federated credential names.
            client_id: of a user-assigned identity; None: the system-assigned one.
        """
        self._tokens = tokens
        self._client_id = client_id

    @property
    def name(self) -> str:
        """Which identity it is."""
        return f"federated managed identity {self._client_id or 'of this machine'}"

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 -- the interface
        """Return client_assertion_type and the identity's token as client_assertion.

        Raises:
            IdentityError: the machine gives no token.
        """
        token = await self._tokens.acquire()
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": token.value}
