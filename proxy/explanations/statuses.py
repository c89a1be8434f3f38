"""HTTP statuses: what the proxy means by its own, and what an upstream's mean for a client without a token. Data only."""

# ruff: noqa: E501 -- a table of sentences: wrapped, its rows could not be read
# fmt: off

from __future__ import annotations

from typing import Final

from proxy.explanations.entry import Entry, Fault

STATUSES: Final = {
    entry.code: entry
    for entry in (
        Entry("400", Fault.CLIENT,
            "From the proxy: the request is not HTTP/1.1, is ambiguous, or names no destination because the proxy was called like an origin server. From the API: its own judgement of the request.",
            "Read `detail`. Set the proxy as a proxy (`http_proxy`, `--proxy`), with http:// in its own URL, or add a `mode: reverse` listener."),
        Entry("401", Fault.UPSTREAM,
            "On forward and reverse listeners the proxy never answers 401, so the gateway or the API did: the access token, the subscription key or a claim is missing or not accepted.",
            'See "What each 401 means" in docs/azure-setup.md. Check that the host is routed with `apim-auth-proxy explain URL`, and the token with `apim-auth-proxy token --host HOST --claims`.'),
        Entry("403", Fault.CONFIGURATION,
            "From the proxy (`error=http_request_denied`): the host is not in a route, its address or port may not be reached, or this client may not use the proxy for it. From the API: the token was accepted, but its application lacks a role or permission.",
            "From the proxy: add the host to a route, set `other_hosts: tunnel`, or name it in the client's NO_PROXY. From the API: grant the application role, then wait for a new token."),
        Entry("404", Fault.UPSTREAM,
            "On forward and reverse listeners the proxy never answers 404. API Management answers it when no API or operation has that path.",
            "Check the path, with the API's URL suffix in front of it."),
        Entry("405", Fault.CLIENT,
            "From the proxy: the token endpoint of an identity listener takes GET only. From the API: it does not take that method.",
            "Use the method that the API's description has for the path."),
        Entry("407", Fault.CLIENT,
            "The proxy requires the client to sign in. An upstream proxy's 407 never reaches a client: it becomes a 502.",
            "Put name and password into the proxy's URL: http://NAME:PASSWORD@host:port. Java needs -Djdk.http.auth.tunneling.disabledSchemes= for https URLs, which `apim-auth-proxy exec` sets."),
        Entry("408", Fault.CLIENT,
            "The client did not send its request in time.",
            "Look at the client or its network, or raise `timeouts.head_s` or `timeouts.body_idle_s`."),
        Entry("413", Fault.CLIENT,
            "The request's content is larger than `limits.body_bytes`, or than the API takes.",
            "Send less, or raise `limits.body_bytes` if the answer is the proxy's."),
        Entry("414", Fault.CLIENT,
            "The request target is longer than `limits.target_bytes`.",
            "Shorten the URL, or raise `limits.target_bytes`."),
        Entry("421", Fault.CLIENT,
            "Inside a tunnel or on a reverse listener, TLS server name, Host or URL name another host than the connection is for.",
            "Let the client call the API by its own name. For a `mode: reverse` listener, list the name that clients use in `server_names`."),
        Entry("429", Fault.CLIENT,
            "From the proxy: this client is over its `requests_per_s` or `concurrent_exchanges`, or sent too many wrong passwords. From API Management: its rate limit or quota.",
            "Wait as long as `Retry-After` says, or raise the limit."),
        Entry("431", Fault.CLIENT,
            "The request's fields are larger than `limits.head_bytes`, or more than `limits.field_count`.",
            "Send fewer or shorter fields (cookies, mostly), or raise the limit."),
        Entry("500", Fault.PROXY,
            "With `Proxy-Status: apim-auth-proxy`: a fault of the proxy's own. Otherwise the gateway or the API failed.",
            "Report the proxy's, with the lines of its log. A gateway that cannot fetch its policy's openid-config answers 500 to every token."),
        Entry("502", Fault.UPSTREAM,
            "No access token could be had because the platform refused the credential, or the upstream could not be reached, is not trusted, or did not answer in proper HTTP.",
            "Explain the `error=` and `code` of the answer; run `apim-auth-proxy check --online`."),
        Entry("503", Fault.IDENTITY,
            "The identity platform is not available and there is no valid token, or the proxy has reached one of its own limits.",
            "Wait as long as `Retry-After` says: the proxy tries again by itself. For `connection_limit_reached`, raise the limit that the answer names."),
        Entry("504", Fault.UPSTREAM,
            "The upstream did not accept a connection, or did not answer, in time.",
            "Look into the upstream, or raise `timeouts.connect_s` or `timeouts.response_s`: `detail` says which."),
        Entry("508", Fault.CONFIGURATION,
            "The request came back to the proxy that sent it.",
            "Check the name's DNS entry, the route's `dial` and `upstream_proxy`: one of them leads to a listener of this proxy."),
    )
}
