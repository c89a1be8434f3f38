"""Hands access tokens out: to other gateways (`/authorize`) and to local programs (`/token`), on `mode: identity` listeners.

    questions.py  what a request asks for, and whether it may be answered at all: pure
    offers.py     which token belongs to which host or resource
    answers.py    statuses, fields and bodies: pure
    handout.py    one request from its head to its answer: who asks, what for, the token, checked once more
    connections.py  aiohttp's server with the proxy's own limits, deadlines and refusals
    service.py    the listeners: opened, reloaded, closed
    header.py     the secret of the token endpoint, as `exec --token-endpoint` finds it

This is the exception that invariant 1 names: a token leaves to a client that may have its route's. Nothing of it is there
unless a listener is configured for it. Invariants that stay: no answer with a 2xx status is without a token, no token is
handed out that has expired, and none is in a log, metric or error.
"""
