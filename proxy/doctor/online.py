"""All that has to be asked for: is the token endpoint there, does it give a token, what is in it, what does the API say to it?

Does network I/O, and sends nothing that the proxy itself would not send: one token request for each credential and scope, one
GET to each literal host of the routes, on the first of two connections that find out which versions of HTTP it offers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from msgspec.structs import replace

from proxy.config.settings import ClientAuthentication, Http2
from proxy.dialing.building import build_dialer
from proxy.dialing.handshake import NO_VERSION
from proxy.dialing.route_tls import create_route_context
from proxy.dialing.trust import HTTP_2, create_tls_context
from proxy.doctor.claims import decode_access_token, judge_claims
from proxy.doctor.connection import ProbeFailed, describe_port, open_connection
from proxy.doctor.exchange import get
from proxy.doctor.findings import Level, days_left, error, ok, warning
from proxy.doctor.http_versions import Offer, judge_offer
from proxy.doctor.verdict import judge_response
from proxy.errors import ConfigurationError, IdentityError
from proxy.identity.credential import Target
from proxy.identity.proof.building import load_tls_certificate
from proxy.identity.sources import TokenSources, token_url
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.policy.routing import parse_host_pattern

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator
    from datetime import datetime

    from proxy.config.settings import CredentialSettings, RouteSettings, Settings
    from proxy.dialing.dialer import Dialer
    from proxy.doctor.connection import Connection
    from proxy.doctor.findings import Finding
    from proxy.identity.credential import CredentialStatistics
    from proxy.policy.authority import Authority

# Entra ID tolerates five minutes; our assertions are back-dated by two.
_SKEW_NOTED_S: Final = 30.0
_SKEW_REFUSED_S: Final = 300.0
_SERVER_CERTIFICATE_DAYS: Final = 14


async def check_online(settings: Settings, path: str, now: datetime) -> AsyncIterator[Finding]:
    """Yield what the token endpoints and APIs of a configuration say, as it is found.

    Args:
        settings: loaded; what is wrong with its files is for the offline part to say.
        path: the origin-form target each API is called with.
        now: aware.
    """
    tokens: dict[tuple[str, Target], str] = {}
    try:
        dialer = build_dialer(settings)
    except ConfigurationError:
        return
    for name, credential in settings.credentials.items():
        try:
            sources = build_sources(settings, name)
        except ConfigurationError:
            continue
        try:
            # A managed identity's endpoint speaks plain http on this machine: the token request itself shows whether it is there.
            reached = None
            if credential.managed_identity is None:
                reached = await _reach_token_endpoint(f"credential {name}", credential, now, dialer)
                yield reached
            if reached is None or reached.level is not Level.ERROR:
                async for finding in _request_tokens(settings, name, sources, tokens):
                    yield finding
                statistics = sources.statistics().credentials[name]
                if statistics.proof_in_use:
                    yield ok(f"credential {name}", f"The token endpoint accepts {statistics.proof_in_use}.")
                if reached is not None:
                    yield _judge_skew(f"credential {name}", statistics)
        finally:
            await sources.close()
    if settings.token_cache is not None:
        yield await _reach_token_cache(settings)
    for route in settings.routes:
        access_token = tokens.get((route.credential, target_of(route)))
        async for finding in _check_route(settings, route, access_token, path, now, dialer):
            yield finding


async def _reach_token_cache(settings: Settings) -> Finding:
    subject = "token_cache"
    try:
        sources = TokenSources.from_settings(settings)
    except ConfigurationError as problem:
        return error(subject, problem.detail)
    try:
        reason = await sources.try_sharing()
    finally:
        await sources.close()
    if reason:
        advice = "The proxy works without it, but each replica asks for its own tokens."
        return warning(subject, f"The token cache {reason}.", advice)
    return ok(subject, "Redis answers, and takes what replicas share.")


def build_sources(settings: Settings, name: str) -> TokenSources:
    """Return the token sources of one credential alone, so that it does not suffer from another's faults.

    Raises:
        ConfigurationError: its files cannot be used.
    """
    wanted = {name, settings.credentials[name].key_vault_credential}
    return TokenSources.from_settings(
        replace(
            settings,
            credentials={key: value for key, value in settings.credentials.items() if key in wanted},
            routes=tuple(route for route in settings.routes if route.credential in wanted),
            # Another replica's token would tell nothing about this credential.
            token_cache=None,
        )
    )


def target_of(route: RouteSettings) -> Target:
    """Return what a route's tokens are asked for with."""
    return Target(scope=route.scope, resource=route.resource)


async def _reach_token_endpoint(subject: str, settings: CredentialSettings, now: datetime, dialer: Dialer) -> Finding:
    parts = urlsplit(token_url(settings))
    authority = parse_authority(parts.netloc.encode("ascii"), HTTPS_PORT)
    try:
        connection = await open_connection(authority, None, _create_context(settings), dialer)
    except ProbeFailed as failed:
        return error(subject, f"The token endpoint cannot be used. {failed.message}", failed.advice)
    connection.writer.transport.abort()
    return _describe_connection(subject, f"Token endpoint {describe_port(authority)}", connection, now)


def _create_context(settings: CredentialSettings) -> ssl.SSLContext:
    """Return what the token request is sent with, which may have to show a certificate for a handshake at all.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    shown = load_tls_certificate(settings).tls if settings.client_authentication is ClientAuthentication.TLS else None
    return shown or create_tls_context(settings.ca_file)


async def _request_tokens(
    settings: Settings, name: str, sources: TokenSources, tokens: dict[tuple[str, Target], str]
) -> AsyncIterator[Finding]:
    """Yield findings, and put each token obtained into `tokens`."""
    subject = f"credential {name}"
    targets = dict.fromkeys(target_of(route) for route in settings.routes if route.credential == name)
    for target in targets:
        try:
            token = await sources.source_for(name, target).acquire()
        except IdentityError as refusal:
            yield error(subject, f"No access token for {target}. {refusal.detail}", code=refusal.code)
            continue
        tokens[name, target] = token.value
        decoded = decode_access_token(token.value)
        life_s = token.expires_at_mono - token.obtained_at_mono
        if decoded is None:
            yield ok(subject, f"Access token for {target} obtained; it is opaque, good for {life_s / 60:.0f} min.")
            continue
        is_entra = settings.credentials[name].is_entra
        for finding in judge_claims(subject, decoded, str(target), life_s, is_entra=is_entra):
            yield finding


def _judge_skew(subject: str, statistics: CredentialStatistics) -> Finding:
    skew_s = statistics.clock_skew_s
    if skew_s is None:
        return ok(subject, "The token endpoint does not say what time it is, so the clocks could not be compared.")
    skew = round(skew_s, 1)
    if abs(skew_s) < _SKEW_NOTED_S:
        return ok(subject, "This machine's clock agrees with the identity platform's.", clock_skew_s=skew)
    corrected = statistics.clock_correction_s != 0
    message = (
        f"This machine's clock is {abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the identity platform's."
    )
    message += " Assertions are dated by the platform's clock, so tokens can be had." if corrected else ""
    advice = "Synchronise it (NTP): `timedatectl status`."
    if abs(skew_s) >= _SKEW_REFUSED_S and not corrected:
        return error(subject, message, advice, clock_skew_s=skew)
    return warning(subject, message, advice, clock_skew_s=skew)


async def _check_route(
    settings: Settings, route: RouteSettings, access_token: str | None, path: str, now: datetime, dialer: Dialer
) -> AsyncIterator[Finding]:
    try:
        context = create_route_context(route)
    except ConfigurationError:
        return
    is_entra = settings.credentials[route.credential].is_entra
    for text in route.hosts:
        pattern = parse_host_pattern(text)
        if pattern.is_wildcard:
            yield ok(f"host {text}", "A wildcard stands for many hosts; none of them was called.")
            continue
        call = _Call(f"host {text}", pattern.authority, route, context, dialer)
        async for finding in call.check(access_token, path, now, is_entra=is_entra):
            yield finding


class _Call:
    """One call of one host."""

    def __init__(
        self, subject: str, authority: Authority, route: RouteSettings, context: ssl.SSLContext, dialer: Dialer
    ) -> None:
        self._subject = subject
        self._authority = authority
        self._route = route
        self._context = context
        self._dialer = dialer
        self._dial = parse_authority(route.dial.encode("ascii"), None) if route.dial is not None else None

    async def check(
        self, access_token: str | None, path: str, now: datetime, *, is_entra: bool
    ) -> AsyncIterator[Finding]:
        try:
            connection, offer = await self._reach()
        except ProbeFailed as failed:
            yield error(self._subject, failed.message, failed.advice)
            return
        try:
            yield _describe_connection(self._subject, f"API {describe_port(self._authority)}", connection, now)
            yield judge_offer(self._subject, offer, self._route.http2)
            if offer is Offer.HTTP_2:
                if self._route.http2 is not Http2.OFF:
                    yield warning(
                        self._subject,
                        "It was not called: it speaks HTTP/2 only, and this command HTTP/1.1.",
                        "Call it through the running proxy to see whether it accepts the token.",
                    )
                return
            if access_token is None:
                yield warning(
                    self._subject, "It was not called: there is no access token for it.", "See its credential above."
                )
                return
            yield await self._judge(connection, access_token, path, is_entra=is_entra)
        except ProbeFailed as failed:
            yield error(self._subject, failed.message, failed.advice)
        finally:
            connection.writer.transport.abort()

    async def _reach(self) -> tuple[Connection, Offer]:
        """Return a connection, of HTTP/1.1 where the API has that, and the versions it offers.

        One that knows nothing of ALPN chooses no protocol, whatever it speaks; where it chooses HTTP/2 when that is all it is
        offered, it has nothing else.

        Raises:
            ProbeFailed: there is none.
        """
        http2 = create_route_context(self._route, HTTP_2)
        try:
            connection = await self._open(self._context)
        except ProbeFailed as failed:
            if failed.code != NO_VERSION:
                raise
            try:
                connection = await self._open(http2)
            except ProbeFailed:
                raise failed from None
            return connection, Offer.HTTP_2
        try:
            other = await self._open(http2)
        except ProbeFailed as failed:
            return connection, Offer.HTTP_1 if failed.code == NO_VERSION else Offer.UNKNOWN
        except BaseException:
            connection.writer.transport.abort()
            raise
        other.writer.transport.abort()
        if other.protocol != "h2":
            return connection, Offer.HTTP_1
        return connection, Offer.BOTH if connection.protocol else Offer.HTTP_2

    async def _open(self, context: ssl.SSLContext) -> Connection:
        return await open_connection(self._authority, self._dial, context, self._dialer)

    async def _judge(self, connection: Connection, access_token: str, path: str, *, is_entra: bool) -> Finding:
        fields = {name: value.reveal() for name, value in self._route.set_headers.items()}
        fields["Authorization"] = f"Bearer {access_token}"
        response = await get(connection, self._authority.host_field(HTTPS_PORT), path, fields)
        names = frozenset(name.lower() for name in self._route.set_headers)
        decoded = decode_access_token(access_token)
        return judge_response(f"{self._subject}, GET {path}", response, decoded, names, is_entra=is_entra)


def _describe_connection(subject: str, what: str, connection: Connection, now: datetime) -> Finding:
    days = days_left(connection.expires, now)
    preposition = "through" if connection.address.startswith("the upstream proxy") else "at"
    message = (
        f"{what} reached {preposition} {connection.address}: TCP {connection.connected_s * 1_000:.0f} ms, "
        f"{connection.tls} {connection.handshake_s * 1_000:.0f} ms, certificate valid for {days} more days."
    )
    if days < _SERVER_CERTIFICATE_DAYS:
        return warning(subject, message, "Its operator should renew the certificate soon.", address=connection.address)
    return ok(subject, message, address=connection.address)
