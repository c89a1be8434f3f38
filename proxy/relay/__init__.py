"""The hot path: one exchange between a client and an upstream connection.

    listener ──► ClientConnection ──► Exchange ──► UpstreamConnection ──► dialer
                 reads requests,      one request, reads responses,      resolves, checks,
                 writes responses     its token,   writes requests       connects, ends TLS
                      │               its fate          │
                      └── entry: how a request names its destination (forward, tunnel, reverse)
                                                        └── pool: kept-alive connections of one authority

`head` and `chunked` turn bytes into validated messages and back and do no I/O; `secure` is TLS over a plain transport;
`splice` passes blind bytes; `answers` is what the proxy says in its own name; `counters` and `record` are what it leaves
for `proxy.operations` to look at.
"""
