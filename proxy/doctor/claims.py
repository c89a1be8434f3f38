"""What an access token says, for diagnosis only: nothing here verifies a signature. Does no I/O.

Access tokens are opaque to a client (RFC 6749 §1.4); one looks inside to find out why an API refuses them.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.doctor.findings import ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from proxy.doctor.findings import Fact, Finding

_TEXT_LIMIT: Final = 200

GRANT_A_ROLE: Final = (
    "Define an app role on the API's registration, add it to the client as an application permission and grant admin consent: "
    "`az ad app permission add --id CLIENT_ID --api API_CLIENT_ID --api-permissions ROLE_ID=Role`, then "
    "`az ad app permission admin-consent --id CLIENT_ID`."
)


@dataclass(frozen=True, slots=True)
class DecodedToken:
    """A JWT's header and claims, neither verified."""

    header: Mapping[str, object]
    claims: Mapping[str, object]

    def text(self, name: str) -> str:
        """Return a claim as a short printable text; empty where it is absent."""
        value = self.claims.get(name)
        if value is None:
            return ""
        text = value if isinstance(value, str) else json.dumps(value)
        return "".join(letter if letter.isprintable() else "?" for letter in text[:_TEXT_LIMIT])

    @property
    def roles(self) -> tuple[str, ...]:
        """The app roles in it."""
        value = self.claims.get("roles")
        values = value if isinstance(value, list) else [value]
        return tuple(role for role in values if isinstance(role, str))


def decode_access_token(value: str) -> DecodedToken | None:
    """Return what a token says, or None where it is no JWT."""
    segments = value.split(".")
    if len(segments) != 3:
        return None
    header, claims = (_decode(segment) for segment in segments[:2])
    return DecodedToken(header, claims) if header is not None and claims is not None else None


def judge_claims(subject: str, token: DecodedToken, asked: str, life_s: float, *, is_entra: bool) -> Iterator[Finding]:
    """Yield what there is to say about a token before anyone is shown it.

    Args:
        subject: of the findings.
        token: decoded.
        asked: the scope or resource it was asked for with.
        life_s: how long it is good for, as the token endpoint said.
        is_entra: whether Microsoft Entra ID issued it, whose claims have a known meaning.
    """
    audience, version, roles = token.text("aud"), token.text("ver"), token.roles
    facts: dict[str, Fact] = {"aud": audience, "iss": token.text("iss"), "ver": version, "roles": list(roles)}
    said = f"The access token is for aud {audience or '(none)'}"
    said += f", version {version}" if version else ""
    said += f", roles {', '.join(roles)}" if roles else ""
    said += f", good for {life_s / 60:.0f} min"
    yield ok(subject, f"{said}.", **facts)
    if not is_entra:
        return
    if not roles:
        yield warning(
            subject, "The access token has no roles, the commonest cause of 401 and 403 from an API.", GRANT_A_ROLE
        )
    resource = asked.removesuffix("/.default")
    application_id = resource.removeprefix("api://")
    # A version 2 token names the API by its application id, which an identifier URI other than api://GUID does not hold.
    comparable = version != "2.0" or _is_guid(application_id)
    if comparable and audience.rstrip("/") not in {resource.rstrip("/"), application_id, f"api://{application_id}"}:
        yield warning(
            subject,
            f"The access token's aud {audience} is not what {asked} names.",
            "Compare the scope with the API registration's Application ID URI, and both with the audiences of the gateway's "
            "policy.",
        )


def _is_guid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4


def _decode(segment: str) -> Mapping[str, object] | None:
    try:
        value: object = json.loads(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
