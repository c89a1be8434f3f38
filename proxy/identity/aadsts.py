"""What the AADSTS codes of Microsoft Entra ID mean for an application with a certificate, and what to do. Does no I/O.

The codes explain; they do not steer. Entra's own reference warns that codes and texts change, so control flow follows
the OAuth ``error`` and the HTTP status, and the only codes looked at are those that name a passing condition.
"""

# ruff: noqa: E501 -- a table of sentences: wrapped, its three columns could not be read

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

_CODE = re.compile(r"(?:AADSTS)?(\d{4,8})\Z", re.IGNORECASE | re.ASCII)
_CODE_IN_TEXT = re.compile(r"AADSTS(\d{4,8})(?!\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Explanation:
    """One code in words.

    Attributes:
        code: the number after ``AADSTS``.
        cause: what happened, for a person.
        fix: what to do next, where in the portal or with which ``az`` command.
        passing: it goes away without anyone changing anything; trying again later makes sense.
    """

    code: int
    cause: str
    fix: str
    passing: bool = False

    @property
    def name(self) -> str:
        """The code as Entra prints it."""
        return f"AADSTS{self.code}"


_UPLOAD = (
    "Compare `apim-auth-proxy cert show FILE` with Entra ID > App registrations > your client > Certificates & secrets, and"
    " upload the public certificate: `az ad app credential reset --id CLIENT_ID --cert @client.crt --append`."
    " A new upload can take two minutes to be seen."
)
_ROTATE = (
    "Make a new pair with `apim-auth-proxy cert new`, upload its certificate, then name it in the configuration."
    " `certificates:` may list the old and the new one during the change."
)
_CLIENT_ID = (
    "Copy Application (client) ID and Directory (tenant) ID again from the registration's Overview page; the Object ID is"
    " another thing. `az ad app list --display-name NAME --query '[].appId'` prints it."
)
_SCOPE = (
    "Use the API's Application ID URI (Expose an API page) followed by `/.default`, for instance"
    " `api://API_CLIENT_ID/.default`. Roles cannot be asked for one by one."
)
_TENANT = "Set `tenant_id` to the Directory (tenant) ID on the registration's Overview page: `az account show --query tenantId`."
_CLOUD = "Set `cloud:` (public, usgov, china) or `authority:` to the sign-in host of the tenant's own cloud."
_WAIT = "Nothing to change: the proxy tries again by itself, and uses the token it holds meanwhile."
_ASSERTION = (
    "This proxy always sends it, so look for something between the two that rewrites the request, or for a"
    " `token_parameters:` entry in the way."
)
_OTHER_FLOW = (
    "It belongs to sign-ins of users, not to client credentials: check that the token endpoint is the tenant's own"
    " and that nothing rewrites the request's form."
)
_PLATFORM = "Entra ID has a passing problem."
_FEDERATED = "Compare issuer, subject and audience on the registration's Federated credentials page with the token's claims, to the letter."
_POLICY = (
    "Ask the tenant's administrator to look at Entra ID > Sign-in logs > Service principal sign-ins; this proxy's outgoing"
    " address must be allowed by the workload identity's Conditional Access policy."
)

# Each row: the code, its cause, its fix.
_LASTING: tuple[tuple[int, str, str], ...] = (
    # The client assertion itself.
    (
        700027,
        "Entra ID could not verify the client assertion with any certificate of this application: the certificate was never uploaded or sits on another application, was removed, has expired, or does not fit the private key in use.",
        _UPLOAD,
    ),
    (
        700024,
        "The client assertion lies outside its time window by Entra ID's clock: this machine's clock is wrong.",
        "Synchronise the clock (NTP): `timedatectl status`. `apim-auth-proxy check --online` shows the measured difference.",
    ),
    (700021, "The assertion's issuer or subject is not the client id of the request.", _CLIENT_ID),
    (50048, "The assertion's subject and issuer differ.", _CLIENT_ID),
    (
        700023,
        "The assertion's audience is not this tenant's token endpoint.",
        "Check `tenant_id` and `authority`; remove `assertion_audience` for Entra ID. `common` is not a tenant.",
    ),
    (
        700030,
        "The certificate chain was sent, and its subject name is not authorised for this application.",
        "Remove `send_certificate_chain: true` and upload the certificate itself: subject-name trust is for Microsoft's own applications.",
    ),
    (50012, "The client assertion was not accepted; this is Entra ID's older, general code for that.", _UPLOAD),
    (70002, "The client's proof was not accepted; this is Entra ID's older, general code for that.", _UPLOAD),
    (50032, "The certificate's RSA key is shorter than 2048 bits.", _ROTATE),
    (
        5002738,
        "The assertion is signed with an algorithm Entra ID does not take; only RSA signatures are accepted.",
        "Use an RSA key of 2048 bits or more, with `assertion_algorithm: PS256`.",
    ),
    (5002723, "The assertion's header names no key (x5t, x5t#S256 or kid).", _ASSERTION),
    (
        5002730,
        "This authority does not know the assertion's signature algorithm; AD FS and some older clouds do not know PS256.",
        "Set `assertion_algorithm: RS256` for this credential.",
    ),
    (50027, "The client assertion is not a well-formed JWT.", _ASSERTION),
    (
        900384,
        "The client assertion's signature does not verify: private key and uploaded certificate do not belong together.",
        _UPLOAD,
    ),
    (90014, "A required field of the token request or of the assertion is missing.", _ASSERTION),
    (90011, "The form's client_assertion_type is not the jwt-bearer URN of RFC 7523.", _ASSERTION),
    (900144, "The token request lacks a form field, or its body did not arrive as a form.", _ASSERTION),
    (7000216, "The token request carried neither a client assertion nor a client secret.", _ASSERTION),
    (7000218, "The token request carried neither a client assertion nor a client secret.", _ASSERTION),
    (
        700025,
        "The application is registered as a public client, and public clients may not prove themselves.",
        "Registration > Authentication: set 'Allow public client flows' to No.",
    ),
    (70003, "Entra ID does not support the grant type of the request.", _ASSERTION),
    (9002313, "The token request's body is malformed.", _ASSERTION),
    (
        900561,
        "The token endpoint was called with another method than POST.",
        "Look for a redirect or a gateway between the proxy and the token endpoint.",
    ),
    # The application and its tenant.
    (
        700016,
        "The client id is not known in this tenant: a typing error, an object id, another tenant, or a deleted application.",
        _CLIENT_ID,
    ),
    (
        7000229,
        "The application is registered, but has no service principal in this tenant; `az ad app create` does not make one.",
        "`az ad sp create --id CLIENT_ID`.",
    ),
    (
        7000112,
        "The application is disabled in this tenant.",
        "Entra ID > Enterprise applications > your client > Properties: 'Enabled for users to sign in' = Yes.",
    ),
    (70001, "The client id is not known in this tenant (older form of AADSTS700016).", _CLIENT_ID),
    (700011, "The client id is not known in this tenant (older form of AADSTS700016).", _CLIENT_ID),
    (90002, "There is no such tenant in this cloud.", f"{_TENANT} {_CLOUD}"),
    (
        900023,
        "The tenant is written neither as a GUID nor as a domain name; a placeholder may have been left in.",
        _TENANT,
    ),
    (
        90013,
        "Entra ID found the input invalid; a placeholder in braces or angle brackets may have been left in.",
        _TENANT,
    ),
    (50194, "The shared endpoint /common was used for an application of a single tenant.", _TENANT),
    (90124, "This grant is not allowed on the shared endpoints /common and /consumers.", _TENANT),
    (9001023, "This grant is not allowed on the shared endpoints /common and /consumers.", _TENANT),
    (
        5000225,
        "The tenant is blocked, because it has been inactive.",
        "Its administrator can ask Microsoft to reactivate it, within twenty days of the block through Microsoft's support.",
    ),
    (90038, "The tenant lives in another national cloud.", _CLOUD),
    (900382, "A confidential client cannot be used across clouds.", _CLOUD),
    (900432, "A confidential client cannot be used across clouds.", _CLOUD),
    (50049, "The authority's host is not one Entra ID knows.", _CLOUD),
    # Client secrets.
    (
        7000215,
        "The client secret is wrong; often, the secret's ID was copied instead of its value.",
        "The value is shown once, when the secret is made. A certificate needs no secret at all: `apim-auth-proxy cert new`.",
    ),
    (
        7000222,
        "The client secret has expired.",
        "Make a new one in Certificates & secrets, or better, change to a certificate: `apim-auth-proxy cert new`.",
    ),
    (
        7000232,
        "A client secret was sent for an application that is a managed identity.",
        "Give this proxy its own application registration.",
    ),
    # What was asked for.
    (70011, "The scope is malformed, or of a kind that client credentials do not know.", _SCOPE),
    (
        1002012,
        "With client credentials the scope has to end in /.default; a delegated permission such as User.Read cannot be asked for.",
        _SCOPE,
    ),
    (28002, "The scope is empty or malformed.", _SCOPE),
    (28003, "The scope is empty or malformed.", _SCOPE),
    (700022, "The scope names more than one API; a token is for one.", _SCOPE),
    (
        500011,
        "The API named by the scope has no service principal in this tenant: a typing error, another tenant, or never made.",
        "Compare the scope with the API registration's Application ID URI; `az ad sp create --id API_CLIENT_ID` makes the service principal.",
    ),
    (
        50001,
        "The API named by the scope is missing or disabled in this tenant.",
        "Compare the scope with the API registration's Application ID URI (Expose an API).",
    ),
    (
        901002,
        "The request names `resource`, which the v2 token endpoint does not take.",
        "Use `scope:` in the route, or nothing but `resource:` for the v1 endpoint.",
    ),
    (
        650057,
        "The API is not among the permissions of this client's registration.",
        "Registration > API permissions: add an application permission of the API and grant admin consent.",
    ),
    (
        65001,
        "Consent is missing for what the client asks.",
        "Registration > API permissions > Grant admin consent, or `az ad app permission admin-consent --id CLIENT_ID`.",
    ),
    (
        650052,
        "The API has no service principal in this tenant: the tenant has not subscribed to its service, or has not enabled it.",
        "Compare the scope with the API registration's Application ID URI; `az ad sp create --id API_CLIENT_ID` makes the service principal.",
    ),
    (
        650056,
        "The registration is incomplete: it lists no permission of the API, or nobody has consented to it in this tenant.",
        "Registration > API permissions: add an application permission of the API and grant admin consent.",
    ),
    (
        500014,
        "The API's service principal is disabled in this tenant: an administrator has disabled it, or the subscription behind it has lapsed.",
        "Entra ID > Enterprise applications > the API > Properties: 'Enabled for users to sign in' = Yes.",
    ),
    (
        90094,
        "The permission that is asked for needs the consent of an administrator.",
        "Registration > API permissions > Grant admin consent, or `az ad app permission admin-consent --id CLIENT_ID`.",
    ),
    (
        50105,
        "The API demands an assignment, and whoever asks has none. This is the form for users; applications normally get AADSTS501051.",
        "Assign an app role of the API to the client: API permissions > application permission > admin consent.",
    ),
    (
        501051,
        "The API demands an assignment, and this client has no app role on it.",
        "Assign an app role of the API to the client: API permissions > application permission > admin consent.",
    ),
    (
        90009,
        "The application asks a token for itself and names itself by URI.",
        "Write the scope with the client id in GUID form: `CLIENT_ID/.default`.",
    ),
    # Policy, and codes of other flows.
    (53003, "A Conditional Access policy blocks this application from here.", _POLICY),
    (530032, "A security policy of the tenant blocks this application.", _POLICY),
    (530035, "A security policy of the tenant blocks this application.", _POLICY),
    (50034, "A user account was looked for and does not exist.", _OTHER_FLOW),
    (50013, "A user's assertion (on-behalf-of flow) is not valid.", _OTHER_FLOW),
    (500131, "The audience of a user's assertion (on-behalf-of flow) is another application.", _OTHER_FLOW),
    (500133, "A user's assertion (on-behalf-of flow) has expired.", _OTHER_FLOW),
    (
        50196,
        "Entra ID sees this client ask for the same token in a loop.",
        "See what else uses this client id and does not keep its tokens; this proxy asks once an hour or so.",
    ),
    (
        100007,
        "A regional token endpoint was used; those are for managed identities and Microsoft's own applications.",
        "Set `authority:` to the global host, https://login.microsoftonline.com.",
    ),
    # Federated credentials.
    (
        70021,
        "No federated credential of the application fits the token presented; a new one takes a minute or two to be seen.",
        _FEDERATED,
    ),
    (700211, "No federated credential of the application has the token's issuer.", _FEDERATED),
    (700212, "No federated credential of the application has the token's audience.", _FEDERATED),
    (700213, "No federated credential of the application has the token's subject.", _FEDERATED),
    (700229, "The presented token comes from an identity that may not be used as a federated credential.", _FEDERATED),
)

_PASSING: tuple[tuple[int, str], ...] = (
    (90006, _PLATFORM),
    (90012, "The request to Entra ID timed out on its side."),
    (90024, _PLATFORM),
    (90033, _PLATFORM),
    (90055, "The tenant sends Entra ID too many requests and is throttled."),
    (90090, _PLATFORM),
    (50033, _PLATFORM),
)

_EXPLANATIONS: dict[int, Explanation] = {
    **{code: Explanation(code, cause, fix) for code, cause, fix in _LASTING},
    **{code: Explanation(code, cause, _WAIT, passing=True) for code, cause in _PASSING},
}

# These cover several faults that their text tells apart: "[Reason - The key used is expired., Thumbprint of …, Found key
# 'Start=…, End=…', Please visit …]". Only the reason's own sentence counts; what follows it names keys and addresses.
_ASSERTION_CODES = frozenset({700027, 50012, 70002})
_REASON = re.compile(r"\[Reason\s*-(.*?)(?:Thumbprint of|Found key|Configured keys|Please visit|\]|\Z)", re.DOTALL)
# Older answers name a general code beside the one that says what is wrong.
_UMBRELLAS = frozenset({70002, 50012})
# The first whose words all occur is taken.
_ASSERTION_REASONS: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("expired",), "The certificate has expired by Entra ID's clock.", _ROTATE),
    (
        ("start", "future"),
        "The certificate is not valid yet by Entra ID's clock.",
        "Check this machine's clock, or wait until the certificate's start.",
    ),
    (("2048",), "The certificate's RSA key is shorter than 2048 bits.", _ROTATE),
    (
        ("not", "found"),
        "The certificate that signed the assertion is not registered with this application: never uploaded, uploaded to another application or tenant, removed, or uploaded a moment ago.",
        _UPLOAD,
    ),
    (
        ("signature",),
        "The certificate is registered, but the signature was made with another private key.",
        "Check that certificate and key belong together: `apim-auth-proxy check --config FILE`.",
    ),
)


def explain(code: int, description: str = "") -> Explanation | None:
    """Return cause and fix of an AADSTS code, or None for a code this table does not know.

    Args:
        code: the number.
        description: the platform's own ``error_description``, which tells apart what was wrong with an assertion.
    """
    found = _EXPLANATIONS.get(code)
    if code in _ASSERTION_CODES and (reason := _REASON.search(description)) is not None:
        words = reason.group(1).lower()
        for wanted, cause, fix in _ASSERTION_REASONS:
            if all(word in words for word in wanted):
                return Explanation(code, cause, fix)
    return found


def known_codes() -> tuple[int, ...]:
    """Return every code of the table, ascending."""
    return tuple(sorted(_EXPLANATIONS))


def parse_code(text: str) -> int | None:
    """Return the number of ``AADSTS700027`` or ``700027``, or None where the text is neither."""
    found = _CODE.match(text.strip())
    return int(found.group(1)) if found else None


def find_code(text: str) -> int | None:
    """Return the code that says most of those mentioned anywhere in the text, or None."""
    return choose_code([int(number) for number in _CODE_IN_TEXT.findall(text)])


def choose_code(codes: Sequence[int]) -> int | None:
    """Return the most specific of several codes, or None of none.

    A code of the table says more than another one, and any more than an older, general code; of several that are left,
    the longer one is the more specific.
    """
    return max(codes, key=lambda code: (code not in _UMBRELLAS, code in _EXPLANATIONS, code), default=None)
