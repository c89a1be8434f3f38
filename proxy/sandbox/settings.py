"""How a sandbox is set up. Does no I/O; every value has a default that works."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.sandbox.assertions import TOLERANCE_S
from proxy.sandbox.gateway import GatewaySettings

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxy.sandbox.keys import SandboxKeys
    from proxy.sandbox.registrations import ClientApplication, ResourceApplication

TENANT_ID = "11111111-1111-1111-1111-111111111111"
CLIENT_ID = "22222222-2222-2222-2222-222222222222"
API_APP_ID = "33333333-3333-3333-3333-333333333333"
API_V1_APP_ID = "44444444-4444-4444-4444-444444444444"
EXCHANGE_APP_ID = "88888888-8888-8888-8888-888888888888"
EXCHANGE_URI = "api://AzureADTokenExchange"
SYSTEM_IDENTITY = ("66666666-6666-6666-6666-666666666666", "66666666-0000-0000-0000-000000000000")
"""Client id and object id of the machine's system-assigned identity."""
USER_IDENTITY = ("77777777-7777-7777-7777-777777777777", "77777777-0000-0000-0000-000000000000")
"""The same of a user-assigned one."""
API_URI = "api://orders"
API_V1_URI = "api://orders-v1"
ROLE = "Orders.Read"
DOMAIN = "contoso.example"


class SandboxError(Exception):
    """The sandbox cannot start; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """A sandbox has one client with a certificate and two APIs: one with version 2 tokens and one with version 1.

    Attributes:
        tenant_id: the tenant's GUID.
        domain: the tenant's verified domain, good for its GUID in every URL.
        client_id: the application id of the client that the sandbox's certificate is registered for.
        clients: further client applications.
        resources: further resource applications.
        gateway: how the gateway is configured.
        subscription_key: the active key; None makes one.
        keys: key material; None makes it.
        identity_port: where the identity platform listens on loopback; 0 takes a free port.
        api_port: where the gateway listens on loopback; 0 takes a free port.
        machine_port: where the managed identity endpoints listen on loopback, over plain http; 0 takes a free port.
        identity_header: App Service's secret; None makes one.
        clock: Unix seconds.
        assertion_tolerance_s: how far a client's clock may be off.
        strict_audience: take only the advertised token endpoints as an assertion's ``aud``.
        error_separator: what parts the labels in ``error_description``: a blank, or CR LF as in older answers.
    """

    tenant_id: str = TENANT_ID
    domain: str = DOMAIN
    client_id: str = CLIENT_ID
    clients: tuple[ClientApplication, ...] = ()
    resources: tuple[ResourceApplication, ...] = ()
    gateway: GatewaySettings = field(default_factory=GatewaySettings)
    subscription_key: str | None = field(default=None, repr=False)
    keys: SandboxKeys | None = field(default=None, repr=False)
    identity_port: int = 0
    api_port: int = 0
    machine_port: int = 0
    identity_header: str | None = field(default=None, repr=False)
    clock: Callable[[], float] = time.time
    assertion_tolerance_s: float = TOLERANCE_S
    strict_audience: bool = False
    error_separator: str = " "
