"""What a request to the token service asks for, and whether it may be answered at all. Pure: does no I/O.

Two sorts of requests come. A gateway's sub-request has the method, and mostly the fields, of a client far away, so nothing in it
is believed but where the gateway says which host it is about. A local program's request is its own, so anything in it that a
browser or a proxy would have added means that it comes from somewhere else.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import ClientRefused, MalformedRequest, MethodNotAllowed, ProxyError, SecretRequired
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority
from proxy.policy.local_names import is_local_name

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

AUTHORIZE_PATH: Final = "/authorize"
TOKEN_PATH: Final = "/token"  # noqa: S105
API_VERSION: Final = "2019-08-01"
SECRET_FIELD: Final = "X-IDENTITY-HEADER"  # noqa: S105
_HTTP_PORT: Final = 80
# What a proxy on the way adds (RFC 7239, RFC 9110 §7.6.3), and what a browser says of the page behind a request (Fetch Metadata,
# RFC 6454 §7). No SDK sends any of them.
_STRANGERS_FIELDS: Final = ("X-Forwarded-For", "Forwarded", "Via", "Origin", "Sec-Fetch-Site")
_QUERY_KEYS: Final = frozenset({"api-version", "resource", "client_id"})


class Fields(Protocol):
    """The fields of a request; names in any case."""

    def values(self, name: str) -> list[str]:
        """Return the values of all field lines of a name."""
        ...


@dataclass(frozen=True, slots=True)
class TokenQuestion:
    """What a program asks the token endpoint for.

    Attributes:
        resource: a scope less its ``/.default``, or a route's resource.
        client_id: of the credential it wants; None: whichever.
    """

    resource: str
    client_id: str | None


def find_host(fields: Fields, query: Mapping[str, list[str]], *, is_exact: bool) -> Authority:
    """Return the authority that a gateway asks about: X-Forwarded-Host, else ``?host=``, else Host.

    Args:
        fields: of the sub-request.
        query: of its target.
        is_exact: whether the path is ``/authorize`` and no more. Behind a longer one stands the target of the gateway's own client,
            as Envoy writes it, and then the query is that client's, too.

    Raises:
        ClientRefused: it names none, or several.
    """
    named = fields.values("X-Forwarded-Host")
    if not named and is_exact:
        named = query.get("host", [])
    if not named:
        named = fields.values("Host")
    if len(named) != 1 or "," in named[0]:
        raise ClientRefused(
            "The request names no host, or several: a gateway asks about one, in X-Forwarded-Host, ?host= or Host. See to it that "
            "it replaces what its clients send in X-Forwarded-Host.",
            code="host_not_clear",
        )
    return _parse(named[0].strip(" \t"), HTTPS_PORT)


def check_own_host(fields: Fields, own_names: Collection[str], is_routed: Callable[[str], bool]) -> None:
    """Refuse a Host that a stranger's web page may have been rebound to this address with.

    A page asks by the name it was loaded from, and its author owns that one: so it is no address, no name that nobody can own, none
    of a route's, and none that the configuration lists.

    Args:
        fields: of the request.
        own_names: `server_names` of the listener.
        is_routed: says whether a route has a host, at whatever port.

    Raises:
        ClientRefused: it is another one, or there are several.
    """
    hosts = fields.values("Host")
    if not hosts:  # HTTP/1.0, which no browser speaks
        return
    named = _parse(hosts[0], _HTTP_PORT)
    if len(hosts) > 1 or not (named.host in own_names or is_local_name(named) or is_routed(named.host)):
        raise ClientRefused(
            f"The request's Host names {named.host}, which a web page may have been loaded from. If gateways reach this listener "
            f"by that name, or pass their clients' Host on, add `server_names: [{named.host}]` to it.",
            code="foreign_host",
        )


def check_program(
    method: str, fields: Fields, secret: str, own_hosts: Collection[Authority], default_port: int
) -> None:
    """Refuse what is no request of a program on this machine that was given the secret.

    Args:
        method: of the request.
        fields: of the request.
        secret: what it has to send.
        own_hosts: what Host may be: the listener's own address as written, and its `server_names`.
        default_port: of a Host without one.

    Raises:
        MethodNotAllowed: it is not GET.
        ClientRefused: a browser or a proxy sent it, or Host is a name of somebody else's.
        SecretRequired: it does not send the secret.
    """
    if method != "GET":
        raise MethodNotAllowed("Ask for a token with GET.")
    for name in _STRANGERS_FIELDS:
        if fields.values(name):
            raise ClientRefused(
                f"The request has the field {name}, so a browser or a proxy sent it, and tokens are for programs that ask "
                "directly. Add the endpoint's address to NO_PROXY, as `apim-auth-proxy exec --token-endpoint` does.",
                code="not_direct",
            )
    hosts = fields.values("Host")
    if len(hosts) != 1 or _parse(hosts[0], default_port) not in own_hosts:
        raise ClientRefused(
            "The request's Host is not the address of this listener. Use the URL in IDENTITY_ENDPOINT as it is.",
            code="foreign_host",
        )
    sent = fields.values(SECRET_FIELD)
    if len(sent) != 1 or not hmac.compare_digest(sent[0].encode("utf-8", "surrogateescape"), secret.encode()):
        raise SecretRequired(
            f"Send the secret of this endpoint in {SECRET_FIELD}: programs that `apim-auth-proxy exec --token-endpoint` starts "
            "find it in IDENTITY_HEADER. It changes each time the proxy starts."
        )


def read_token_question(query: Mapping[str, list[str]]) -> TokenQuestion:
    """Return what a program asks for.

    Raises:
        MalformedRequest: the query is not that of App Service's endpoint, version 2019-08-01.
    """
    if query.get("api-version", []) != [API_VERSION]:
        raise MalformedRequest(
            f"This endpoint speaks api-version={API_VERSION}, once in the query.", code="api_version"
        )
    unknown = query.keys() - _QUERY_KEYS
    if unknown:
        raise MalformedRequest(
            "This endpoint takes api-version, resource and client_id. It knows no managed identity by another id: ask for one by "
            "the client_id of a credential, or for none.",
            code="unknown_parameter",
        )
    resources, client_ids = query.get("resource", []), query.get("client_id", [])
    if len(resources) != 1 or not resources[0] or len(client_ids) > 1:
        raise MalformedRequest("Name one resource, and at most one client_id.", code="no_resource")
    return TokenQuestion(resources[0], client_ids[0] if client_ids else None)


def _parse(raw: str, default_port: int) -> Authority:
    try:
        return parse_authority(raw.encode("utf-8", "surrogateescape"), default_port)
    except MalformedRequest as error:
        raise ClientRefused(f"The host cannot be used. {error.detail}", code="host_not_clear") from None


def describe_missing_route(authority: Authority) -> ProxyError:
    """Return the refusal for a host that no route names."""
    return ClientRefused(
        f"No route has the host {authority}, so there is no token for it. Add it to the hosts of one, or have the gateway say the "
        "upstream's host in X-Forwarded-Host.",
        code="no_route",
    )


def describe_missing_resource(question: TokenQuestion, known: Sequence[str]) -> ProxyError:
    """Return the refusal for a resource that this client has no token for.

    Args:
        question: what was asked.
        known: the resources it may have.
    """
    which = " by that client_id" if question.client_id is not None else ""
    can = f" It may ask for {', '.join(known)}." if known else ""
    return MalformedRequest(
        f"No route that this client may use asks for tokens for that resource{which}.{can} A route's `scope` api://orders/.default "
        "is the resource api://orders.",
        code="unknown_resource",
    )
