"""Why a head was refused, in words for whoever sent it. Pure: does no I/O.

Slow, and called only when a head is refused. Of what was received, only field names are quoted: a value may be a secret.
"""

from __future__ import annotations

import re
from typing import Final

from proxy.errors import MalformedRequest
from proxy.policy import probe
from proxy.relay.message import BARE_LINE_END, REQUEST_LINE, STATUS_LINE

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS: Final = re.compile(rb"[0-9]+")
_SHOWN: Final = 40
# A request line that is well-formed except for its target, or the beginning of one whose end has not come yet.
_ANY_TARGET: Final = re.compile(
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,64} ((?:/|[A-Za-z][A-Za-z0-9+.\-]*://)[^\x00-\x08\x0a-\x1f\x7f]*?)( HTTP/1\.[01])?"
)
_PROXY_PROTOCOL: Final = (
    "The request begins with the PROXY protocol, which this proxy does not accept. Switch it off at the load balancer "
    "for this listener (`send-proxy` in HAProxy, `proxy_protocol` in nginx)."
)
_SOCKS: Final = "This is an HTTP proxy, and the client speaks SOCKS. Use http:// instead of socks4:// or socks5://."
_OTHER_PROTOCOLS: Final = (
    (
        b"\x16\x03",  # RFC 8446 §5.1
        "tls_on_plain_port",
        "This port speaks plain HTTP, and a TLS handshake arrived. Use http:// in the proxy's own URL.",
    ),
    (probe.QUESTION, "probe", "This is a listener of apim-auth-proxy."),
    (b"\x05", "socks", _SOCKS),  # RFC 1928 §3
    (b"\x04", "socks", _SOCKS),
    (b"PROXY TCP", "proxy_protocol", _PROXY_PROTOCOL),
    (b"PROXY UNKNOWN", "proxy_protocol", _PROXY_PROTOCOL),
    (b"\x00\r\nQUIT\n", "proxy_protocol", _PROXY_PROTOCOL),  # version 2, whose signature begins with two empty lines
    (b"\r\n\r\n\x00\r\nQUIT\n", "proxy_protocol", _PROXY_PROTOCOL),
    (b"PRI * HTTP/2.0", "http2", "HTTP/2 is not spoken on this port. Use HTTP/1.1."),  # RFC 9113 §3.4
)
_FAULTS: Final = (
    (re.compile(rb"\A\r\n[ \t]|\n[ \t]+[^\r\n]"), "a folded field line, which RFC 9112 §5.2 forbids"),
    (BARE_LINE_END, "a bare CR or LF; lines end with CRLF (RFC 9112 §2.2)"),
)


def refuse_other_protocol(raw: bytes) -> MalformedRequest | None:
    """Return the error for a client whose first bytes are those of another known protocol; None for any other bytes."""
    for start, code, words in _OTHER_PROTOCOLS:
        if raw.startswith(start):
            return MalformedRequest(words, code=code)
    return None


def refuse_request(raw: bytes) -> MalformedRequest:
    """Return the error for bytes that are not a request head.

    Its code tells another protocol from a faulty request: a client of another protocol cannot read an HTTP answer.
    """
    other = refuse_other_protocol(raw)
    if other is not None:
        return other
    fault = _find_unencoded(raw)
    if fault:
        return MalformedRequest(fault, code="target_not_encoded")
    return MalformedRequest(diagnose_head(raw, request=True))


def _find_unencoded(raw: bytes) -> str:
    """Name the character of a request target that should be percent-encoded; empty if that is not the fault."""
    line, end, _ = raw.partition(b"\r\n")
    match = _ANY_TARGET.fullmatch(line)
    if match is None or (end and match[2] is None):
        return ""
    target = match[1]
    if b" " in target or b"\t" in target:
        return "The URL has a blank in it. Encode it as %20 (RFC 3986 §2.1)."
    if b"#" in target:
        return "The URL has a '#' in it. Leave out the fragment, or encode the '#' as %23 if it is part of the path."
    return ""


def diagnose_head(raw: bytes, *, request: bool) -> str:
    """Say why a head was refused."""
    what = "request" if request else "response"
    for pattern, words in _FAULTS:
        if pattern.search(raw):
            return f"The {what} head has {words}."
    start = REQUEST_LINE if request else STATUS_LINE
    if not start.match(raw):
        return f"The first line is not an HTTP/1.x {'request' if request else 'status'} line (RFC 9112 §{3 if request else 4})."
    return _describe_bad_field(raw.partition(b"\r\n")[2], what)


def _describe_bad_field(fields: bytes, what: str) -> str:
    """Say which field line of a head is malformed, and how.

    Args:
        fields: everything after the start line.
        what: ``request`` or ``response``.
    """
    lines = fields.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    behind = "behind the first line"
    for line in lines:
        name, colon, value = line.partition(b":")
        fault = _find_fault(name, colon, value)
        if fault:
            return f"{fault.format(what=what, line=f'A field line of the {what}, {behind},', name=_show(name))}."
        behind = f"behind {_show(name)}"
    return _describe_framing(lines, what)


def _find_fault(name: bytes, colon: bytes, value: bytes) -> str:
    """Return a sentence for `str.format`; empty if the line is well-formed."""
    if not colon:
        return "{line} has no colon (RFC 9112 §5)"
    if not name:
        return "{line} has no name before its colon (RFC 9112 §5)"
    if name[-1:] in (b" ", b"\t") and _TOKEN.fullmatch(name.rstrip(b" \t")):
        return "The {what} head has white space before a colon, behind {name} (RFC 9112 §5.1)"
    if _TOKEN.fullmatch(name) is None:
        return "{line} has a character in its name that no field name may have: {name} (RFC 9110 §5.1)"
    if _CONTROL.search(value):
        return "The field {name} of the {what} has a control character in its value (RFC 9110 §5.5)"
    return ""


def _describe_framing(lines: list[bytes], what: str) -> str:
    """Say what is wrong with the framing, the only reason left to refuse well-formed lines."""
    fields = [(line.partition(b":")[0].lower(), line.partition(b":")[2].strip(b" \t")) for line in lines]
    lengths = [value for name, value in fields if name == b"content-length"]
    has_coding = any(name == b"transfer-encoding" for name, _ in fields)
    if has_coding and lengths:
        return f"The {what} has both Content-Length and Transfer-Encoding, so its end is ambiguous (RFC 9112 §6.3)."
    if len(lengths) > 1:
        return f"The {what} has more than one Content-Length (RFC 9112 §6.3)."
    if lengths and _DIGITS.fullmatch(lengths[0]) is None:
        return f"The {what} has a Content-Length that is not a plain number (RFC 9110 §8.6)."
    if lengths:
        return f"The {what} has a Content-Length that is too large (RFC 9110 §8.6)."
    if has_coding:
        return f"The {what} has a Transfer-Encoding other than 'chunked' (RFC 9112 §6.1)."
    return f"The {what} head has a malformed field line (RFC 9112 §5)."


def _show(name: bytes) -> str:
    """Return a name in quotes, as printable ASCII of bounded length."""
    name = name.rstrip(b" \t")
    return ascii(name[:_SHOWN].decode("latin-1")) + ("…" if len(name) > _SHOWN else "")
