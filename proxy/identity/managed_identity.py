"""Tokens of the machine's own managed identity, for reaching a key vault. Does network I/O over plain http, link-local.

Source: Azure Instance Metadata Service 2018-02-01; App Service 2019-08-01 where its environment variables are set.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from proxy.errors import IdentityError, IdentityPlatformUnavailable
from proxy.identity.credential import IssuedToken
from proxy.identity.token_response import parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.identity.credential import Target
    from proxy.identity.https_client import HttpsClient

_METADATA_HOST = "http://169.254.169.254"


@dataclass(frozen=True, slots=True)
class ManagedIdentityEndpoint:
    """Where and how to ask."""

    url: str
    fields: Mapping[str, str] = field(repr=False)  # App Service's header is a secret.
    api_version: str = "2018-02-01"


def find_endpoint(environ: Mapping[str, str]) -> ManagedIdentityEndpoint:
    """Return the endpoint that the environment names, else the metadata service's."""
    if environ.get("IDENTITY_ENDPOINT") and environ.get("IDENTITY_HEADER"):
        return ManagedIdentityEndpoint(
            environ["IDENTITY_ENDPOINT"], {"X-IDENTITY-HEADER": environ["IDENTITY_HEADER"]}, "2019-08-01"
        )
    host = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST", _METADATA_HOST).rstrip("/")
    return ManagedIdentityEndpoint(f"{host}/metadata/identity/oauth2/token", {"Metadata": "true"})


class ManagedIdentity:
    """Asks for tokens as the machine this runs on."""

    def __init__(
        self,
        endpoint: ManagedIdentityEndpoint,
        client: HttpsClient,
        *,
        client_id: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            endpoint: where to ask.
            client: closed by whoever made it.
            client_id: of a user-assigned identity; None: the system-assigned one.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
        """
        self._endpoint = endpoint
        self._client = client
        self._client_id = client_id
        self._clock = clock
        self._wall_clock = wall_clock

    async def request_token(self, target: Target, claims: str | None) -> IssuedToken:  # noqa: ARG002 -- the interface: managed identities know no claims
        """Return a token for the target's resource.

        Raises:
            IdentityError: there is no such identity.
            IdentityPlatformUnavailable: the endpoint gave no usable answer.
        """
        query = {"api-version": self._endpoint.api_version, "resource": str(target)}
        if self._client_id is not None:
            query["client_id"] = self._client_id
        requested_at_mono = self._clock()
        answer = await self._client.exchange(
            "GET", f"{self._endpoint.url}?{urlencode(query)}", fields=self._endpoint.fields
        )
        if answer.status in {404, 410}:  # Documented as passing while the service is updated.
            raise IdentityPlatformUnavailable(
                f"The managed identity endpoint answers {answer.status}. The proxy tries again by itself.",
                code=f"managed_identity_http_{answer.status}",
            )
        if 400 <= answer.status < 500 and answer.status != 429:
            raise IdentityError(
                f"The managed identity endpoint answers {answer.status}: this machine has no such identity; assign one,"
                " or set `managed_identity_client_id`.",
                code=f"managed_identity_http_{answer.status}",
            )
        response = parse_answer(answer, now_at=self._wall_clock())
        return IssuedToken(response.access_token, requested_at_mono, response.expires_in_s, response.refresh_in_s)
