"""What programs behind the proxy print, and what it means there. Data only."""

# ruff: noqa: E501 -- a table of sentences: wrapped, its rows could not be read
# fmt: off

from __future__ import annotations

from typing import Final, NamedTuple


class Symptom(NamedTuple):
    """A message of a program that uses the proxy.

    Attributes:
        program: which.
        printed: the part of its message that stays the same.
        cause: what happened, in whole sentences.
        fix: what to do next, in whole sentences.
    """

    program: str
    printed: str
    cause: str
    fix: str


_UNTRUSTED: Final = "The program does not trust the proxy's CA, which signs the certificates that it sees for routed hosts."
_EXEC: Final = "Start it with `apim-auth-proxy exec -- PROGRAM`, or call the API by an http URL."
_REFUSED_TUNNEL: Final = "The proxy refused the tunnel (403): no route names the host. Programs do not show the content of the response to CONNECT, which has the reason."
_ROUTE_IT: Final = "`apim-auth-proxy exec` prints the reason when the program ends; the access log also has it. Add the host to a route, set `other_hosts: tunnel`, or name it in NO_PROXY."
_ASKS_WHO: Final = "The proxy requires a user name and password (407)."
_SAY_WHO: Final = "Put them into the proxy's URL: http://NAME:PASSWORD@host:port."
_WAS_IT_SENT: Final = "Look for the request in the proxy's access log: no line means that the program bypasses the proxy. `apim-auth-proxy explain URL` says whether a route names the host."
_COMPARE_CLAIMS: Final = 'compare `apim-auth-proxy token --host HOST --claims` with the policy: "What each 401 means" in docs/azure-setup.md.'
_NOT_RUNNING: Final = "Nothing listens at the proxy's address."
_RUN_IT: Final = "Start it: `apim-auth-proxy run`; `apim-auth-proxy wait` waits until it is ready."

SYMPTOMS: Final = (
    Symptom("curl", "SSL certificate problem: unable to get local issuer certificate", _UNTRUSTED,
        "Start it with `apim-auth-proxy exec -- curl …`, or pass `--cacert proxy-ca.pem` from `apim-auth-proxy ca export`."),
    Symptom("curl", "signed certificate in certificate chain", _UNTRUSTED,
        "Start it with `apim-auth-proxy exec -- curl …`, or pass `--cacert proxy-ca.pem` from `apim-auth-proxy ca export`."),
    Symptom("curl", "SEC_E_UNTRUSTED_ROOT", f"{_UNTRUSTED} This curl uses Windows' own certificate store.",
        "`apim-auth-proxy ca trust --platform windows`, or call the API by an http URL."),
    Symptom("curl", "CONNECT tunnel failed, response 403", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("curl", "Received HTTP code 403 from proxy after CONNECT", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("curl", "CONNECT tunnel failed, response 407", _ASKS_WHO, _SAY_WHO),
    Symptom("curl", "Received HTTP code 407 from proxy after CONNECT", _ASKS_WHO, _SAY_WHO),
    Symptom("curl", "CONNECT tunnel failed, response 50",
        "The proxy could not open the tunnel: the host does not resolve, or the connection to it failed.",
        "The access log has the reason and its code. `apim-auth-proxy explain CODE` says what to do."),
    Symptom("curl", "Failed to connect to", f"{_NOT_RUNNING} Or its port is another: the proxy prints its addresses when it starts.", _RUN_IT),
    Symptom("curl", "initial SOCKS", "The program speaks SOCKS, and this is an HTTP proxy.", "Write http:// in the proxy's URL instead of socks4:// or socks5://."),
    Symptom("curl", "SOCKS4", "The program speaks SOCKS, and this is an HTTP proxy.", "Write http:// in the proxy's URL instead of socks4:// or socks5://."),
    Symptom("curl", "Could not resolve proxy", "The proxy's name does not resolve.", "Check HTTPS_PROXY. Inside a container, 127.0.0.1 and localhost are the container itself."),
    Symptom("curl", "Proxy CONNECT aborted", "The proxy's URL begins with the wrong scheme, or something else listens there.",
        "Write http:// in the proxy's own URL: `HTTPS_PROXY=http://127.0.0.1:8080`."),
    Symptom("git", "server certificate verification failed", _UNTRUSTED, "Start it with `apim-auth-proxy exec -- git …`, or set `http.sslCAInfo`."),
    Symptom("git", "CONNECT tunnel failed, response 403", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("git", "Proxy CONNECT aborted", "The proxy's URL begins with the wrong scheme, or something else listens there.",
        "Write http:// in `http.proxy` and HTTPS_PROXY."),
    Symptom("wget", "cannot verify", _UNTRUSTED, "Start it with `apim-auth-proxy exec -- wget …`, which names the CA in WGETRC unless you have a ~/.wgetrc; or pass `--ca-certificate=proxy-ca.pem`."),
    Symptom("wget", "Proxy tunneling failed", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("pip", "No matching distribution found", "pip could not reach its index. Behind the proxy, the usual cause is that no route names the index's host.", _ROUTE_IT),
    Symptom("pip", "Tunnel connection failed: 403", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Python requests", "Tunnel connection failed: 403", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Python requests", "Tunnel connection failed: 407", _ASKS_WHO, _SAY_WHO),
    Symptom("Python requests", "CERTIFICATE_VERIFY_FAILED", _UNTRUSTED, f"{_EXEC} Or set REQUESTS_CA_BUNDLE."),
    Symptom("Python httpx", "403 Forbidden (ProxyError", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Python urllib", "Tunnel connection failed: 403", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Python aiohttp", "ClientConnectorCertificateError", _UNTRUSTED,
        "Start it with `apim-auth-proxy exec -- PROGRAM`, and create the session with `trust_env=True`: aiohttp reads no proxy variables otherwise."),
    Symptom("Node.js", "UNABLE_TO_VERIFY_LEAF_SIGNATURE", _UNTRUSTED, f"{_EXEC} Or set NODE_EXTRA_CA_CERTS."),
    Symptom("Node.js", "SELF_SIGNED_CERT_IN_CHAIN", _UNTRUSTED, f"{_EXEC} Or set NODE_EXTRA_CA_CERTS."),
    Symptom("Node.js", "UNABLE_TO_GET_ISSUER_CERT_LOCALLY", _UNTRUSTED, f"{_EXEC} Or set NODE_EXTRA_CA_CERTS."),
    Symptom("Node.js", "Proxy response (403)", _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Java", "PKIX path building failed", _UNTRUSTED, f"{_EXEC} Or set `-Djavax.net.ssl.trustStore`."),
    Symptom("Java", 'Unable to tunnel through proxy. Proxy returns "HTTP/1.1 403', _REFUSED_TUNNEL, _ROUTE_IT),
    Symptom("Java", 'Unable to tunnel through proxy. Proxy returns "HTTP/1.1 407',
        "The proxy requires a user name and a password, and Java sends no Basic credentials to a proxy for https URLs.",
        "Run it with -Djdk.http.auth.tunneling.disabledSchemes= (empty), which `apim-auth-proxy exec` sets, and an Authenticator for the proxy."),
    Symptom(".NET", "The remote certificate is invalid because of errors in the certificate chain: PartialChain", _UNTRUSTED, f"{_EXEC} On Windows: `apim-auth-proxy ca trust --platform windows`."),
    Symptom(".NET", "The proxy tunnel request to proxy", "The proxy refused the tunnel. The status at the end of that line says why: 403 means that no route names the host, 407 that the proxy requires a password.", _ROUTE_IT),
    Symptom("Go", "x509: certificate signed by unknown authority", _UNTRUSTED, f"{_EXEC} Or, on Linux, set SSL_CERT_FILE."),
    Symptom("Go", "proxyconnect tcp", "Go could not reach the proxy itself.", f"{_RUN_IT} Write http:// in the proxy's own URL."),
    Symptom("Ruby", "certificate verify failed (unable to get local issuer certificate)", _UNTRUSTED, f"{_EXEC} Or set SSL_CERT_FILE."),
    Symptom("PHP", "SSL certificate problem: unable to get local issuer certificate", _UNTRUSTED, "Start it with `apim-auth-proxy exec -- php …`, which sets PHP_INI_SCAN_DIR; or run `php -d curl.cainfo=proxy-ca.pem`."),
    Symptom("Perl LWP", "Can't verify SSL peers without knowing which Certificate Authorities to trust", _UNTRUSTED, f"{_EXEC} Or set PERL_LWP_SSL_CA_FILE."),
    Symptom("PowerShell", "The SSL connection could not be established", _UNTRUSTED, "`apim-auth-proxy ca trust --platform windows`, or call the API by an http URL."),
    Symptom("Azure CLI", "Please add this certificate to the trusted CA bundle", _UNTRUSTED, f"{_EXEC} Or set REQUESTS_CA_BUNDLE."),
    Symptom("a browser", "NET::ERR_CERT_AUTHORITY_INVALID", _UNTRUSTED, "`apim-auth-proxy ca trust` prints how to trust it on each platform."),
    Symptom("a browser", "ERR_TUNNEL_CONNECTION_FAILED", _REFUSED_TUNNEL, "Use http://127.0.0.1:9901/proxy.pac, which sends only routed hosts through the proxy."),
    Symptom("any program", "Access token is missing or invalid",
        "API Management found no access token in the request, or one that its policy does not accept. The message does not say which.",
        f"{_WAS_IT_SENT} If it was sent, {_COMPARE_CLAIMS}"),
    Symptom("any program", "JWT not present",
        "API Management found no access token in the request: it did not go through the proxy, or no route names its host.",
        _WAS_IT_SENT),
    Symptom("any program", "Invalid JWT",
        "API Management received an access token that its policy does not accept: the wrong version, audience, issuer or role.",
        f"{_COMPARE_CLAIMS[0].upper()}{_COMPARE_CLAIMS[1:]}"),
    Symptom("Node.js", "Access token is missing or invalid",
        "Node.js before 22.21 reads no proxy variables, so its requests do not go through the proxy.",
        "Use Node.js 22.21 or later with NODE_USE_ENV_PROXY=1, or undici's EnvHttpProxyAgent, or `node --require global-agent/bootstrap`."),
    Symptom("any program", "Access denied due to missing subscription key",
        "API Management requires a subscription key in addition to the token.",
        "Set it in the route: `set_headers: {Ocp-Apim-Subscription-Key: …}`."),
    Symptom("any program", "Access denied due to invalid subscription key",
        "API Management does not know the subscription key that was sent, or it is not for this API.",
        "Copy the key of a subscription for that product or API into the route's `set_headers`."),
    Symptom("any program", "wrong version number",
        "The program speaks TLS to a port that does not: the proxy's own URL begins with https://.",
        "Write http:// in the proxy's own URL, even for https destinations."),
    Symptom("any program", "Connection refused", f"{_NOT_RUNNING} Inside a container, 127.0.0.1 is the container itself.", _RUN_IT),
)
