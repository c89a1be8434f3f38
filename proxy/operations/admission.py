"""Who may read the admin site: a pure decision on the request's path, Host and Authorization. Does no I/O.

On a loopback address everyone on this machine may read. A page in a browser on this machine is not meant by that, and it could
ask by a name of its own that resolves to 127.0.0.1 (DNS rebinding): hence the check of Host. On any other address the probes are
open, for whoever runs the proxy, and the rest wants a token.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
from dataclasses import dataclass, field
from typing import Final

from proxy.errors import MalformedRequest
from proxy.policy.authority import parse_authority

PROBES: Final = frozenset({"/livez", "/readyz", "/startupz"})
_HTTP_PORT: Final = 80


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a request is not answered.

    Attributes:
        status: 401, 403 or 421.
        detail: what to do about it.
        challenge: a WWW-Authenticate value, with 401.
    """

    status: int
    detail: str
    challenge: str = ""


@dataclass(frozen=True, slots=True)
class Admission:
    """The rules of one admin site.

    Attributes:
        is_loopback: whether only this machine reaches it.
        server_names: Host values accepted beside loopback names and the address itself, in lower case.
        token: what opens everything; None: nothing does.
    """

    is_loopback: bool
    server_names: frozenset[str] = frozenset()
    token: str | None = field(default=None, repr=False)

    def decide(self, path: str, host: str | None, own_address: str, authorization: str | None) -> Denial | None:
        """Return None where the request is to be answered.

        Args:
            path: of the request target.
            host: the Host field; None where there is none, as HTTP/1.0 allows.
            own_address: the address the connection came in on.
            authorization: the Authorization field.
        """
        if self.token is not None and authorization is not None and _holds(authorization, self.token):
            return None
        if self.is_loopback and host is not None and not self._is_own(host, own_address):
            return Denial(
                421,
                "This is the admin site, and it has no such host name. To read it, use http://localhost or the address it "
                "listens on. To call an API, use an address of `listeners` as the proxy; the admin site passes nothing on.",
            )
        if path in PROBES:
            return None
        if self.token is not None:
            return Denial(
                401,
                "Send the admin token: Authorization: Bearer TOKEN, or as the password in a browser.",
                'Bearer realm="admin", Basic realm="admin", charset="UTF-8"',
            )
        if not self.is_loopback:
            return Denial(
                403,
                "Only /livez, /readyz and /startupz are open on an address that others can reach. "
                "Let the admin site listen on a loopback address to read the rest.",
            )
        return None

    def _is_own(self, host: str, own_address: str) -> bool:
        try:
            name = parse_authority(host.encode("utf-8", "surrogateescape"), _HTTP_PORT).host
        except MalformedRequest:
            return False
        if name == "localhost" or name in self.server_names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or name == own_address


def _holds(authorization: str, token: str) -> bool:
    scheme, _, credentials = authorization.partition(" ")
    offered = credentials.strip().encode("utf-8", "surrogateescape")
    if scheme.lower() == "basic":
        try:
            _, _, offered = base64.b64decode(offered, validate=True).partition(b":")
        except binascii.Error:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(offered, token.encode())
