"""HTTP/2 (RFC 9113) without I/O: bytes in, calls on a receiver and bytes out. Pure; the clock is an argument.

    connection ──► control ──► sending ──► frames  one connection, in either role: messages; what is beside them; what it writes
        │              └─────► encoder             fields → a block, without Huffman coding
        ├──► decoder ──► huffman                   a block → fields
        ├──► fields                                what makes a message malformed, and what the relay reads from one
        └──► floods                                how much of what costs its sender nothing is borne

`static_table` is RFC 7541's, `faults` the two kinds of protocol errors; `translation` makes heads of HTTP/1.1 from fields and the
other way round. Nothing here is imported before a client or an upstream speaks HTTP/2.
"""
