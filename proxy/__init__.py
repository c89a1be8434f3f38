"""apim-auth-proxy: a proxy that gets access tokens for clients that cannot do OAuth.

    cli/            arguments in, text out
    doctor/         what is wrong with a configuration, offline and online, and what to do about it
    client_setup/   what programs and platforms need to be told to use the proxy and to trust its CA
    server.py       the composition root: keys, tokens, CA and admin site; starts, drains
    workers/        several relay processes behind a control process that holds the keys
    relay_server.py a relay with its listeners and its access log
    relay/          the hot path: one exchange between a client and an upstream connection
    interception/   the CA and the leaf certificates by which a CONNECT tunnel ends here
    operations/     access log, metrics, admin site: watches, never steers
    identity/       certificate → client assertion → token endpoint → token cache
    dialing/        how connections leave: to a checked address, or through an upstream proxy
    config/         YAML → frozen settings; faults with key path and line
    policy/         pure decisions: what an authority is, which route, which address, what a 401 is about
    errors.py       who is at fault, which status, which RFC 9209 token
    sandbox/        an identity platform, an API Management gateway and an API, for demo, tests and users' own CI

Imports point down this list, never up; `sandbox` stands beside it and knows none of it.
"""

__version__ = "0.1.0"
