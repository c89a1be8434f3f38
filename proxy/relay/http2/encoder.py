"""Encode blocks of fields (HPACK, RFC 7541), without Huffman coding. Pure: does no I/O.

A connection to an upstream carries the requests of many clients. Whoever sees how long a block is learns by trying whether
another's field is in the table (RFC 7541 §7.1), so only fields that repeat and are no secret enter it, by a list of names.
"""

from __future__ import annotations

from typing import Final

from proxy.relay.http2.decoder import ENTRY_BYTES, TABLE_BYTES
from proxy.relay.http2.static_table import STATIC_COUNT, STATIC_FIELDS, STATIC_NAMES, Field

_INDEXED: Final = frozenset(
    (
        b":authority",
        b":method",
        b":scheme",
        b":status",
        b"accept",
        b"accept-encoding",
        b"accept-language",
        b"accept-ranges",
        b"access-control-allow-origin",
        b"cache-control",
        b"content-encoding",
        b"content-language",
        b"content-type",
        b"grpc-accept-encoding",
        b"grpc-encoding",
        b"grpc-message-type",
        b"grpc-status",
        b"priority",
        b"server",
        b"strict-transport-security",
        b"te",
        b"user-agent",
        b"vary",
        b"via",
        b"x-content-type-options",
        b"x-powered-by",
    )
)
# RFC 7541 §7.1.3: what the next hop may not put into a table either.
_SECRET: Final = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"set-cookie"))
_NONE: Final[frozenset[bytes]] = frozenset()
# An entry larger than this would leave too little for others.
_ENTRY_LIMIT: Final = 512
# Nothing is ever evicted by a new entry, which keeps this table a dict. Once it is full and so many fields have not found
# room, it is emptied: what repeats has changed.
_PATIENCE: Final = 100
# First bits and mask of an integer's first byte: RFC 7541 §6.
_WITHOUT_INDEXING: Final = 0x00
_NEVER_INDEXED: Final = 0x10
_SIZE_UPDATE: Final = 0x20
_INCREMENTAL: Final = 0x40
_ONE_BYTE: Final = 0x7F
# A byte of a head is looked up, because to make one anew goes through a tuple.
_OCTETS: Final[list[bytes]] = [bytes((octet,)) for octet in range(256)]


def format_integer(value: int, mask: int, first: int) -> bytes:
    """Return an integer behind the bits that `first` has above `mask`: RFC 7541 §5.1."""
    if value < mask:
        return _OCTETS[first | value]
    octets = bytearray((first | mask,))
    value -= mask
    while value > _ONE_BYTE:
        octets.append(value & _ONE_BYTE | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _format_string(string: bytes) -> bytes:
    return format_integer(len(string), _ONE_BYTE, 0) + string


def _format_literal(name: bytes, value: bytes, mask: int, first: int) -> bytes:
    index = STATIC_NAMES.get(name, 0)
    if index:
        return format_integer(index, mask, first) + _format_string(value)
    return _OCTETS[first] + _format_string(name) + _format_string(value)


def format_secret(name: bytes, value: bytes) -> bytes:
    """Return a field that no intermediary may put into a table (RFC 7541 §6.2.3); it can stand in any block.

    A token is encoded once by this and sent many times.
    """
    return _format_literal(name, value, 0x0F, _NEVER_INDEXED)


class Encoder:
    """Encodes what we send on one connection."""

    __slots__ = ("_entries", "_inserted", "_limit", "_missed", "_size", "_update")

    def __init__(self) -> None:
        # Which insertion a field was, from 1 on; an index counts back from the newest.
        self._entries: dict[Field, int] = {}
        self._inserted = 0
        self._size = 0
        self._limit = TABLE_BYTES
        self._missed = 0
        self._update = b""

    def set_limit(self, size: int) -> None:
        """Take note of the other side's SETTINGS_HEADER_TABLE_SIZE: RFC 9113 §6.5.2."""
        limit = min(size, TABLE_BYTES)
        if limit != self._limit:
            self._limit = limit
            self._start_over()

    def _start_over(self) -> None:
        """Empty the table: at the start of the next block both sides reduce it to nothing, and then not (RFC 7541 §4.2)."""
        self._update = _OCTETS[_SIZE_UPDATE] + format_integer(self._limit, 0x1F, _SIZE_UPDATE)
        self._entries = {}
        self._inserted = 0
        self._size = 0
        self._missed = 0

    def encode(self, fields: list[Field], never: frozenset[bytes] = _NONE) -> bytes:
        """Return the block of these fields.

        Args:
            fields: names in lower case.
            never: further names whose values may not enter any table.
        """
        if self._missed > _PATIENCE:
            self._start_over()
        pieces: list[bytes] = []
        if self._update:
            pieces.append(self._update)
            self._update = b""
        for field in fields:
            index = STATIC_FIELDS.get(field, 0)
            if index:
                pieces.append(_OCTETS[0x80 | index])
                continue
            index = self._entries.get(field, 0)
            if index:
                pieces.append(format_integer(STATIC_COUNT + 1 + self._inserted - index, _ONE_BYTE, 0x80))
            else:
                pieces.append(self._encode_literal(field, never))
        return b"".join(pieces)

    def _encode_literal(self, field: Field, never: frozenset[bytes]) -> bytes:
        name = field[0]
        if name in _SECRET or name in never:
            return _format_literal(name, field[1], 0x0F, _NEVER_INDEXED)
        if name not in _INDEXED:
            return _format_literal(name, field[1], 0x0F, _WITHOUT_INDEXING)
        size = len(name) + len(field[1]) + ENTRY_BYTES
        if size > _ENTRY_LIMIT or self._size + size > self._limit:
            self._missed += 1
            return _format_literal(name, field[1], 0x0F, _WITHOUT_INDEXING)
        self._inserted += 1
        self._entries[field] = self._inserted
        self._size += size
        return _format_literal(name, field[1], 0x3F, _INCREMENTAL)
