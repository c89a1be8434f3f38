"""The types of single values: text that has to be an address, a host, a scope, a field; and files. Does no I/O.

Each validator raises `ValueError` with a sentence of ours that does not repeat the value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias

from msgspec import Meta

from proxy.config.addresses import check_encoding, parse_https_url, parse_listen_address, parse_origin
from proxy.config.redis_url import parse_redis_url
from proxy.errors import ConfigurationError, MalformedRequest
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.passwords import parse_password_hash
from proxy.policy.routing import parse_host_pattern
from proxy.policy.upstream_proxy import parse_exemption, parse_proxy_url

if TYPE_CHECKING:
    from collections.abc import Callable

JUDGE: Final = "judge"
"""Under this name, `msgspec.Meta.extra` has the function that judges a value."""

# RFC 9110 §5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# RFC 6749 §A.1 and §A.4, the latter for several scopes.
_CLIENT_ID = re.compile(r"[\x20-\x7e]+")
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+(?: [\x21\x23-\x5b\x5d-\x7e]+)*")
_GUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DOMAIN = re.compile(r"[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
# Not one tenant but many; an application's own token comes from one (AADSTS50194, AADSTS90124, AADSTS700023).
_TENANT_ALIASES = {"common", "organizations", "consumers"}

# Part of a Basic user name, which has no colon (RFC 7617 §2), and of a log line.
_CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_FILE_MODE = re.compile(r"0?[0-7]{3}")
# What useradd(8) takes, or a number.
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")

# The proxy writes these itself: framing (RFC 9112 §6), the connection's own (RFC 9110 §7.6.1), authority and token.
_OWN_FIELDS = {
    "authorization",
    "connection",
    "content-length",
    "expect",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}

# RFC 6749 §8.2.
_PARAMETER_NAME = re.compile(r"[A-Za-z0-9._-]+")
# Of the client credentials grant, its proofs and what is configured elsewhere.
_OWN_PARAMETERS = {
    "claims",
    "client_assertion",
    "client_assertion_type",
    "client_id",
    "client_secret",
    "grant_type",
    "resource",
    "scope",
}
_PARAMETER_LIMIT = 32
_TWO_SCHEMES = (
    "this URI has two schemes; write the API's identifier URI alone, such as api://orders, with nothing in front"
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What relative paths and ``~`` stand for.

    Attributes:
        directory: of the configuration file, absolute.
        home: of the user; None where the environment does not say.
    """

    directory: Path
    home: str | None

    def locate(self, text: str) -> Path:
        """Return the absolute path that a configured one stands for.

        Raises:
            ValueError: if it stands for none.
        """
        if not text:
            raise ValueError("a path is empty; name a file, or leave the key out")
        if "\0" in text:
            raise ValueError("a path cannot hold a NUL character; remove it")
        try:
            check_encoding(text)
        except ConfigurationError as error:
            raise ValueError(error.detail) from None
        if text == "~" or text.startswith("~/"):
            if not self.home:
                raise ValueError("'~' means HOME, which is not set in the environment; write the whole path")
            text = self.home + text[1:]
        return self.directory / text


class Secret:
    """A text that is never shown: neither `repr` nor `str` nor JSON has it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret('**********')"

    def __str__(self) -> str:
        return "**********"


def _judged(judge: Callable[[Any], object]) -> Meta:
    """Return what has a value judged, and brought into another form, by a function that raises `ValueError`."""
    return Meta(extra={JUDGE: judge})


def _judged_by(parse: Callable[[str], object]) -> Meta:
    """Return what keeps the text and lets a parser judge it."""

    def judge(text: str) -> str:
        try:
            parse(text)
        except (ConfigurationError, MalformedRequest) as error:
            raise ValueError(error.detail) from None
        return text

    return _judged(judge)


def _to_origin(text: str) -> str:
    try:
        return f"https://{parse_origin(text).host_field(HTTPS_PORT).decode('ascii')}"
    except ConfigurationError as error:
        raise ValueError(error.detail) from None


def _check_tenant(text: str) -> str:
    if text.lower() in _TENANT_ALIASES:
        raise ValueError(
            "an application's token comes from one tenant (AADSTS700023); write the tenant's GUID or a domain of it"
        )
    if not _GUID.fullmatch(text) and not _DOMAIN.fullmatch(text):
        raise ValueError(
            "a tenant is a GUID or a domain, such as contoso.onmicrosoft.com; `az account show` prints the GUID"
        )
    return text


def _check_network(text: str) -> str:
    try:
        ip_network(text)
    except ValueError:
        raise ValueError(
            "not an address range; write 10.1.0.0/16 or ::1/128, with no bits set behind the prefix"
        ) from None
    return text


def _check_client_name(text: str) -> str:
    if not _CLIENT_NAME.fullmatch(text):
        raise ValueError(
            "a client's name has up to 64 letters, digits and '.', '_', '@' or '-', and begins with one of the first two"
        )
    return text


def _check_file_mode(text: str) -> str:
    if not _FILE_MODE.fullmatch(text):
        raise ValueError('a file mode is three octal digits in quotes, such as "0600" or "0660"')
    return text


def _check_user(text: str) -> str:
    if not _USER.fullmatch(text):
        raise ValueError("not a Unix user's name or number; `id -un` prints one's own")
    return text


def _check_password_hash(secret: Secret) -> Secret:
    parse_password_hash(secret.reveal())
    return secret


def _check_proxy_url(secret: Secret) -> Secret:
    try:
        parse_proxy_url(secret.reveal())
    except ConfigurationError as error:
        raise ValueError(error.detail) from None
    return secret


def _check_collector_url(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in ("http", "https"):
        raise ValueError("write a whole URL, such as http://127.0.0.1:4318")
    if "@" in rest or "?" in rest or "#" in rest:
        raise ValueError(
            "a collector's URL has no user information, query or fragment; what authenticates to it goes into the variable "
            "OTEL_EXPORTER_OTLP_HEADERS"
        )
    try:
        parse_authority(rest.partition("/")[0].encode("utf-8", "surrogatepass"), HTTPS_PORT)
    except MalformedRequest as error:
        raise ValueError(f"the URL's host cannot be used. {error.detail}") from None
    return text


def _check_client_id(text: str) -> str:
    if not _CLIENT_ID.fullmatch(text):
        raise ValueError("a client id has only printable ASCII characters (RFC 6749 §A.1)")
    if text != text.strip():
        raise ValueError("the client id begins or ends with a blank; remove it")
    if text.startswith("{") and text.endswith("}"):
        raise ValueError("write the client id without braces, such as 22222222-2222-2222-2222-222222222222")
    return text


def _check_scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError(
            "a scope is printable ASCII without quotes and backslashes, one space between two (RFC 6749 §3.3)"
        )
    if any(one.count("://") > 1 for one in text.split(" ")):
        raise ValueError(_TWO_SCHEMES)
    return text


def _check_resource(text: str) -> str:
    if not _CLIENT_ID.fullmatch(text) or " " in text:
        raise ValueError("a resource is an absolute URI or a client id, printable ASCII without spaces (RFC 8707 §2)")
    if text.count("://") > 1:
        raise ValueError(_TWO_SCHEMES)
    if text.endswith("/.default"):
        raise ValueError(
            "/.default belongs to a scope; write the resource without it, or write scope in place of resource"
        )
    return text


def _check_parameter_name(text: str) -> str:
    if not _PARAMETER_NAME.fullmatch(text):
        raise ValueError("a parameter name has letters, digits, '-', '.' and '_' only (RFC 6749 §A.2 and following)")
    if text in _OWN_PARAMETERS:
        raise ValueError("the proxy writes this parameter itself; remove it from token_parameters")
    return text


def _check_field_name(text: str) -> str:
    if not _TOKEN.fullmatch(text):
        raise ValueError("not a field name: letters, digits and hyphens, no spaces, no colon (RFC 9110 §5.1)")
    if text.lower() in _OWN_FIELDS:
        raise ValueError("the proxy writes this field itself; remove it from set_headers")
    return text


def _check_field_value(secret: Secret) -> Secret:
    value = secret.reveal()
    if not value:
        raise ValueError("the value is empty; give it one, or look at the environment variable it comes from")
    if not value.isascii() or not value.isprintable():
        raise ValueError(
            "the value has a line break, a control character or one outside ASCII (RFC 9110 §5.5); "
            "a value read from a file often ends in a line break"
        )
    if value != value.strip():
        raise ValueError("the value begins or ends with a space, which the upstream would not see; remove it")
    return secret


def _check_fields(fields: dict[str, Secret]) -> dict[str, Secret]:
    if len({name.lower() for name in fields}) < len(fields):
        raise ValueError("two names differ in case only, which is one field (RFC 9110 §5.1); keep one")
    return fields


Seconds = Annotated[float, Meta(gt=0, le=86_400)]
ByteCount = Annotated[int, Meta(gt=0, le=2**40)]
Count = Annotated[int, Meta(gt=0, le=1_000_000)]

Rate = Annotated[float, Meta(gt=0, le=1_000_000)]
"""Per second."""

Workers = Annotated[int, Meta(ge=1, le=64)]
Port = Annotated[int, Meta(ge=1, le=65_535)]

LocatedPath: TypeAlias = Path
"""Absolute after loading; relative paths are relative to the configuration file."""
ListenText = Annotated[str, _judged_by(parse_listen_address)]
"""What `parse_listen_address` takes."""
OriginText = Annotated[str, _judged(_to_origin)]
"""``https://host`` or ``https://host:port``, canonical after loading."""
HttpsUrl = Annotated[str, _judged_by(parse_https_url)]
CollectorUrl = Annotated[str, _judged(_check_collector_url)]
"""``http://host[:port]`` or ``https://host[:port]``, with or without a path."""
HostPatternText = Annotated[str, _judged_by(parse_host_pattern)]
"""What `parse_host_pattern` takes."""
HostText = Annotated[str, _judged_by(lambda text: parse_authority(text.encode("utf-8", "surrogatepass"), HTTPS_PORT))]
"""``host`` or ``host:port``, as a Host field has it."""
DialText = Annotated[str, _judged_by(lambda text: parse_authority(text.encode("utf-8", "surrogatepass"), None))]
"""``host:port``, what `parse_authority` takes without a default port."""
NetworkText = Annotated[str, _judged(_check_network)]
"""What `ipaddress.ip_network` takes."""
ClientName = Annotated[str, _judged(_check_client_name)]
UserText = Annotated[str, _judged(_check_user)]
FileMode = Annotated[str, _judged(_check_file_mode)]
"""Octal digits as text: YAML reads 0600 as another number."""
PasswordHashText = Annotated[Secret, _judged(_check_password_hash)]
"""What `parse_password_hash` takes."""
ProxyUrl = Annotated[Secret, _judged(_check_proxy_url)]
"""What `parse_proxy_url` takes; it may hold a password."""
RedisUrlText = Annotated[str, _judged_by(parse_redis_url)]
"""What `parse_redis_url` takes."""
ExemptionText = Annotated[str, _judged_by(parse_exemption)]
"""What `parse_exemption` takes."""
TenantText = Annotated[str, _judged(_check_tenant)]
ClientIdText = Annotated[str, Meta(min_length=1), _judged(_check_client_id)]
ResourceText = Annotated[str, Meta(min_length=1), _judged(_check_resource)]
Parameters = Annotated[dict[Annotated[str, _judged(_check_parameter_name)], Secret], Meta(max_length=_PARAMETER_LIMIT)]
"""Form fields of a token request; the values may be secrets."""
ScopeText = Annotated[str, Meta(min_length=1), _judged(_check_scope)]
Fields = Annotated[
    dict[Annotated[str, _judged(_check_field_name)], Annotated[Secret, _judged(_check_field_value)]],
    _judged(_check_fields),
]
