"""Hands access tokens out: to other gateways (`/authorize`) and local programs (`/token`) on listeners, and in files.

    questions.py  what a request asks for, and whether it may be answered at all: pure
    offers.py     which token belongs to which host or resource
    answers.py    statuses, fields and bodies: pure
    handout.py    one request from its head to its answer: who asks, what for, the token, checked once more
    connections.py the connections of a listener: counted, judged, answered
    service.py    the listeners: opened, reloaded, closed
    header.py     the secret of the token endpoint, as `exec --token-endpoint` finds it
    token_files.py  files that other gateways read, kept up to date
    file_formats.py what stands in them: pure
    haproxy.py      HAProxy's runtime socket

This is the exception that invariant 1 names: a token leaves to a client that may have its route's. Nothing of it is there
unless it is configured. Invariants that stay: no answer with a 2xx status is without a token, no token is
handed out that has expired, and none is in a log, metric or error.
"""
