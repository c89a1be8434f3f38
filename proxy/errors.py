"""The error tree: who is at fault, which status the client gets, which RFC 9209 token names it.

Does no I/O. Every class carries a fixed title and a sentence written by us; the text of a library's exception never enters
one, and neither does a secret.

    ProxyError
    ├── ConfigurationError          the operator: what is written in the configuration or in the files it names
    │   └── AddressTaken            somebody listens there already
    ├── ClientError                 the client: what it sent, or asked for
    │   ├── MalformedRequest        400
    │   ├── ProxyUsageError         400  understood, but not how one talks to a proxy
    │   ├── SecretRequired          401  the token endpoint's secret is missing or wrong
    │   ├── DestinationRefused      403  not a host this proxy passes on
    │   ├── ClientRefused           403/407  this client may not
    │   ├── NothingThere            404  no path of an identity listener
    │   ├── MethodNotAllowed        405  the token endpoint takes GET only
    │   ├── RequestTimeout          408
    │   ├── ContentTooLarge         413
    │   ├── TargetTooLong           414
    │   ├── MisdirectedRequest      421  another authority than the connection is for
    │   ├── TooManyRequests         429
    │   ├── FieldsTooLarge          431
    │   └── LoopDetected            508  the request came back to us
    ├── IdentityError               the identity platform, or our standing with it: no token to be had
    │   ├── IdentityPlatformUnavailable   503  it cannot be reached, or is overloaded
    │   ├── CredentialRejected      502  it answered, and said no
    │   └── CredentialOutOfDate     502  it was not asked: our certificate has expired, or is not valid yet
    ├── UpstreamError               the server the request is meant for
    │   ├── UpstreamUnreachable     502
    │   ├── UpstreamProxyRefused    502  the proxy between us and it said no
    │   ├── UpstreamUntrusted       502  its certificate does not hold
    │   ├── UpstreamProtocolError   502  its response cannot be relayed safely
    │   ├── UpstreamClosed          502  it hung up before a response
    │   ├── UpstreamTimeout         504
    │   └── NameTimeout             504  its name did not resolve in time
    └── Overloaded                  503  this proxy has reached a limit of its own
"""

from __future__ import annotations

from typing import ClassVar


class ProxyError(Exception):
    """Something this proxy reports in its own name.

    Attributes:
        status: the HTTP status a client gets for it.
        proxy_status: the error token of RFC 9209 §2.3.
        title: a fixed sentence, the same for every instance (RFC 9457 §3.1.4).
        detail: what happened here and what to do next, for a person.
        retry_after_s: seconds after which trying again makes sense; None where it does not.
        code: a short machine-readable reason, e.g. ``AADSTS700027``; empty where the token says it all.
        default_code: the code where none is given: of classes that share status and token with another.
    """

    status: ClassVar[int] = 500
    proxy_status: ClassVar[str] = "proxy_internal_error"
    title: ClassVar[str] = "The proxy failed"
    default_code: ClassVar[str] = ""

    def __init__(self, detail: str, *, retry_after_s: int | None = None, code: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.code = code or self.default_code


class ConfigurationError(ProxyError):
    """What the operator wrote, or a file it names, cannot be used."""

    proxy_status = "proxy_configuration_error"
    title = "The proxy's configuration is wrong"


class AddressTaken(ConfigurationError):
    """Somebody else listens at an address of ours.

    Attributes:
        address: as configured.
    """

    title = "The proxy cannot start"

    def __init__(self, detail: str, address: str) -> None:
        super().__init__(detail)
        self.address = address


class ClientError(ProxyError):
    """The client is at fault."""

    status = 400
    proxy_status = "http_request_error"
    title = "The request is not acceptable"


class MalformedRequest(ClientError):
    """The request is not HTTP, or not HTTP that can be passed on safely (RFC 9112 §2.2, §6.3)."""

    title = "The request is malformed"


class ProxyUsageError(ClientError):
    """A sound request, sent to a forward proxy in a form that names no destination."""

    title = "This is a proxy, not an origin server"
    default_code = "not_a_proxy_request"


class SecretRequired(ClientError):
    """The program does not send the secret of the token endpoint; why it is wrong is not said (RFC 9110 §15.5.2)."""

    status = 401
    proxy_status = "http_request_denied"
    title = "The token endpoint requires its secret"
    default_code = "identity_header"


class NothingThere(ClientError):
    """An identity listener has nothing at that path (RFC 9110 §15.5.5)."""

    status = 404
    title = "This listener has nothing at that path"
    default_code = "no_such_path"


class MethodNotAllowed(ClientError):
    """The token endpoint is read with GET alone (RFC 9110 §15.5.6)."""

    status = 405
    title = "The token endpoint takes GET only"
    default_code = "method_not_allowed"


class DestinationRefused(ClientError):
    """The configuration does not let requests through to this destination."""

    status = 403
    proxy_status = "http_request_denied"
    title = "This proxy does not pass on requests to that host"
    default_code = "host_refused"


class ClientRefused(ClientError):
    """This client may not use the proxy, or not for this route."""

    status = 403
    proxy_status = "http_request_denied"
    title = "This client may not use the proxy for that"


class ProxyAuthenticationRequired(ClientRefused):
    """The client has to say who it is (RFC 9110 §15.5.8)."""

    status = 407
    title = "This proxy requires a user name and a password"


class RequestTimeout(ClientError):
    """The client took too long to send its request (RFC 9110 §15.5.9)."""

    status = 408
    proxy_status = "http_request_error"
    title = "The request did not arrive in time"


class ContentTooLarge(ClientError):
    """The request's content is over the limit (RFC 9110 §15.5.14)."""

    status = 413
    title = "The request's content is too large"


class TargetTooLong(ClientError):
    """The request target is over the limit (RFC 9110 §15.5.15)."""

    status = 414
    title = "The request target is too long"


class MisdirectedRequest(ClientError):
    """Host, SNI or target name another authority than the tunnel or listener is for (RFC 9110 §7.4, §15.5.20)."""

    status = 421
    title = "The request names another authority than its connection"


class TooManyRequests(ClientError):
    """The client is over its rate (RFC 6585 §4)."""

    status = 429
    proxy_status = "http_request_denied"
    title = "Too many requests from this client"


class FieldsTooLarge(ClientError):
    """The head, or a field of it, is over the limit (RFC 6585 §5)."""

    status = 431
    title = "The request's fields are too large"


class LoopDetected(ClientError):
    """The request came back to the proxy that sent it (RFC 5842 §7.2)."""

    status = 508
    proxy_status = "proxy_loop_detected"
    title = "The request loops back to this proxy"


class IdentityError(ProxyError):
    """No access token is to be had, so the request is not sent."""

    status = 502
    proxy_status = "proxy_configuration_error"
    title = "No access token could be obtained"


class IdentityPlatformUnavailable(IdentityError):
    """The identity platform cannot be reached, answers with a fault of its own, or asks to wait."""

    status = 503
    proxy_status = "proxy_internal_response"
    title = "The identity platform is not available"


class CredentialRejected(IdentityError):
    """The identity platform answered and refused the credential, the client id or the scope."""

    title = "The identity platform refused the proxy's credential"


class CredentialOutOfDate(IdentityError):
    """Every certificate of the credential has expired or is not valid yet, so the platform is not asked."""

    title = "The certificate of the proxy's credential is out of date"


class UpstreamError(ProxyError):
    """The upstream is at fault. Its own 4xx and 5xx are responses, not errors."""

    status = 502
    proxy_status = "destination_unavailable"
    title = "The upstream could not be used"


class UpstreamUnreachable(UpstreamError):
    """Name resolution or the connection failed."""

    title = "The upstream cannot be reached"


class UpstreamProxyRefused(UpstreamError):
    """The upstream proxy answered CONNECT with a status that opens no tunnel."""

    title = "The upstream proxy opened no connection to the upstream"


class UpstreamUntrusted(UpstreamError):
    """The upstream's certificate does not verify for the route's authority."""

    proxy_status = "tls_certificate_error"
    title = "The upstream's certificate is not trusted"


class UpstreamProtocolError(UpstreamError):
    """The upstream's response cannot be relayed without guessing where it ends."""

    proxy_status = "http_protocol_error"
    title = "The upstream's response is malformed"


class UpstreamClosed(UpstreamError):
    """The upstream closed the connection before it had answered."""

    proxy_status = "connection_terminated"
    title = "The upstream closed the connection without a response"


class UpstreamTimeout(UpstreamError):
    """The upstream did not connect or answer in time."""

    status = 504
    proxy_status = "http_response_timeout"
    title = "The upstream did not answer in time"


class NameTimeout(UpstreamTimeout):
    """No name server answered in time (RFC 9209 §2.3.1)."""

    proxy_status = "dns_timeout"
    title = "The upstream's name did not resolve in time"


class Overloaded(ProxyError):
    """A limit of this proxy is reached; nothing is wrong with the request."""

    status = 503
    proxy_status = "connection_limit_reached"
    title = "The proxy is at its limit"
