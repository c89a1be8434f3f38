"""Decide one token request: from the form to the order for a token, or to the refusal the real service would give.

Does no I/O; time comes in as an argument. The checks go from the outside in: form, grant, client, what is asked for,
proof.
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl

from proxy.sandbox.aadsts import AadstsError
from proxy.sandbox.assertions import Assertion, parse_assertion, verify_assertion
from proxy.sandbox.federation import verify_federated
from proxy.sandbox.tokens import TokenOrder

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    from proxy.sandbox.registrations import ClientApplication, ResourceApplication, Tenant

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""RFC 7523 §2.2."""

_TENANT_CHARACTERS = re.compile(r"[A-Za-z0-9._-]+")
_GUID = re.compile(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_SHARED_TENANTS = frozenset({"common", "organizations", "consumers"})
_SCOPE_CHARACTERS = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")  # RFC 6749 §3.3

Version = Literal[1, 2]


@dataclass(frozen=True, slots=True)
class Platform:
    """What a token request is decided against.

    Attributes:
        tenant: the directory.
        audiences: the values of an assertion's ``aud`` that mean this platform.
        tolerance_s: how far the client's clock may be off.
        public_keys: what verifies the platform's own tokens, which managed identities present, by ``kid``.
    """

    tenant: Tenant
    audiences: Collection[str]
    tolerance_s: float
    public_keys: Callable[[], Mapping[str, RSAPublicKey]]


def is_guid(text: str) -> bool:
    """Return whether the text is a GUID in its usual form."""
    return _GUID.fullmatch(text) is not None


def parse_form(content_type: str, content: bytes) -> Mapping[str, str]:
    """Return the form's fields.

    Raises:
        AadstsError: 9002313 for content that is not a form, or names a field twice (RFC 6749 §3.2). JSON is no error
            here: as with the real service nothing is found in it, and the client hears of the first missing field.
    """
    if content_type != "application/x-www-form-urlencoded":
        return {}
    try:
        pairs = parse_qsl(content.decode("ascii"), keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise AadstsError(9002313, "The request's content is not a well-formed form.") from None
    form = dict(pairs)
    if len(form) != len(pairs):
        raise AadstsError(9002313, "The request's content names a field more than once.")
    return form


def check_tenant(segment: str, tenant: Tenant) -> None:
    """Refuse a URL's tenant segment that is not this tenant.

    Raises:
        AadstsError: 90013 and 900023 for what is no tenant name, 90002 for one that is not known here.
    """
    if tenant.is_named(segment):
        return
    if _TENANT_CHARACTERS.fullmatch(segment) is None:
        raise AadstsError(90013, "The tenant in the URL holds characters no tenant has; is it an unfilled placeholder?")
    if not is_guid(segment) and "." not in segment:
        raise AadstsError(900023, f"The tenant '{segment}' is neither a GUID nor a domain name.")
    raise AadstsError(90002, f"The tenant '{segment}' was not found. This sandbox has one tenant: {tenant.tenant_id}.")


def decide_grant(segment: str, version: Version, form: Mapping[str, str], platform: Platform, now: float) -> TokenOrder:
    """Return what token to issue.

    Args:
        segment: the URL's tenant segment.
        version: 2 for the endpoint that takes ``scope``, 1 for the one that takes ``resource``.
        form: the request's fields.
        platform: what there is to decide against.
        now: the server's clock, Unix seconds.

    Raises:
        AadstsError: the request is refused.
    """
    _check_endpoint(segment, form, platform.tenant)
    client = _find_client(form, platform.tenant)
    audience = _audience_of_scope(form) if version == 2 else _audience_of_resource(form)
    authenticated_by = _authenticate(form, client, platform, now)
    resource = find_resource(audience, platform.tenant)
    if resource.assignment_required and not resource.roles.get(client.client_id):
        raise AadstsError(
            501051, f"The application '{client.client_id}' is assigned to no role of '{audience}', which requires one."
        )
    return TokenOrder(client, resource, audience, authenticated_by, _asked_nbf(form))


def peek_assertion(form: Mapping[str, str]) -> Assertion | None:
    """Return the form's client assertion taken apart, for the record; None where there is none that can be read."""
    try:
        return parse_assertion(form["client_assertion"])
    except (KeyError, AadstsError):
        return None


def _check_endpoint(segment: str, form: Mapping[str, str], tenant: Tenant) -> None:
    if segment.lower() in _SHARED_TENANTS:
        raise AadstsError(9001023, f"The client credentials grant is not possible on '/{segment}'; name the tenant.")
    check_tenant(segment, tenant)
    if _required(form, "grant_type") != "client_credentials":
        raise AadstsError(70003, "The grant type is not one this application may use; client_credentials is.")


def _required(form: Mapping[str, str], name: str) -> str:
    value = form.get(name)
    if not value:
        raise AadstsError(900144, f"The request body must contain the following parameter: '{name}'.")
    return value


def _find_client(form: Mapping[str, str], tenant: Tenant) -> ClientApplication:
    client_id = _required(form, "client_id")
    client = tenant.client(client_id)
    if client is None:
        raise AadstsError(
            700016, f"No application with the identifier '{client_id[:100]}' was found in '{tenant.tenant_id}'."
        )
    if client.object_id is None:
        raise AadstsError(
            7000229, f"The application '{client.client_id}' has no service principal in '{tenant.tenant_id}'."
        )
    return client


def _audience_of_scope(form: Mapping[str, str]) -> str:
    """Return the resource a scope names: all before its last slash, so an App ID URI ending in one needs two."""
    if "resource" in form:
        raise AadstsError(901002, "The parameter 'resource' has no place on this endpoint; use 'scope'.")
    scope = form.get("scope")
    if scope is None:
        raise AadstsError(90014, "The required field 'scope' is missing from the request.")
    wanted = scope.split(" ")
    if not any(wanted):
        raise AadstsError(28003, "The scope is empty.")
    wanted = [each for each in wanted if each]
    if not all(_SCOPE_CHARACTERS.fullmatch(each) for each in wanted):
        raise AadstsError(70011, "The scope holds characters a scope cannot have.")
    audiences = set()
    for each in wanted:
        audience, _, permission = each.rpartition("/")
        if permission != ".default" or not audience:
            raise AadstsError(
                1002012,
                f"The scope '{each[:100]}' is not possible with client credentials; it has to end in /.default.",
            )
        audiences.add(audience)
    if len(audiences) > 1:
        raise AadstsError(700022, "The scope names several resources; a token is for one.")
    return audiences.pop()


def _audience_of_resource(form: Mapping[str, str]) -> str:
    resource = form.get("resource")
    if not resource:
        raise AadstsError(50001, "The request names no resource.")
    return resource


def find_resource(audience: str, tenant: Tenant) -> ResourceApplication:
    """Return the API that a token is asked for.

    Raises:
        AadstsError: 500011, there is none of that name.
    """
    resource = tenant.resource(audience)
    if resource is None:
        raise AadstsError(
            500011, f"No resource named '{audience[:100]}' was found in '{tenant.tenant_id}'; check the App ID URI."
        )
    return resource


def _authenticate(form: Mapping[str, str], client: ClientApplication, platform: Platform, now: float) -> str:
    """Return how the client proved itself, in the terms of ``azpacr``: ``2`` by certificate, ``1`` by secret."""
    if "client_assertion" in form or "client_assertion_type" in form:
        if _required(form, "client_assertion_type") != ASSERTION_TYPE:
            raise AadstsError(90011, f"The client_assertion_type is not '{ASSERTION_TYPE}'.")
        assertion = parse_assertion(_required(form, "client_assertion"))
        # A client names itself by its id, and an identity provider by its URL.
        if client.federated and str(assertion.claims.get("iss")).startswith("https://"):
            verify_federated(
                assertion, client, keys=platform.public_keys(), find_audience=platform.tenant.audience, now=now
            )
            return "2"
        verify_assertion(assertion, client, audiences=platform.audiences, now=now, tolerance_s=platform.tolerance_s)
        return "2"
    secret = form.get("client_secret")
    if not secret:
        raise AadstsError(7000216, "The request proves nothing: it holds no client_assertion and no client_secret.")
    if not any(hmac.compare_digest(secret.encode(), each.encode()) for each in client.secrets):
        raise AadstsError(
            7000215, "The client secret is wrong. Is it the secret's value, and not its id, that was configured?"
        )
    return "1"


def _asked_nbf(form: Mapping[str, str]) -> int | None:
    """Return the ``nbf`` that a claims request (OpenID Connect Core §5.5) asks of the access token."""
    text = form.get("claims")
    if text is None:
        return None
    malformed = AadstsError(90013, "The claims parameter is not a claims request in JSON.")
    try:
        request: object = json.loads(text)
    except (ValueError, RecursionError):
        raise malformed from None
    if not isinstance(request, dict):
        raise malformed
    value = _member(_member(_member(request, "access_token"), "nbf"), "value")
    if value is None:
        return None
    if not str(value).isdecimal():
        raise malformed
    return int(str(value))


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None
