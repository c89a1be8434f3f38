"""The machine's own identities, shared by whoever uses them. Does network I/O once somebody asks for a token.

Invariant: what is sent there goes by no upstream proxy: the endpoint is on this machine or link-local, and what comes back is a
token over plain http.
"""

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


class Machine:
    """Finds the endpoint of managed identities at the first use, and keeps what it gives."""

    def __init__(
        self,
        environ: Mapping[str, str] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            environ: says where managed identities are; default: the process's.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
        """
        self._endpoint = find_endpoint(os.environ if environ is None else environ)
        self._clock = clock
        self._wall_clock = wall_clock
        self._client: HttpsClient | None = None
        self._sources: dict[tuple[str | None, str], TokenSource] = {}

    @property
    def token_url(self) -> str:
        """Where tokens are asked for."""
        return self._endpoint.url

    def identity(self, client_id: str | None, setting: str) -> ManagedIdentity:
        """Return one that asks anew each time.

        Args:
            client_id: of a user-assigned identity; None: the system-assigned one.
            setting: the key of the configuration that names it.
        """
        if self._client is None:
            self._client = HttpsClient("managed identity endpoint")
        return ManagedIdentity(
            self._endpoint,
            self._client,
            client_id=client_id,
            setting=setting,
            clock=self._clock,
            wall_clock=self._wall_clock,
        )

    def tokens(self, client_id: str | None, resource: str, setting: str) -> TokenSource:
        """Return the tokens of an identity for a resource, the same source for all who ask."""
        key = (client_id, resource)
        if key not in self._sources:
            self._sources[key] = TokenSource(
                self.identity(client_id, setting),
                Target(resource=resource),
                credential_name="managed identity",
                clock=self._clock,
            )
        return self._sources[key]

    def wake(self, slept_s: float) -> None:
        """Age the tokens by the time that the machine slept; see `TokenSource.wake`."""
        for source in self._sources.values():
            source.wake(slept_s)

    async def close(self) -> None:
        """Close tokens."""
        for source in self._sources.values():
            await source.close()
