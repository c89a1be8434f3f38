"""The interception CA and the leaf certificates the proxy shows to clients inside CONNECT.

    names.py       which names a CA may sign for: routed hosts → X.509 name constraints
    signing.py     what signs leaves, as an interface
    authority.py   a CA that we made, as a value: issue it, write and read it as PEM
    succession.py  one such CA after another: which one signs, what clients trust, when the next is due
    store.py       CAs on disk: load or create, prepare the next, cut over, archive         (does I/O)
    subtrees.py    name constraints that somebody else wrote
    organisation.py  an intermediate CA of the organisation in place of ours                (does I/O)
    opening.py     what signs for a configuration, and the files to watch                   (does I/O)
    leaf.py        a short-lived certificate for one host
    contexts.py    a TLS server context for each host, cached and renewed                   (does I/O)

Two levels, and why. Clients trust the *anchor*. The anchor signs the *issuers*, one for each group of hosts, and its key is
then forgotten; the issuers' one key signs leaves and is what lies on disk. Anchor and issuers carry critical name
constraints, but a trust anchor's own constraints need not be processed (RFC 5280 §6.2), and Java does not: a leaf signed by a
stolen anchor key would pass there under any name. Constraints of an intermediate are processed by everyone (RFC 5280 §6.1.4 (g)).
"""
