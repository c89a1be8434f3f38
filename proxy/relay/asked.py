"""What a refused request asked for, for the access log: as far as it can be made out, without its secrets. Pure: does no I/O."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxy.relay.message import RequestHead

# The start of a line that may be a request's: what has no method and no target that begins like one is nobody's business.
_LINE: Final = re.compile(
    rb"(?:\r?\n)*([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64}) ((?:[/*]|[A-Za-z][A-Za-z0-9+.\-]*://)[^\r\n]*)"
)
_CONNECT: Final = re.compile(rb"(?:\r?\n)*(CONNECT) ([^\r\n]*)")
_METHOD: Final = re.compile(rb"(?:\r?\n)*([A-Z]{1,16})(?: |\Z)")
_ABSOLUTE_FORM: Final = re.compile(rb"[A-Za-z][A-Za-z0-9+.\-]*://([^/?#]*)(.*)", re.DOTALL)
# An authority that is no more than host and port; a password's first part is neither.
_PLAIN_AUTHORITY: Final = re.compile(rb"(?:[^:@]*|\[[^\]@]*\])(?::[0-9]*)?")
_VERSION: Final = re.compile(rb" [^ ]*\Z")
# More than any host with its port has.
_AUTHORITY_BYTES: Final = 512
# The access log keeps less; this bounds what is searched.
_LINE_BYTES: Final = 20_000


def describe_head(head: RequestHead) -> tuple[bytes, str, bytes]:
    """Return method, authority and path of a request whose head was read: no user information, no query."""
    return _describe(head.method, head.target)


def describe_raw(raw: bytes) -> tuple[bytes, str, bytes]:
    """Return method, authority and path of what came in the place of a request, as far as they can be told; else nothing.

    Args:
        raw: from the request's beginning; may end anywhere.
    """
    raw = raw[:_LINE_BYTES]
    match = _LINE.match(raw) or _CONNECT.match(raw)
    if match is None:
        match = _METHOD.match(raw)
        return (b"" if match is None else match[1]), "", b""
    method, rest = match.groups()
    # A target with blanks in it is one of the things that get a request refused, so only the last word is the version.
    return _describe(method, _VERSION.sub(b"", rest, 1) if b" HTTP/" in rest else rest)


def _describe(method: bytes, target: bytes) -> tuple[bytes, str, bytes]:
    if method == b"CONNECT":
        return method, _without_user(target), b""
    match = _ABSOLUTE_FORM.match(target)
    if match is None:
        return method, "", _without_query(target)
    path = _without_query(match[2])
    host = match[1].rpartition(b"@")[2]
    # A "/" or "?" that belongs to a password ends the authority too early, so that parts of it would be told.
    may_be_password = b"@" in path or (b"@" in match[2] and b":" in host + path)
    if may_be_password or _PLAIN_AUTHORITY.fullmatch(host) is None:
        return method, "", b""
    return method, _without_user(host), path


def _without_query(target: bytes) -> bytes:
    return target.partition(b"?")[0].partition(b"#")[0]


def _without_user(raw: bytes) -> str:
    return raw.rpartition(b"@")[2][:_AUTHORITY_BYTES].decode("latin-1")
