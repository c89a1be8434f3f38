"""What may be configured, as frozen structures: names, units, defaults and limits. Does no I/O.

`config.example.yaml` is the reference for people; this module is the same for the program. What can be judged from one
value alone is judged here, by the types of `proxy.config.values`; what needs other keys, or files, is judged in
`proxy.config.checks`.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from proxy.config.values import (
    ByteCount,
    ClientIdText,
    ClientName,
    CollectorUrl,
    Count,
    DialText,
    ExemptionText,
    Fields,
    FileMode,
    HostPatternText,
    HostText,
    HttpsUrl,
    ListenText,
    LocatedPath,
    NetworkText,
    OriginText,
    Parameters,
    PasswordHashText,
    Port,
    ProxyUrl,
    Rate,
    RedisUrlText,
    ResourceText,
    ScopeText,
    Seconds,
    Secret,
    TenantText,
    UserText,
    Workers,
)


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every section: unknown keys are errors, values do not change. Made by `proxy.config.validation`, which judges."""


class ListenerMode(StrEnum):
    """How requests that arrive on a listener name their destination."""

    FORWARD = "forward"
    REVERSE = "reverse"
    IDENTITY = "identity"
    """No requests to pass on: access tokens are handed to other gateways and to local programs."""
    TRANSPARENT = "transparent"


class ListenerTlsSettings(Section, frozen=True, kw_only=True):
    """TLS with the clients of a listener."""

    certificate: LocatedPath
    """PEM (the certificate, the chain behind it, and the key unless ``private_key`` is given) or PFX/PKCS#12."""
    private_key: LocatedPath | None = None
    password_file: LocatedPath | None = None
    client_ca: LocatedPath | None = None
    """PEM: whose certificates clients must show; without it they show none."""


class Http2(StrEnum):
    """Where HTTP/2 is spoken."""

    NEEDED = "needed"
    """Where the other side cannot do otherwise, as gRPC."""
    PREFERRED = "preferred"
    OFF = "off"


class ListenerSettings(Section, frozen=True, kw_only=True):
    """One address to accept connections on."""

    address: ListenText
    """``host:port``; an IPv6 host stands in brackets; port 0 takes a free one. Or ``unix:/path``."""
    mode: ListenerMode = ListenerMode.FORWARD
    upstream: OriginText | None = None
    """Reverse mode only: ``https://host[:port]`` of a routed host."""
    server_names: tuple[HostText, ...] = ()
    """Host values accepted beside names that nobody on the internet can own, and the upstream's own; not in forward mode."""
    allow_cross_site: bool = False
    """Reverse and transparent modes only: web pages of other sites may send requests, too."""
    authorize: bool = False
    """Identity mode only: ``/authorize`` gives other gateways the Authorization field of a request."""
    token_endpoint: bool = False
    """Identity mode only: ``/token`` gives local programs access tokens, as App Service does."""
    tls: ListenerTlsSettings | None = None
    """None: clients connect without TLS."""
    http2: Http2 = Http2.NEEDED
    """``needed``: HTTP/1.1 wherever the client can, HTTP/2 where it cannot do otherwise, as gRPC."""
    socket_mode: FileMode = "0600"
    """Of a Unix socket's file, octal."""
    users: tuple[UserText, ...] = ()
    """Unix sockets on Linux only: names or numbers of the users who may connect; empty: whom the file's mode lets."""


class ClientSettings(Section, frozen=True, kw_only=True):
    """Somebody who may use the proxy, known by everything that is given here; at least one thing."""

    name: ClientName
    """For the access log; with ``password_hash``, also the user name."""
    networks: tuple[NetworkText, ...] = ()
    users: tuple[UserText, ...] = ()
    """Unix users, for Unix sockets on Linux."""
    certificate_names: tuple[str, ...] = ()
    """Common name, DNS name, URI or e-mail address in the client certificate, for listeners with ``tls.client_ca``."""
    password_hash: PasswordHashText | None = None
    """``apim-auth-proxy client add NAME`` prints one."""
    routes: tuple[HostPatternText, ...] = ()
    """A host of each route this client may use; empty: all, and what ``other_hosts`` lets through."""
    requests_per_s: Rate | None = None
    burst: Count | None = None
    """Requests that may come at once; None: as many as in one second."""
    concurrent_exchanges: Count | None = None


class AssertionAlgorithm(StrEnum):
    """The JWS algorithm of the client assertion; each brings its thumbprint parameter (RFC 7515 §4.1.7, §4.1.8)."""

    PS256 = "PS256"
    RS256 = "RS256"


class ClientAuthentication(StrEnum):
    """How a certificate proves who the proxy is to the token endpoint."""

    ASSERTION = "assertion"
    """It signs a client assertion (RFC 7523)."""
    TLS = "tls"
    """It is shown in the TLS handshake (RFC 8705 §2)."""


class Cloud(StrEnum):
    """The clouds of Microsoft Entra ID; each has a sign-in host of its own."""

    PUBLIC = "public"
    USGOV = "usgov"
    CHINA = "china"


FEDERATION_AUDIENCES = {
    Cloud.PUBLIC: "api://AzureADTokenExchange",
    Cloud.USGOV: "api://AzureADTokenExchangeUSGov",
    Cloud.CHINA: "api://AzureADTokenExchangeChina",
}
"""What a managed identity's token has to be for where an application trusts it: Entra ID's pages on federated credentials."""


class CertificateSettings(Section, frozen=True, kw_only=True):
    """One of several certificates of a credential, as while a new one takes over from an old one."""

    certificate: LocatedPath
    """As ``certificate`` of a credential; so are the others."""
    private_key: LocatedPath | None = None
    password_file: LocatedPath | None = None


class CredentialSettings(Section, frozen=True, kw_only=True):
    """What proves the proxy to one token endpoint: ``tenant_id``'s (Entra ID), or any other ``token_endpoint``.

    The proof is one of ``certificate``, ``certificates``, ``certificate`` with ``signer_command``, ``key_vault_key``,
    ``federated_token_file``, ``federated_managed_identity`` and ``client_secret``. Or the credential is the machine's own
    identity: ``managed_identity`` alone.
    """

    client_id: ClientIdText | None = None
    managed_identity: ClientIdText | None = None
    """``system``, or the client id of a user-assigned identity: the machine asks as itself, without an application."""
    tenant_id: TenantText | None = None
    cloud: Cloud = Cloud.PUBLIC
    """Whose sign-in host is asked; ``authority`` names another one."""
    authority: OriginText | None = None
    token_endpoint: HttpsUrl | None = None
    assertion_audience: Annotated[str, Meta(min_length=1)] | None = None
    """The ``aud`` claim; default: the token endpoint."""
    ca_file: LocatedPath | None = None
    """Added to the system's roots for the token endpoint."""
    certificate: LocatedPath | None = None
    """PEM (certificate, and the key unless ``private_key`` is given) or PFX/PKCS#12."""
    private_key: LocatedPath | None = None
    password_file: LocatedPath | None = None
    certificates: tuple[CertificateSettings, ...] = ()
    """In order of preference; the next is tried where the identity platform does not accept one."""
    signer_command: tuple[str, ...] = ()
    """Program and arguments that sign with the key of ``certificate``: stdin the signing input, stdout the signature."""
    key_vault_key: HttpsUrl | None = None
    """Identifier of a key in Azure Key Vault that signs: ``https://VAULT.vault.azure.net/keys/NAME``."""
    key_vault_credential: str | None = None
    """The credential that may use the vault; default: the machine's managed identity."""
    managed_identity_client_id: ClientIdText | None = None
    """Which user-assigned managed identity uses the vault; default: the system-assigned one."""
    federated_token_file: LocatedPath | None = None
    """A token of another identity provider, as workload identity mounts it; read anew for each token request."""
    federated_managed_identity: ClientIdText | None = None
    """``system``, or a client id: a managed identity whose token the application trusts as a federated credential."""
    client_secret: Secret | None = None
    """Accepted; a certificate is better, because it never travels."""
    client_authentication: ClientAuthentication = ClientAuthentication.ASSERTION
    """``tls``: of ``token_endpoint`` only; the credential's routes show the same certificate, unless they name one of their own."""
    assertion_algorithm: AssertionAlgorithm = AssertionAlgorithm.PS256
    send_certificate_chain: bool = False
    """Send ``x5c``: subject-name/issuer trust."""
    client_capabilities: tuple[Literal["cp1"], ...] = ()
    """``cp1`` tells the identity platform that claims challenges are answered."""
    token_parameters: Parameters = {}
    """Further form fields of token requests, such as ``audience``."""
    lazy: bool = False
    """Obtain tokens when the first request needs one, not at the start."""

    @property
    def is_entra(self) -> bool:
        """Whether its tokens come from Microsoft Entra ID."""
        return self.tenant_id is not None or self.managed_identity is not None


class RouteSettings(Section, frozen=True, kw_only=True):
    """Joins hosts to a credential and a scope."""

    hosts: Annotated[tuple[HostPatternText, ...], Meta(min_length=1)]
    """``host``, ``host:port`` or ``*.domain``; without a port, 443."""
    credential: str
    scope: ScopeText | None = None
    resource: ResourceText | None = None
    """In place of ``scope``: a v1 token request (Entra ID), or RFC 8707's parameter elsewhere."""
    set_headers: Fields = {}
    """Fields set on each request, in place of any the client sent under the same name."""
    dial: DialText | None = None
    """``host:port`` to connect to instead; Host, SNI and verification stay the route's."""
    http2: Http2 = Http2.NEEDED
    """Towards the upstream; ``needed``: for gRPC, and where the upstream speaks nothing else."""
    ca_file: LocatedPath | None = None
    client_certificate: LocatedPath | None = None
    """Shown to the upstream where it asks for one: PEM (with the key, unless ``client_private_key`` is given) or PFX."""
    client_private_key: LocatedPath | None = None
    client_password_file: LocatedPath | None = None
    """For an encrypted key or PFX."""


class TokenFileFormat(StrEnum):
    """How a gateway or program reads a token from a file."""

    PLAIN = "plain"
    """The token and nothing else; the file's modification time is when it ends."""
    ENVOY_SDS = "envoy-sds"
    """A generic secret, named as the file: when the token ends, a colon, and the field's value."""
    TRAEFIK = "traefik"
    """A middleware, named as the file, that sets the field."""
    CADDY = "caddy"
    """When it ends, a blank, and the field's value."""
    HAPROXY_MAP = "haproxy-map"
    """A map of one entry, named as the file: when it ends, a colon, and the field's value."""


class TokenFileSettings(Section, frozen=True, kw_only=True):
    """A token that is kept up to date in a file for another gateway or program."""

    path: LocatedPath
    format: TokenFileFormat
    credential: str
    scope: ScopeText | None = None
    resource: ResourceText | None = None
    """In place of ``scope``, as in a route."""
    haproxy_socket: LocatedPath | None = None
    """``haproxy-map`` only: HAProxy's runtime socket, through which the map is changed while HAProxy runs."""


class AdminSettings(Section, frozen=True, kw_only=True):
    """Where health and metrics are served; None: nowhere."""

    address: ListenText = "127.0.0.1:9901"
    token_file: LocatedPath | None = None
    """What opens everything, as a bearer token; without it, addresses that others can reach show the probes alone."""
    server_names: tuple[HostText, ...] = ()
    """Host values accepted on a loopback address beside its own names."""
    allow_quit: bool = False
    """Whether ``POST /quit`` ends the proxy, as the sidecar of a job wants it."""


class LimitSettings(Section, frozen=True, kw_only=True):
    """Bounds on what one client, one connection or the whole proxy may take up."""

    connections: Count = 10_000
    """Client connections at a time; more are answered 503 and closed."""
    connections_per_client: Count = 1_000
    """Of these from one address, loopback addresses apart; more are answered 429 and closed."""
    concurrent_exchanges: Count | None = None
    """Requests under way at a time; more are answered 503. None: as many as there are connections."""
    tunnels: Count = 5_000
    """Tunnels to hosts that no route names, and upgraded connections; further CONNECT requests are answered 503."""
    upstream_connections: Count = 1_000
    """Connections to one upstream at a time; more requests wait for one, then get 503."""
    idle_upstream_connections: Count = 1_000
    """Connections kept between exchanges, to all upstreams together; of more, the one that has waited longest is closed."""
    head_bytes: ByteCount = 65_536
    target_bytes: ByteCount = 16_384
    field_count: Count = 200
    body_bytes: ByteCount | None = None
    """A request's content; None: unlimited, it is streamed."""
    replay_bytes: ByteCount = 65_536
    """A request whose content is at most this long is kept, so that it can be sent once more."""
    buffer_bytes: ByteCount = 262_144
    """Bytes waiting in one direction of one connection before reading stops."""


class TimeoutSettings(Section, frozen=True, kw_only=True):
    """Seconds. None bounds a stream that moves: body limits run between bytes."""

    connect_s: Seconds = 10
    """Name resolution, TCP and TLS with an upstream."""
    head_s: Seconds = 30
    """From a request's first byte to the end of its head."""
    body_idle_s: Seconds = 300
    """Between two bytes of a body, either way."""
    response_s: Seconds = 300
    """From a request's last byte to the response's head."""
    client_idle_s: Seconds = 120
    """Between two exchanges of a client connection."""
    upstream_idle_s: Seconds = 55
    """Between two exchanges of an upstream connection; under the minute after which common gateways close theirs."""
    tunnel_idle_s: Seconds = 3_600
    """Without a byte either way in a tunnel or an upgraded connection."""
    tcp_keep_alive_s: Annotated[float, Meta(ge=1, le=32_767)] = 60
    """Without a byte on a TCP connection, of clients or to upstreams, before the system probes whether the other end is there."""
    token_s: Seconds = 20
    """How long one request waits for an access token."""
    drain_delay_s: Annotated[float, Meta(ge=0, le=3_600)] = 0
    """How long connections are still accepted after SIGTERM, while readiness fails already: until nobody sends any."""
    drain_s: Seconds = 30
    """How long exchanges in flight may take to finish after SIGTERM."""


class AccessLogSettings(Section, frozen=True, kw_only=True):
    """One line an exchange."""

    file: LocatedPath | None = None
    """Default: stdout's sibling, stderr."""
    format: Literal["auto", "text", "json"] = "auto"
    """``auto``: text on a terminal, JSON otherwise."""
    enabled: bool = True


class TracingSettings(Section, frozen=True, kw_only=True):
    """Exchanges as OpenTelemetry spans; needs the packages of the extra ``otel``."""

    endpoint: CollectorUrl | None = None
    """Of a collector that speaks OTLP over HTTP, without ``/v1/traces``; None: no spans are made."""


class OtherHosts(StrEnum):
    """What becomes of a request for a host no route names."""

    REFUSE = "refuse"
    TUNNEL = "tunnel"


class DestinationSettings(Section, frozen=True, kw_only=True):
    """What may be dialled for hosts that no route names; only with ``other_hosts: tunnel``."""

    allow: tuple[NetworkText, ...] = ()
    """Address ranges that may be dialled although they are not public: ``10.1.0.0/16``, ``::1/128``."""
    ports: tuple[Port, ...] = (443, 80)


class UpstreamProxySettings(Section, frozen=True, kw_only=True):
    """A proxy between this one and everything it calls: APIs, token endpoints, key vaults, tunnels."""

    url: ProxyUrl | None = None
    """``http[s]://[user:password@]host[:port]``; None: connections are direct."""
    plain_http_url: ProxyUrl | None = None
    """For plain-http requests of unrouted hosts; None: the same as ``url``."""
    no_proxy: tuple[ExemptionText, ...] = ()
    """What is reached directly: ``host``, ``*.domain``, addresses and ranges."""
    from_environment: bool = True
    """Take what is not written here from ``HTTPS_PROXY``, ``HTTP_PROXY`` and ``NO_PROXY``; done by the time this exists."""
    ca_file: LocatedPath | None = None
    """Added to the system's roots for an https proxy."""


class InterceptionSettings(Section, frozen=True, kw_only=True):
    """An organisation's own CA for the inside of tunnels; None: the proxy makes one."""

    ca_certificate: LocatedPath | None = None
    """PEM: an intermediate CA, and what is above it; the key, too, unless ``ca_private_key`` is given."""
    ca_private_key: LocatedPath | None = None
    ca_password_file: LocatedPath | None = None
    """For an encrypted key."""


class TokenCacheSettings(Section, frozen=True, kw_only=True):
    """Where replicas share their access tokens; needs the package of the extra ``redis``."""

    url: RedisUrlText
    """``redis[s]://[USER@]HOST[:PORT][/DB]``, ``redis[s]+cluster://…`` or ``redis[s]+sentinel://…/SERVICE``; without a password."""
    key_files: Annotated[tuple[LocatedPath, ...], Meta(min_length=1)]
    """Files with 32 random bytes in base64: the first seals what is stored, all open it."""
    password_file: LocatedPath | None = None
    credential: str | None = None
    """The credential whose Entra ID token is the password, as Azure Managed Redis wants it."""
    ca_file: LocatedPath | None = None
    """Added to the system's roots for ``rediss://``."""


class Settings(Section, frozen=True, kw_only=True):
    """The whole configuration. Paths are absolute by now."""

    listeners: Annotated[tuple[ListenerSettings, ...], Meta(min_length=1)]
    clients: tuple[ClientSettings, ...] = ()
    """Who may use the proxy, on any listener; empty: whoever reaches it."""
    allow_any_client: bool = False
    """Anyone who may reach the proxy may use its identity; only with this may others than this machine reach it."""
    credentials: Annotated[dict[str, CredentialSettings], Meta(min_length=1)]
    routes: Annotated[tuple[RouteSettings, ...], Meta(min_length=1)]
    token_files: tuple[TokenFileSettings, ...] = ()
    """Tokens kept up to date where another gateway reads them; they leave the proxy that way."""
    other_hosts: OtherHosts = OtherHosts.REFUSE
    destinations: DestinationSettings = DestinationSettings()
    upstream_proxy: UpstreamProxySettings = UpstreamProxySettings()
    admin: AdminSettings | None = AdminSettings()
    workers: Workers = 1
    """Relay processes; with more than one, a control process besides holds every key."""
    state_directory: LocatedPath
    """Where the interception CA lives; default ``$XDG_STATE_HOME/apim-auth-proxy``."""
    interception: InterceptionSettings = InterceptionSettings()
    limits: LimitSettings = LimitSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    tracing: TracingSettings = TracingSettings()
    token_cache: TokenCacheSettings | None = None

    def is_bound(self, route: RouteSettings) -> bool:
        """Whether a route's tokens may be bound to the client certificate that it shows (RFC 8705 §3)."""
        credential = self.credentials[route.credential]
        is_tls = credential.client_authentication is ClientAuthentication.TLS
        return is_tls and route.client_certificate == credential.certificate
