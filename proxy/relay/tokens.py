"""The one interface through which the relay asks for access tokens. Its implementations are in the process, or over a socket.

Defines types only: `proxy.identity.source` keeps the tokens of a single process, `proxy.workers.tokens` those of a relay process
whose control process holds the keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxy.identity.access_token import AccessToken
    from proxy.identity.credential import Target


class Source(Protocol):
    """The access token of one (credential, scope); what each method promises is written at `TokenSource`."""

    def peek(self, now_mono: float) -> AccessToken | None:
        """Return a usable token or None, at once."""
        ...

    async def acquire(self) -> AccessToken:
        """Wait for a usable token; raises `IdentityError`."""
        ...

    def report_refusal(
        self, token: AccessToken, now_mono: float, claims: str | None = None, *, certain: bool = False
    ) -> bool:
        """Report that an upstream refused a token; return whether another is to be had."""
        ...


class Sources(Protocol):
    """Hands out sources."""

    def source_for(self, credential: str, target: Target) -> Source:
        """Return the one source of a credential and a target."""
        ...
