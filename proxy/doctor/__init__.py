"""What is wrong here, and what to do about it: looks at a configuration and at everything it depends on.

    findings       what was looked at, what was found, what to do
    offline        all that can be told without asking anyone: the order of the six below
    credentials      certificates, keys, passwords, expiry
    routes           hosts, credentials nobody uses, files of trusted roots
    upstream_proxy   what stands between here and everything that is called
    ca               the interception CA, and whether it fits the routes
    listeners        addresses that are free, or taken by whom
    redirection      whether the proxy's own connections would come back to it
    online         all that has to be asked for: token endpoint, token, API
    connection       one TLS connection in three steps, each with its own ways to fail
    exchange         one HTTP exchange over it
    http_versions    which versions of HTTP an API offers
    claims           what an access token says
    verdict          whose a response is: the gateway's, about token or subscription key, or the API's own
    certificate_report   one certificate for people: thumbprints in the portal's form
    route_report         what would become of a request for a URL

Looks and never changes anything. What it sends on the network is what the proxy itself would send, and, where there is a
transparent listener, a request to connect to an address that nobody has.
"""
