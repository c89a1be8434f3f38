"""Read the field lines of a head in one go, where nothing about them is in doubt. Pure: does no I/O.

llhttp is the judge of heads, and costs a call for each field. Compiled, one pass over the bytes costs less than half of that, so it
goes first. It may only accept what llhttp accepts, with the same names; it leaves everything else to llhttp, so that no head is
accepted or refused by another rule than llhttp's. `tests/property/test_field_lines.py` and a fuzz target hold it to that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from proxy.relay.message import LENGTH_DIGITS

if TYPE_CHECKING:
    from mypy_extensions import i64

    from proxy.relay.message import Head

_COLON: Final = 0x3A
_CR: Final = 0x0D
_LF: Final = 0x0A
_SPACE: Final = 0x20
_NAME_BYTES: Final = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")  # RFC 9110 §5.6.2
# What says where the message ends.
_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding", b"upgrade"))


def _fold(byte: int) -> int:
    if byte in b"ABCDEFGHIJKLMNOPQRSTUVWXYZ":
        return byte + 0x20
    if byte in _NAME_BYTES or byte in b":\r\n":
        return byte
    # RFC 9110 §5.5: a value is made of these. What is left no field line has.
    return _SPACE if byte in b"\t " or 0x21 <= byte <= 0x7E or byte >= 0x80 else 0


# What a name may have stays, in lower case; so do colons and line ends. Other bytes of values become spaces, all others NUL.
_FOLDED: Final = bytes([_fold(byte) for byte in range(256)])


def _is_plain(name: bytes, value: bytes) -> bool:
    """Whether a field of `_FRAMING` is in the one form that leaves no question; `value` is all that follows the colon."""
    if name == b"content-length":
        # A slice that begins behind its end is an error for mypyc.
        return 1 < len(value) <= 1 + LENGTH_DIGITS and value[0] == _SPACE and value[1:].isdigit()
    return name == b"transfer-encoding" and value == b" chunked"


def read_fields(head: Head) -> bool:
    """Read the names and lines of a head from its fields; return False, and change nothing, if llhttp has to judge them.

    Source: RFC 9112 §5.
    """
    fields = head.fields
    text = fields.translate(_FOLDED)
    names: list[bytes] = []
    lines: list[bytes] = []
    end: i64 = len(text)
    if end and text[end - 1] != _LF:
        return False  # from here on no line is without an end, so that nothing is read beyond it
    is_framed = False
    at: i64 = 0
    while at < end:
        start = at
        byte: i64 = text[at]
        while byte > _SPACE and byte != _COLON:
            at += 1
            byte = text[at]
        length = at - start
        if not length or byte != _COLON:
            return False
        name = text[start:at]
        value = at + 1
        while byte >= _SPACE:
            at += 1
            byte = text[at]
        if byte != _CR or text[at + 1] != _LF:
            return False
        # By the length of the name first, because that costs nothing.
        if (length == 7 or length == 14 or length == 17) and name in _FRAMING:
            if is_framed or not _is_plain(name, fields[value:at]):
                return False
            is_framed = True
        names.append(name)
        lines.append(fields[start:at])
        at += 2
    head.take_fields(names, lines)
    return True
