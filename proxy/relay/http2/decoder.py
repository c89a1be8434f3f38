"""Decode blocks of fields (HPACK, RFC 7541). Pure: does no I/O."""

from __future__ import annotations

from typing import Final

from proxy.relay.http2.faults import COMPRESSION_ERROR, ENHANCE_YOUR_CALM, ConnectionFault
from proxy.relay.http2.huffman import decode_huffman
from proxy.relay.http2.static_table import STATIC_COUNT, STATIC_TABLE, Field

# What SETTINGS_HEADER_TABLE_SIZE is unless somebody asks for another (RFC 9113 §6.5.2). We never do: nghttp2, nginx, haproxy
# and Envoy have 4 KiB, too, and more would be memory that the other side fills.
TABLE_BYTES: Final = 4_096
# What a field counts for beyond its name and value (RFC 7541 §4.1).
ENTRY_BYTES: Final = 32
# A block whose fields are over the limit is read to its end, so that the table stays right and the stream gets an answer;
# one that is over it this many times is not.
_BEARABLE: Final = 4
# Integers of HPACK have no bound; none that means anything here has more than 28 bits (RFC 7541 §5.1).
_HIGHEST_SHIFT: Final = 21


class Decoder:
    """Decodes what one side of a connection sends.

    Args:
        list_bytes: the most that the fields of a block may have, each with `ENTRY_BYTES` on top (RFC 9113 §6.5.2).
        field_count: the most fields of a block.

    Attributes:
        is_over: whether the last block has more than that; what was returned of it is not all.
        list_bytes: of the last block's fields.
        never_indexed: the names of the last block's fields that no intermediary may put into a table (RFC 7541 §6.2.3).
    """

    __slots__ = (
        "_at",
        "_count_limit",
        "_data",
        "_list_limit",
        "_size",
        "_table",
        "_table_limit",
        "is_over",
        "list_bytes",
        "never_indexed",
    )

    def __init__(self, list_bytes: int, field_count: int) -> None:
        self._list_limit = list_bytes
        self._count_limit = field_count
        self.is_over = False
        self.list_bytes = 0
        self.never_indexed: list[bytes] = []
        # The newest entry is last, so that an index counts from the end.
        self._table: list[Field] = []
        self._table_limit = TABLE_BYTES
        self._size = 0
        self._data = b""
        self._at = 0

    def decode(self, block: bytes) -> list[Field]:
        """Return the fields of one block.

        Raises:
            ConnectionFault: it cannot be decoded, after which no other can, or it is out of all proportion.
        """
        self._data = block
        self._at = 0
        self.is_over = False
        self.list_bytes = 0
        if self.never_indexed:
            self.never_indexed = []
        try:
            return self._decode()
        except IndexError:
            raise ConnectionFault(
                COMPRESSION_ERROR, "hpack", "A block ends too early, or has an index of nothing (RFC 7541 §2.3.3)."
            ) from None

    def _decode(self) -> list[Field]:
        fields: list[Field] = []
        data = self._data
        end = len(data)
        total = 0
        while self._at < end:
            first = data[self._at]
            if first & 0x80:  # indexed: RFC 7541 §6.1
                field = self._entry(self._integer(0x7F))
            elif first & 0xE0 == 0x20:  # the table's size: RFC 7541 §6.3
                if fields or self.is_over:
                    raise ConnectionFault(
                        COMPRESSION_ERROR, "hpack", "The table's size changes within a block (RFC 7541 §4.2)."
                    )
                self._resize(self._integer(0x1F))
                continue
            else:
                field = self._literal(first)
            total += len(field[0]) + len(field[1]) + ENTRY_BYTES
            if total > self._list_limit or len(fields) >= self._count_limit:
                if total > self._list_limit * _BEARABLE:
                    raise ConnectionFault(
                        ENHANCE_YOUR_CALM,
                        "fields",
                        f"A block has more than {_BEARABLE} times the fields that were allowed.",
                    )
                self.is_over = True
            else:
                fields.append(field)
        self.list_bytes = total
        return fields

    def _literal(self, first: int) -> Field:
        """Return a field with a value that is in no table: RFC 7541 §6.2."""
        is_indexed = first & 0x40 != 0
        index = self._integer(0x3F if is_indexed else 0x0F)
        name = self._entry(index)[0] if index else self._string()
        field = (name, self._string())
        if is_indexed:
            size = len(name) + len(field[1]) + ENTRY_BYTES
            self._evict(self._table_limit - size)
            if size <= self._table_limit:  # a larger one empties the table and is no error: RFC 7541 §4.4
                self._table.append(field)
                self._size += size
        elif first & 0x10:
            self.never_indexed.append(name)
        return field

    def _entry(self, index: int) -> Field:
        """Return what stands at an index of both tables together: RFC 7541 §2.3.3."""
        if index > STATIC_COUNT:
            return self._table[STATIC_COUNT - index]
        if index == 0:
            raise ConnectionFault(COMPRESSION_ERROR, "hpack", "A field has the index 0 (RFC 7541 §6.1).")
        return STATIC_TABLE[index - 1]

    def _integer(self, mask: int) -> int:
        """Read an integer whose first bits are the low ones of a byte: RFC 7541 §5.1."""
        data = self._data
        at = self._at
        value = data[at] & mask
        at += 1
        if value == mask:
            shift = 0
            while True:
                byte = data[at]
                at += 1
                value += (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > _HIGHEST_SHIFT:
                    raise ConnectionFault(COMPRESSION_ERROR, "hpack", "An integer has too many bytes (RFC 7541 §5.1).")
        self._at = at
        return value

    def _string(self) -> bytes:
        """Read a string: RFC 7541 §5.2."""
        is_coded = self._data[self._at] & 0x80
        length = self._integer(0x7F)
        start = self._at
        end = start + length
        if end > len(self._data):
            raise ConnectionFault(COMPRESSION_ERROR, "hpack", "A block ends within a string (RFC 7541 §5.2).")
        self._at = end
        string = self._data[start:end]
        return decode_huffman(string) if is_coded else string

    def _resize(self, limit: int) -> None:
        if limit > TABLE_BYTES:
            raise ConnectionFault(
                COMPRESSION_ERROR, "hpack", f"The table is to be larger than {TABLE_BYTES} bytes (RFC 7541 §6.3)."
            )
        self._table_limit = limit
        self._evict(limit)

    def _evict(self, most: int) -> None:
        """Drop the oldest entries until at most so many bytes are left: RFC 7541 §4.3, §4.4."""
        if self._size <= most:
            return
        count = 0
        for name, value in self._table:
            if self._size <= most:
                break
            self._size -= len(name) + len(value) + ENTRY_BYTES
            count += 1
        del self._table[:count]
