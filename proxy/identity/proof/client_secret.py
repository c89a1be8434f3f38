"""Proof by a client secret (RFC 6749 §2.3.1): accepted, though a certificate is better. Does no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxy.identity.proof.interface import FormProof

if TYPE_CHECKING:
    from collections.abc import Mapping


# Unlike an assertion, a secret travels with every request, can be used by whoever sees it, and has to be kept as one.
WARNING = (
    "proves itself by a client secret, which travels with every token request; a certificate never does:"
    " `apim-auth-proxy cert new`"
)


class ClientSecret(FormProof):
    """A shared secret in the form."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    @property
    def name(self) -> str:
        """Says nothing about the secret."""
        return "client secret"

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 -- the interface
        """Return client_secret."""
        return {"client_secret": self._secret}
