"""HTTP/2 (RFC 9113): a core without I/O, bytes in, calls on a receiver and bytes out, and what attaches it to the relay.

    connection ──► control ──► sending ──► frames  one connection, in either role: messages; what is beside them; what it writes
        │              └─────► encoder             fields → a block, without Huffman coding
        ├──► decoder ──► huffman                   a block → fields
        ├──► fields                                what makes a message malformed, and what the relay reads from one
        └──► floods                                how much of what costs its sender nothing is borne

`client` and `upstream` are the relay's connections on top of it, which do the I/O; their streams are sides of exchanges
(`proxy.relay.sides`). `pool` shares connections to an upstream, `refusals` are the proxy's own answers. `static_table` is RFC
7541's, `faults` the two kinds of protocol errors; `translation` makes heads of HTTP/1.1 from fields and the other way round.

Nothing here is imported before a client or an upstream speaks HTTP/2.
"""
