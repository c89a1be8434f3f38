"""Who the proxy is: from a certificate to an access token, kept and renewed. Knows nothing of proxying.

certificate      the files of a key pair, read, judged and thumbprinted
assertion        the client assertion (RFC 7523): header, claims, signature
proof/           the ways to prove who we are, behind one interface
token_endpoint   the one HTTP client: a form out, an answer back
token_response   what an answer means: a token, a refusal, or a fault
aadsts           Entra ID's error codes in words
credential       client id + token endpoint + proofs: requests one token
lifetime         arithmetic on a token's life and on waiting after failures
cache            the state of one token, as a pure state machine
source           that state machine on an event loop: what the relay asks for a token
sources          all sources of a configuration, one per (credential, scope)
"""
