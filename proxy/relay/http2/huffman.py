"""Decode HPACK's Huffman code (RFC 7541 §5.2, appendix B). Pure: does no I/O.

There is no encoder: a sender may leave strings as they are, and the bytes saved are worth less than the time.
"""

from __future__ import annotations

from typing import Final

from proxy.relay.http2.faults import COMPRESSION_ERROR, ConnectionFault

# How many bits the code of each byte has. The code is canonical, so that the lengths are all there is to say: codes of one
# length follow one another in the order of their symbols, and longer ones follow shorter ones.
# fmt: off
_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
)
# fmt: on
# The end of a string, 30 ones; only its first bits occur, as padding.
_EOS: Final = 256
_EOS_LENGTH: Final = 30
_LONGEST_PADDING: Final = 7

# The tree of codes. A state of the decoder is one of its inner nodes, 0 the root. A child below zero is a leaf, of the symbol
# -1 - child.
_ZERO_CHILD: Final[list[int]] = [0]
_ONE_CHILD: Final[list[int]] = [0]
# Whether a string may end in this state: less than a byte of ones since the last symbol.
_MAY_END: Final[list[bool]] = [True]


def _plant() -> None:
    lengths = [*_LENGTHS, _EOS_LENGTH]
    code = 0
    previous = min(lengths)
    for symbol in sorted(range(_EOS + 1), key=lambda one: (lengths[one], one)):
        length = lengths[symbol]
        code <<= length - previous
        previous = length
        node = 0
        for position in range(length - 1, 0, -1):
            children = _ONE_CHILD if code >> position & 1 else _ZERO_CHILD
            if not children[node]:
                children[node] = len(_ZERO_CHILD)
                _ZERO_CHILD.append(0)
                _ONE_CHILD.append(0)
                depth = length - position
                _MAY_END.append(depth <= _LONGEST_PADDING and code >> position == (1 << depth) - 1)
            node = children[node]
        (_ONE_CHILD if code & 1 else _ZERO_CHILD)[node] = -1 - symbol
        code += 1


_plant()
# What a byte does in each state: the state behind it, and the symbols it completes. Filled when first met, since most of what
# is sent needs few of these; equal ones are one object, so that all of them together take little more than the list.
_STEPS: Final[list[tuple[int, bytes] | None]] = [None] * (len(_ZERO_CHILD) << 8)
_DISTINCT: Final[dict[tuple[int, bytes], tuple[int, bytes]]] = {}


def _take_step(state: int, byte: int) -> tuple[int, bytes]:
    symbols = bytearray()
    node = state
    for position in range(7, -1, -1):
        node = _ONE_CHILD[node] if byte >> position & 1 else _ZERO_CHILD[node]
        if node < 0:
            symbol = -1 - node
            if symbol == _EOS:
                raise ConnectionFault(COMPRESSION_ERROR, "hpack", "A string contains EOS (RFC 7541 §5.2).")
            symbols.append(symbol)
            node = 0
    step = (node, bytes(symbols))
    step = _DISTINCT.setdefault(step, step)
    _STEPS[state << 8 | byte] = step
    return step


def decode_huffman(data: bytes) -> bytes:
    """Return the string that `data` stands for.

    Raises:
        ConnectionFault: it is none: padded with anything but a few ones, or with the end inside (RFC 7541 §5.2).
    """
    state = 0
    symbols: list[bytes] = []
    for byte in data:
        step = _STEPS[state << 8 | byte]
        if step is None:
            step = _take_step(state, byte)
        state = step[0]
        symbols.append(step[1])
    if not _MAY_END[state]:
        raise ConnectionFault(
            COMPRESSION_ERROR, "hpack", "A string is padded with other bits than a few ones (RFC 7541 §5.2)."
        )
    return b"".join(symbols)
