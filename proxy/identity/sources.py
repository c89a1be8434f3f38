"""All token sources of a configuration: one per (credential, scope). Reads the credentials' files when it is built.

Invariant: routes with the same credential and scope share one source, so they share its token and its one flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError, IdentityError
from proxy.identity.cache import AuthorityPause
from proxy.identity.credential import Credential, CredentialStatistics, Target
from proxy.identity.proof.building import create_proofs
from proxy.identity.source import SourceStatistics, TokenSource
from proxy.identity.token_endpoint import TokenEndpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from proxy.config.settings import CredentialSettings, Settings


@dataclass(frozen=True, slots=True)
class IdentityStatistics:
    """A snapshot for metrics: credentials by name, and sources."""

    credentials: Mapping[str, CredentialStatistics]
    sources: tuple[SourceStatistics, ...]


class TokenSources:
    """Hands out the one source of each (credential, scope)."""

    def __init__(
        self,
        credentials: Mapping[str, Credential],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Begin with no source.

        Args:
            credentials: by name; closed with this object.
            clock: monotonic seconds.
            jitter: 0 to 1.
        """
        self._credentials = dict(credentials)
        self._clock = clock
        self._jitter = jitter
        self._sources: dict[tuple[str, Target], TokenSource] = {}
        self._pauses: dict[str, AuthorityPause] = {}

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        now: datetime | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> TokenSources:
        """Build every credential, and a source for every route.

        Raises:
            ConfigurationError: a file of a credential cannot be read or used.
        """
        credentials = {
            name: create_credential(name, credential, now=now, clock=clock, wall_clock=wall_clock)
            for name, credential in settings.credentials.items()
        }
        sources = cls(credentials, clock=clock, jitter=jitter)
        for route in settings.routes:
            sources.source_for(route.credential, Target(scope=route.scope))
        return sources

    def source_for(self, credential: str, target: Target) -> TokenSource:
        """Return the source of the pair, always the same one.

        Raises:
            ConfigurationError: there is no credential of that name.
        """
        key = (credential, target)
        source = self._sources.get(key)
        if source is None:
            requester = self._credentials.get(credential)
            if requester is None:
                raise ConfigurationError(f"There is no credential named {credential!r}; define it under `credentials`.")
            source = TokenSource(
                requester,
                target,
                credential_name=credential,
                pause=self._pauses.setdefault(requester.endpoint.origin, AuthorityPause()),
                clock=self._clock,
                jitter=self._jitter,
            )
            self._sources[key] = source
        return source

    @property
    def ready(self) -> bool:
        """Whether every source has had a token. It stays so: an outage later is the requests' affair, not health's."""
        return all(source.obtained for source in self._sources.values())

    async def warm_up(self) -> None:
        """Obtain every source's first token and keep all of them fresh from now on.

        Returns when each has answered or failed once; those that failed go on trying in the background.
        """
        sources = list(self._sources.values())
        for source in sources:
            source.keep_fresh()
        await asyncio.gather(*(_try_once(source) for source in sources))

    def statistics(self) -> IdentityStatistics:
        """Return a snapshot."""
        return IdentityStatistics(
            credentials={name: credential.statistics() for name, credential in self._credentials.items()},
            sources=tuple(source.statistics() for source in self._sources.values()),
        )

    async def close(self) -> None:
        """Close sources and credentials."""
        for source in self._sources.values():
            await source.close()
        for credential in self._credentials.values():
            await credential.close()


def create_credential(
    name: str,
    settings: CredentialSettings,
    *,
    now: datetime | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
) -> Credential:
    """Return one credential, ready to request tokens.

    Raises:
        ConfigurationError: a file it names cannot be read or used.
    """
    return Credential(
        name,
        client_id=settings.client_id,
        endpoint=TokenEndpoint(token_url(settings), ca_file=settings.ca_file, wall_clock=wall_clock),
        proofs=create_proofs(settings, now=now),
        audience=settings.assertion_audience,
        clock=clock,
        wall_clock=wall_clock,
    )


def token_url(settings: CredentialSettings) -> str:
    """Return where a credential's v2 token requests go."""
    if settings.token_endpoint is not None:
        return settings.token_endpoint
    return f"{settings.authority.rstrip('/')}/{settings.tenant_id}/oauth2/v2.0/token"


async def _try_once(source: TokenSource) -> None:
    with contextlib.suppress(IdentityError):  # It has been logged, and the source goes on trying.
        await source.acquire()
