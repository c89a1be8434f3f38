"""What the token service answers: pure functions from tokens and errors to statuses, fields and bodies. Does no I/O."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Final

from proxy.errors import IdentityError, MethodNotAllowed
from proxy.http_server import Response
from proxy.relay.answers import format_problem, format_proxy_status

if TYPE_CHECKING:
    from proxy.errors import ProxyError
    from proxy.identity.access_token import AccessToken

_SERVER: Final = "apim-auth-proxy"
# A page of a browser that got here after all is given nothing to work with.
_SECURITY_FIELDS: Final = {
    "Server": _SERVER,
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def authorize(token: AccessToken, now_mono: float) -> Response:
    """Return the answer to a gateway: the field it has to put on the request, and for how long that holds.

    ``max-age`` ends when the token is to be renewed. ``stale-if-error`` counts from there (RFC 5861 §4) and ends when the token may
    no longer be sent, so what a gateway keeps by these never reaches the upstream expired.
    """
    fresh_s = max(math.floor(token.refresh_at_mono - now_mono), 0)
    usable_s = max(math.floor(token.usable_until_mono - now_mono), 0)
    fields = {
        "Authorization": f"Bearer {token.value}",
        "Cache-Control": f"max-age={fresh_s}, stale-if-error={usable_s - fresh_s}",
    }
    return Response(200, _SECURITY_FIELDS | fields)


def issue(token: AccessToken, now_mono: float, now_at: float, *, resource: str, client_id: str) -> Response:
    """Return the answer to a program, as App Service's token endpoint gives it (api-version 2019-08-01).

    Args:
        token: to be handed out.
        now_mono: the same moment as `now_at`, by the token's clock.
        now_at: Unix seconds.
        resource: as asked for.
        client_id: of the credential.
    """
    left_s = max(math.floor(token.usable_until_mono - now_mono), 0)
    content = {
        "access_token": token.value,
        "expires_on": str(math.floor(now_at) + left_s),
        "expires_in": left_s,
        "resource": resource,
        "token_type": "Bearer",
        "client_id": client_id,
    }
    fields = {"Content-Type": "application/json", "Cache-Control": "no-store", "Pragma": "no-cache"}
    return Response(200, _SECURITY_FIELDS | fields, json.dumps(content).encode() + b"\n")


def refuse_gateway(error: ProxyError) -> Response:
    """Return the answer to a gateway that gets no token: problem details (RFC 9457), as on every listener."""
    fields = {"Content-Type": "application/problem+json", **_failure_fields(error)}
    return Response(error.status, _SECURITY_FIELDS | fields, format_problem(error))


def refuse_program(error: ProxyError) -> Response:
    """Return the answer to a program that gets no token: App Service's ``statusCode`` and ``message``, and RFC 6749's names."""
    message = f"{_SERVER}: {error.detail}"
    content = {
        "statusCode": error.status,
        "message": message,
        "error": error.code or error.proxy_status,
        "error_description": message,
    }
    fields = {"Content-Type": "application/json", **_failure_fields(error)}
    return Response(error.status, _SECURITY_FIELDS | fields, json.dumps(content).encode() + b"\n")


def _failure_fields(error: ProxyError) -> dict[str, str]:
    fields = {"Cache-Control": "no-store", "Proxy-Status": format_proxy_status(error)}
    if isinstance(error, MethodNotAllowed):
        fields["Allow"] = "GET"  # RFC 9110 §15.5.6
    retry_after_s = error.retry_after_s
    if retry_after_s is None and isinstance(error, IdentityError):
        retry_after_s = 1  # the source itself says when it asks again; a gateway may come back any time
    if retry_after_s is not None:
        fields["Retry-After"] = str(retry_after_s)
    return fields
