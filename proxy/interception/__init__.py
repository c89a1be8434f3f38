"""The interception CA and the leaf certificates the proxy shows to clients inside CONNECT.

    names.py       which names a CA may sign for: routed hosts → X.509 name constraints
    authority.py   the CA as a value: issue it, decide when it must be re-issued, write and read it as PEM
    store.py       the CA on disk: load or create, archive, rotate                          (does I/O)
    leaf.py        a short-lived certificate for one host
    contexts.py    a TLS server context for each host, cached and renewed                   (does I/O)

Two certificates, and why. Clients trust the *anchor*. The anchor signs one *issuer*, and its key is then forgotten; the
issuer's key signs leaves and is what lies on disk. Both carry the same critical name constraints, but a trust anchor's
own constraints need not be processed (RFC 5280 §6.2), and Java does not: a leaf signed by a stolen anchor key would
pass there under any name. Constraints of an intermediate are processed by everyone (RFC 5280 §6.1.4 (g)).
"""
