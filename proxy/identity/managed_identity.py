"""Tokens of the machine's own managed identity. Does network I/O over plain http, on the machine itself or link-local.

The endpoint is found as azure-identity and MSAL find it: App Service (and what imitates it, such as Container Apps and
Functions) by its environment variables, then an Azure Arc agent, else the metadata service of a virtual machine (IMDS).

Source: Azure Instance Metadata Service 2018-02-01; App Service 2019-08-01; Azure Arc 2020-06-01.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode, urlsplit

from proxy.errors import IdentityError, IdentityPlatformUnavailable
from proxy.identity.credential import IssuedToken
from proxy.identity.token_response import (
    ClientThrottled,
    TokenResponse,
    parse_answer,
    parse_date,
    parse_retry_after,
    read_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from proxy.identity.credential import Target
    from proxy.identity.https_client import HttpsClient
    from proxy.identity.token_response import Answer

SYSTEM: Final = "system"
"""In the configuration: the system-assigned identity; anything else is a user-assigned one's client id."""

_METADATA_HOST: Final = "http://169.254.169.254"
_TOKEN_PATH: Final = "/metadata/identity/oauth2/token"  # noqa: S105 -- a path
_ARC_ENDPOINT: Final = f"http://localhost:40342{_TOKEN_PATH}"
# What Arc's agent writes is a few hundred bytes; MSAL's limit.
_ARC_KEY_LIMIT_BYTES: Final = 4_096
_BASIC_REALM: Final = re.compile(r"\s*Basic\s+realm=\"?([^\"]+?)\"?\s*\Z", re.IGNORECASE)
# 404 and 410 are documented as passing, while the service is updated.
_PASSING: Final = frozenset({404, 408, 410})
_ELSEWHERE: Final = (
    "Only machines in Azure, and those that Azure Arc manages, have managed identities; anywhere else a credential needs a "
    "certificate."
)


class EndpointKind(Enum):
    """Whose endpoint it is."""

    METADATA_SERVICE = "the metadata service (IMDS)"
    APP_SERVICE = "App Service's endpoint (IDENTITY_ENDPOINT)"
    AZURE_ARC = "the Azure Arc agent"
    SERVICE_FABRIC = "Service Fabric"


@dataclass(frozen=True, slots=True)
class ManagedIdentityEndpoint:
    """Where and how to ask.

    Attributes:
        kind: whose it is.
        url: without a query.
        fields: sent with each request; App Service's is a secret.
        api_version: of the query.
        key_directory: where Azure Arc's agent puts the keys that it wants to see; nothing else is ever read.
    """

    kind: EndpointKind
    url: str
    fields: Mapping[str, str] = field(repr=False)
    api_version: str = "2018-02-01"
    key_directory: Path = Path("/var/opt/azcmagent/tokens")


def find_endpoint(environ: Mapping[str, str]) -> ManagedIdentityEndpoint:
    """Return the endpoint that the environment or an agent on this machine names, else the metadata service's."""
    named, secret = environ.get("IDENTITY_ENDPOINT"), environ.get("IDENTITY_HEADER")
    if named and secret:
        kind = EndpointKind.SERVICE_FABRIC if environ.get("IDENTITY_SERVER_THUMBPRINT") else EndpointKind.APP_SERVICE
        return ManagedIdentityEndpoint(kind, named, {"X-IDENTITY-HEADER": secret}, "2019-08-01")
    fields = {"Metadata": "true"}
    arc = named if named and environ.get("IMDS_ENDPOINT") else None
    if arc is not None or _find_arc_agent(environ).exists():
        return ManagedIdentityEndpoint(
            EndpointKind.AZURE_ARC, arc or _ARC_ENDPOINT, fields, "2020-06-01", _find_arc_keys(environ)
        )
    host = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST") or _METADATA_HOST
    return ManagedIdentityEndpoint(EndpointKind.METADATA_SERVICE, host.rstrip("/") + _TOKEN_PATH, fields)


def _find_arc_agent(environ: Mapping[str, str]) -> Path:
    if os.name == "nt":
        return Path(environ.get("ProgramFiles", "C:\\Program Files")) / "AzureConnectedMachineAgent" / "himds.exe"
    return Path("/opt/azcmagent/bin/himds")


def _find_arc_keys(environ: Mapping[str, str]) -> Path:
    if os.name == "nt":
        return Path(environ.get("ProgramData", "C:\\ProgramData")) / "AzureConnectedMachineAgent" / "Tokens"
    return Path("/var/opt/azcmagent/tokens")


class ManagedIdentity:
    """Asks for tokens as the machine this runs on."""

    def __init__(
        self,
        endpoint: ManagedIdentityEndpoint,
        client: HttpsClient,
        *,
        client_id: str | None = None,
        setting: str = "managed_identity_client_id",
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Prepare.

        Args:
            endpoint: where to ask.
            client: closed by whoever made it; goes through no upstream proxy.
            client_id: of a user-assigned identity; None: the system-assigned one.
            setting: the key of the configuration that says which identity is meant, for messages.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
        """
        self._endpoint = endpoint
        self._client = client
        self._client_id = client_id
        self._setting = setting
        self._clock = clock
        self._wall_clock = wall_clock

    async def request_token(self, target: Target, claims: str | None) -> IssuedToken:  # noqa: ARG002 -- the interface: managed identities know no claims
        """Return a token for the target's resource.

        Raises:
            IdentityError: there is no such identity, or it may have no token for this resource.
            IdentityPlatformUnavailable: the endpoint gave no usable answer.
        """
        if self._endpoint.kind is EndpointKind.SERVICE_FABRIC:
            raise IdentityError(
                "This machine belongs to Service Fabric, whose managed identities the proxy cannot use: their endpoint proves "
                "itself by a thumbprint instead of a certificate that can be verified. Use a certificate instead.",
                code="managed_identity_unsupported",
            )
        query = {"api-version": self._endpoint.api_version, "resource": find_resource(target)}
        if self._client_id is not None:
            query["client_id"] = self._client_id
        url = f"{self._endpoint.url}?{urlencode(query)}"
        requested_at_mono = self._clock()
        answer = await self._get(url, self._endpoint.fields)
        if self._endpoint.kind is EndpointKind.AZURE_ARC and answer.status == 401:
            secret = await asyncio.to_thread(self._read_arc_key, answer.challenge or "")
            answer = await self._get(url, {**self._endpoint.fields, "Authorization": f"Basic {secret}"})
        response = self._parse(answer)
        return IssuedToken(response.access_token, requested_at_mono, response.expires_in_s, response.refresh_in_s)

    async def _get(self, url: str, fields: Mapping[str, str]) -> Answer:
        try:
            return await self._client.exchange("GET", url, fields=fields)
        except IdentityPlatformUnavailable as error:
            what = error.detail.removesuffix(" The proxy tries again by itself.")
            raise IdentityPlatformUnavailable(
                f"{what} It is {self._endpoint.kind.value}. {_ELSEWHERE} The proxy tries again by itself.",
                code="managed_identity_unreachable",
            ) from None

    def _parse(self, answer: Answer) -> TokenResponse:
        now_at = self._wall_clock()
        if answer.status != 200:
            raise self._refuse(answer, now_at)
        try:
            response = parse_answer(answer, now_at=now_at)
        except IdentityError:
            raise IdentityPlatformUnavailable(
                f"What answers at {self._host} is not a managed identity endpoint: it gives no token that can be used. Check "
                "IDENTITY_ENDPOINT and AZURE_POD_IDENTITY_AUTHORITY_HOST in the proxy's environment.",
                code="managed_identity_unusable",
            ) from None
        if self._endpoint.kind is EndpointKind.AZURE_ARC and self._client_id is not None:
            self._confirm(answer)
        return response

    def _confirm(self, answer: Answer) -> None:
        """Refuse the token of another identity: older agents of Azure Arc give the system-assigned one's, whatever is asked."""
        used = json.loads(answer.content).get("client_id")  # It has been parsed as an object before.
        if str(used).lower() != str(self._client_id).lower():
            raise IdentityError(
                "The Azure Arc agent gave a token of another identity: it knows the machine's system-assigned identity only. "
                f"Write {self._setting}: system, or update the agent.",
                code="managed_identity_unsupported",
            )

    def _refuse(self, answer: Answer, now_at: float) -> IdentityError:
        """Return what an answer without a token means."""
        where = f"The managed identity endpoint at {self._host} answers {answer.status}"
        wait_s = parse_retry_after(answer.retry_after, parse_date(answer.date) or now_at)
        if answer.status == 429:
            return ClientThrottled(
                f"{where}: it is asked too often, by everything on this machine together. The proxy tries again by itself.",
                retry_after_s=wait_s,
                code="managed_identity_http_429",
            )
        refusal = read_refusal(answer)
        if refusal.explanation:
            return IdentityError(f"{where}. {refusal.explanation}", code=f"AADSTS{refusal.code}")
        if answer.status in _PASSING or answer.status >= 500:
            return IdentityPlatformUnavailable(
                f"{where}. The proxy tries again by itself.",
                retry_after_s=wait_s,
                code=f"managed_identity_http_{answer.status}",
            )
        if answer.status == 400:
            which = (
                "has no system-assigned identity" if self._client_id is None else f"has no identity {self._client_id}"
            )
            return IdentityError(
                f"{where}: this machine {which}. Assign it in Azure, or name one that it has in `{self._setting}`.",
                code="managed_identity_http_400",
            )
        return IdentityError(
            f"{where}, which is no answer of {self._endpoint.kind.value} to a program that may ask. Check what stands there.",
            code=f"managed_identity_http_{answer.status}",
        )

    def _read_arc_key(self, challenge: str) -> str:
        """Return the content of the file that a challenge names: who can read it may use the machine's identity.

        Of the path only the last part counts: nobody who answers in the agent's place learns the content of another file.
        """
        match = _BASIC_REALM.match(challenge)
        if match is None:
            raise IdentityPlatformUnavailable(
                f"What answers at {self._host} is not the Azure Arc agent: its challenge names no file. Check IDENTITY_ENDPOINT "
                "in the proxy's environment.",
                code="managed_identity_unusable",
            )
        file = self._endpoint.key_directory / f"{Path(match[1].replace(chr(92), '/')).stem}.key"
        try:
            with file.open("rb") as stream:
                content = stream.read(_ARC_KEY_LIMIT_BYTES + 1)
            if len(content) > _ARC_KEY_LIMIT_BYTES:
                raise ValueError
            return content.decode("ascii").strip()
        except (OSError, ValueError):
            raise IdentityError(
                f"{file}: the key of the Azure Arc agent cannot be read. Add the proxy's user to the group himds (on Windows: "
                "Hybrid agent extension applications).",
                code="managed_identity_key_unreadable",
            ) from None

    @property
    def _host(self) -> str:
        return urlsplit(self._endpoint.url).netloc.rpartition("@")[2]


def find_resource(target: Target) -> str:
    """Return what a managed identity's token is asked for: a resource, where a scope names one with ``/.default``."""
    if target.resource is not None:
        return target.resource
    return (target.scope or "").removesuffix("/.default")


def find_client_id(setting: str) -> str | None:
    """Return the client id that a setting names; None for the system-assigned identity."""
    return None if setting == SYSTEM else setting
