"""What is wrong with a field line of a refused head, in words. Pure, slow, and called only then; never quotes a value."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DIGITS: Final = re.compile(rb"[0-9]+")
_SHOWN: Final = 40


def describe_bad_field(fields: bytes, what: str) -> str:
    """Says which field line of a head is malformed, and how.

    Args:
        fields: everything behind the start line.
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
    """Return a sentence with gaps; empty where the line is well-formed."""
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
    """Well-formed lines that were refused frame the message, and not in the one way that everybody reads alike."""
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
    """Return a name, of bounded length, as printable ASCII in quotes."""
    name = name.rstrip(b" \t")
    return ascii(name[:_SHOWN].decode("latin-1")) + ("…" if len(name) > _SHOWN else "")
