"""How a token stands in a file, for each gateway that reads one. Pure: does no I/O.

What is pushed outlives the one who pushes it, so when the token ends travels with it, and the gateway's recipe looks at that.
Traefik looks when it reads the file, and not again; there the file has to go with the proxy, as a RuntimeDirectory of systemd does.
"""

from __future__ import annotations

import json
import re
from typing import Final

from proxy.config.settings import TokenFileFormat

_OURS: Final = "# Kept up to date by apim-auth-proxy. Holds an access token."
_PLAIN: Final = re.compile(r"[\x21-\x7e]*")
_CADDY: Final = re.compile(r"(?:[0-9]+ Bearer [\x21-\x7e]+)?")
_SECRET: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"  # noqa: S105  # a type's name


def format_token(kind: TokenFileFormat, name: str, token: str, ends_at: int) -> str:
    """Return the content of a file.

    Args:
        kind: whose.
        name: of the token, for the gateway.
        token: visible ASCII.
        ends_at: Unix seconds from which it may not be sent.
    """
    field = f"Bearer {token}"
    match kind:
        case TokenFileFormat.PLAIN:
            return token
        case TokenFileFormat.CADDY:
            return f"{ends_at} {field}"
        case TokenFileFormat.HAPROXY_MAP:
            return f"{_OURS}\n{name} {format_entry(token, ends_at)}\n"
        case TokenFileFormat.ENVOY_SDS:
            return _format_secret(name, format_entry(token, ends_at))
        case TokenFileFormat.TRAEFIK:
            headers = {"customRequestHeaders": {"Authorization": field}}
            return _until(ends_at, _as_yaml({"http": {"middlewares": {name: {"headers": headers}}}}))


def format_absence(kind: TokenFileFormat, name: str) -> str | None:
    """Return the content of a file whose token has been taken away; None where there is no file then.

    Envoy keeps a secret whose file has gone, and HAProxy does not start without a map's file.
    """
    if kind is TokenFileFormat.ENVOY_SDS:
        return _format_secret(name, "0:none")
    return f"{_OURS}\n" if kind is TokenFileFormat.HAPROXY_MAP else None


def format_entry(token: str, ends_at: int) -> str:
    """Return what Envoy's secret and HAProxy's map have: when the token ends, a colon, and the field."""
    return f"{ends_at}:Bearer {token}"


def is_ours(kind: TokenFileFormat, content: str) -> bool:
    """Whether a file that is there already is one of these, so that nothing of somebody else's is replaced."""
    if kind is TokenFileFormat.PLAIN:
        return _PLAIN.fullmatch(content) is not None
    if kind is TokenFileFormat.CADDY:
        return _CADDY.fullmatch(content) is not None
    return not content or content.startswith(_OURS)


def _format_secret(name: str, value: str) -> str:
    """Envoy takes one secret from a file, so when the token ends stands in it, too."""
    secret = {"@type": _SECRET, "name": name, "generic_secret": {"secret": {"inline_string": value}}}
    return _as_yaml({"resources": [secret]})


def _until(ends_at: int, text: str) -> str:
    """Traefik reads its files as templates (text/template), so one that it reads after the token has ended is empty to it.

    The actions stand in comments, so the file stays YAML for everybody else. `{{` in the token is escaped: it begins no action.
    """
    first, rest = text.split("\n", 1)
    rest = rest.replace("{{", "\\u007b\\u007b")
    return f"{first}\n# {{{{ if lt now.Unix {ends_at} }}}}\n{rest}# {{{{ end }}}}\n"


def _as_yaml(content: object) -> str:
    """JSON is YAML, and its strings need no thought."""
    return f"{_OURS}\n{json.dumps(content, indent=2)}\n"
