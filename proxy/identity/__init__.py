"""Who the proxy is: from a certificate to an access token, kept and renewed. Knows nothing of proxying.

What the relay uses:
    sources          all token sources of a configuration, one per (credential, scope)
    source           one token on an event loop: peek, acquire, rejected
What decides, and does no I/O:
    cache            the state of one token: what to hand out, when to ask, when to wait
    lifetime         arithmetic on a token's life and on waiting after failures
    access_token     a token with the moments of its life
    token_response   what an answer means: a token, a refusal, or a fault
    aadsts           Entra ID's error codes in words
    assertion        the client assertion (RFC 7523): header, claims, bytes to be signed
    claims, clouds   what is asked for beside a scope, and the sign-in hosts by name
What does I/O:
    credential       client id + token endpoint + proofs: requests one token
    token_endpoint   one token endpoint: a form out, a token back
    https_client     the HTTP client beneath
    certificate      the files of a key pair, read, judged and thumbprinted; certificate_creation makes one
    rotation         watches those files; suspension notices that the machine slept
    managed_identity tokens of the machine's own identity: IMDS, App Service, Azure Arc
    machine          those identities, shared by key vaults, federated credentials and machine_credential, which is one itself
    sharing/         tokens that replicas share, in Redis
    proof/           the ways to prove who we are, behind one interface
"""
