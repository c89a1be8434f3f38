"""The hot path: one exchange between a client and an upstream connection.

    listener ──► ClientConnection ──► Exchange ──► UpstreamConnection ──► dialer
                 reads requests,      one request, reads responses,      resolves, checks,
                 writes responses     its token,   writes requests       connects, ends TLS
                      │               its fate          │
                      └── destination_rule: how a request names its destination (forward, tunnel, reverse)
                                                        └── pool: kept-alive connections of one authority

`Exchange` knows the two connections by the interfaces in `sides` alone, and neither connection knows the other. The order in which
modules stand on each other, from `redirected` and `arrival` down to values, is drawn in docs/design.md.

These do no I/O: `head` and `chunked` turn bytes into validated messages and back, `client_hello` reads what a TLS client asks for,
`message` is a head as a value, `plain_form` rewrites response heads that have only one reading, `diagnosis` says why a head was
refused, `answers` writes the proxy's own responses.

`arrival` is a connection before its first request, on a listener or in a tunnel; `redirected` is one that the kernel led here
(`original` asks where it was going, `original_tunnel` leads there). `gate` stands between a connection and
its exchanges, and judges each request; `tunnel` serves CONNECT for hosts that no route names.
`secure` is TLS over a plain transport; `splice` passes bytes on without reading them. `shared` is what all connections of a process
share, and `state` adds what the running configuration makes of requests; `counters` and `record`, which `recording` makes, are what
`proxy.operations` sees of them.
"""
