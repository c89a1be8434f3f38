"""One request to the token service, from its head to its answer and its line in the log. Does I/O on the event loop.

Invariants: nothing is handed out before it is settled who asks, and that the configuration in force lets that client have it; a
token is looked at once more behind every wait; whatever happens, there is a record, and an answer to whoever is still there.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.errors import (
    ClientRefused,
    IdentityPlatformUnavailable,
    NothingThere,
    Overloaded,
    ProxyAuthenticationRequired,
    ProxyError,
)
from proxy.policy.access import PasswordClaim
from proxy.policy.authority import HTTPS_PORT, Authority, parse_authority
from proxy.relay.record import ExchangeRecord
from proxy.tasks import log_fault
from proxy.token_service.answers import authorize, issue, refuse_gateway, refuse_program
from proxy.token_service.questions import (
    AUTHORIZE_PATH,
    TOKEN_PATH,
    check_own_host,
    check_program,
    describe_missing_resource,
    describe_missing_route,
    find_host,
    read_token_question,
)

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from proxy.config.settings import ListenerSettings, TimeoutSettings
    from proxy.http_server import Request, Response
    from proxy.identity.access_token import AccessToken
    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.admission import Admission
    from proxy.relay.known_client import KnownClient
    from proxy.token_service.offers import Offer, Offers

_MODE: Final = "identity"
_NO_ROUTE: Final = "-"
_HTTP_PORT: Final = 80
# Of a path that nobody asks for, so that a log line has an end.
_TARGET_BYTES: Final = 256
_NOTHING_HERE: Final = (
    "This listener gives out access tokens and forwards no requests; see its `authorize` and `token_endpoint`. "
    "To call an API, use a forward or reverse listener."
)
_SAY_PASSWORD: Final = (
    "The gateway has to send its name and password in Proxy-Authorization: Basic, with every request to this listener."  # noqa: S105
)

Counts = dict[tuple[str, str, int], int]
"""Answers by endpoint (``authorize``, ``token`` or ``-``), route (``-`` without one) and status."""


@dataclass(slots=True)
class _Note:
    """What is known of a request so far, for its record."""

    endpoint: str = _NO_ROUTE
    authority: str = ""
    client: str = ""
    offer: Offer | None = None
    token: AccessToken | None = None
    outcome: str = "ok"
    code: str = ""


class _Retired(Exception):  # noqa: N818  # not a fault
    """This configuration has nothing to say any more."""


class Handout:
    """What one listener hands out under one configuration.

    Args:
        listener: its settings.
        address: where it is bound: host and port, or ``unix:/path`` and 0.
        offers: what there is.
        admission: who may have it; None: who gets here.
        secret: of the token endpoint.
        timeouts: the configuration's.
        observe: takes the records.
        counts: added to.

    Attributes:
        is_retired: another configuration has taken this one's place.
        is_closed: its listener has gone.
    """

    def __init__(
        self,
        listener: ListenerSettings,
        address: tuple[str, int],
        *,
        offers: Offers,
        admission: Admission | None,
        secret: str,
        timeouts: TimeoutSettings,
        observe: Callable[[ExchangeRecord], None],
        counts: MutableMapping[tuple[str, str, int], int],
    ) -> None:
        self._listener = listener
        self._offers = offers
        self._admission = admission
        self._secret = secret
        self._timeouts = timeouts
        self._observe = observe
        self._counts = counts
        self.is_retired = self.is_closed = False
        self._default_port = _HTTP_PORT if listener.tls is None else HTTPS_PORT
        configured = parse_listen_address(listener.address)
        self._own_names = frozenset(parse_authority(name.encode(), _HTTP_PORT).host for name in listener.server_names)
        # A browser speaks neither through Unix sockets nor with a certificate of the gateway's.
        self._is_out_of_browsers_reach = configured.path is not None or (
            listener.tls is not None and listener.tls.client_ca is not None
        )
        port = address[1] or self._default_port
        literals = {configured.host, address[0]} if configured.path is None else {"localhost"}
        self._own_hosts = frozenset(Authority(host, port) for host in {*literals, *self._own_names})

    async def answer(
        self, request: Request, accepted: AcceptedConnection, refusal: ProxyError | None
    ) -> Response | None:
        """Return the answer to a request, and leave its record; None where meanwhile another configuration has come to answer it.

        Args:
            request: its head; content is not read.
            accepted: its connection.
            refusal: why nothing on this connection is answered; None where it is.
        """
        began_mono = time.monotonic()
        note = _Note()
        path = request.path
        form = refuse_program if path == TOKEN_PATH and self._listener.token_endpoint else refuse_gateway
        try:
            if refusal is not None:
                raise refusal
            answer = await self._decide(request, path, accepted, note)
        except _Retired:
            return None
        except ProxyError as error:
            if self.is_retired:
                return None
            note.outcome, note.code, note.token = error.proxy_status, error.code, None
            answer = form(error)
        except asyncio.CancelledError:
            note.outcome, note.token = "aborted_client", None
            self._write_down(request, path, accepted, note, None, began_mono)
            raise
        except Exception as fault:  # noqa: BLE001  # the top of a request
            log_fault("answering a request for a token", fault)
            failure = ProxyError(
                "The proxy made a mistake with this request. Please report it, with the line of its log."
            )
            note.outcome, note.token = failure.proxy_status, None
            answer = form(failure)
        self._write_down(request, path, accepted, note, answer, began_mono)
        return answer

    async def _decide(self, request: Request, path: str, accepted: AcceptedConnection, note: _Note) -> Response:
        if not request.head.target.startswith(b"/"):  # RFC 9112 §3.2.2: such a target counts, and no Host field
            raise NothingThere(_NOTHING_HERE)
        if self._listener.token_endpoint and path == TOKEN_PATH:
            note.endpoint = "token"
            return await self._issue(request, accepted, note)
        if self._listener.authorize and (path == AUTHORIZE_PATH or path.startswith(f"{AUTHORIZE_PATH}/")):
            note.endpoint = "authorize"
            return await self._authorize(request, accepted, note, is_exact=path == AUTHORIZE_PATH)
        raise NothingThere(_NOTHING_HERE)

    async def _authorize(
        self, request: Request, accepted: AcceptedConnection, note: _Note, *, is_exact: bool
    ) -> Response:
        if not self._is_out_of_browsers_reach:
            check_own_host(request, self._own_names, self._offers.names)
        authority = find_host(request, request.query, is_exact=is_exact)
        note.authority = str(authority)
        offer = self._offers.for_host(authority)
        if offer is None:
            raise describe_missing_route(authority)
        known = await self._identify(request, accepted, note)
        token = await self._take(offer, known, note)
        return authorize(token, time.monotonic())

    async def _issue(self, request: Request, accepted: AcceptedConnection, note: _Note) -> Response:
        check_program(request.method, request, self._secret, self._own_hosts, self._default_port)
        known = await self._identify(request, accepted, note)
        question = read_token_question(request.query)
        offer = self._offers.for_resource(question, lambda route: _may_use(known, route))
        if offer is None:
            raise describe_missing_resource(question, self._offers.resources(lambda route: _may_use(known, route)))
        token = await self._take(offer, known, note)
        return issue(token, time.monotonic(), time.time(), resource=question.resource, client_id=offer.client_id)

    async def _identify(self, request: Request, accepted: AcceptedConnection, note: _Note) -> KnownClient | None:
        """Say who asks.

        Raises:
            ClientRefused: nobody who may.
        """
        admission = self._admission
        if admission is None:
            return None
        try:
            found = admission.identify(accepted, request.head.proxy_authorization)
            if isinstance(found, PasswordClaim):
                found = await admission.verify(accepted, found)
        except ProxyAuthenticationRequired as error:
            # Not 407: to a gateway that is a fault of the service, and to its clients it would mean them.
            raise ClientRefused(f"{error.detail} {_SAY_PASSWORD}", code=error.code) from None
        note.client = found.client.name
        return found

    async def _take(self, offer: Offer, known: KnownClient | None, note: _Note) -> AccessToken:
        """Return a token that can be used now, waiting for it as a request to be passed on would.

        Raises:
            IdentityError: there is none.
            ClientRefused: this client may not have it.
            TooManyRequests: it asks too often.
            Overloaded: the listener has gone meanwhile.
            _Retired: another configuration is to say what may be handed out.
        """
        note.offer = offer
        now = time.monotonic()
        if known is not None:
            known.enter(offer.route, now)
        try:
            token = offer.source.peek(now) or await self._wait(offer)
        finally:
            if known is not None:
                known.leave()
        if self.is_retired:
            raise _Retired
        if self.is_closed:
            raise Overloaded(
                "This listener has closed meanwhile. Send the request again, to one that is open.",
                retry_after_s=1,
                code="reloaded",
            )
        if time.monotonic() >= token.usable_until_mono:
            raise IdentityPlatformUnavailable(
                "The access token expired before it could be delivered.",
                retry_after_s=1,
                code="expired_on_arrival",
            )
        note.token = token
        return token

    async def _wait(self, offer: Offer) -> AccessToken:
        wait_s = self._timeouts.token_s
        try:
            async with asyncio.timeout(wait_s):
                return await offer.source.acquire()
        except TimeoutError:
            raise IdentityPlatformUnavailable(
                f"The identity platform gave no token within {wait_s:g} s (timeouts.token_s).", retry_after_s=5
            ) from None

    def _write_down(
        self,
        request: Request,
        path: str,
        accepted: AcceptedConnection,
        note: _Note,
        answer: Response | None,
        began_mono: float,
    ) -> None:
        offer = note.offer
        route = "" if offer is None else offer.route
        if answer is not None:
            key = (note.endpoint, route or _NO_ROUTE, answer.status)
            self._counts[key] = self._counts.get(key, 0) + 1
        client = accepted.address
        if accepted.user is not None:
            client += f":{accepted.user}"
        now = time.monotonic()
        # Behind /authorize a path is that of the gateway's own client.
        target = AUTHORIZE_PATH if note.endpoint == "authorize" else path
        self._observe(
            ExchangeRecord(
                ended_at=time.time(),
                client=client,
                mode=_MODE,
                method=request.head.method,
                authority=note.authority,
                target=target.encode("utf-8", "replace")[:_TARGET_BYTES],
                status=0 if answer is None else answer.status,
                received_bytes=0,
                sent_bytes=0 if answer is None or request.method == "HEAD" else len(answer.content),
                duration_s=now - began_mono,
                upstream_s=None,
                route=route,
                token_age_s=None if note.token is None else now - note.token.obtained_at_mono,
                reused=False,
                outcome=note.outcome,
                code=note.code,
                client_name=note.client,
                credential="" if offer is None or note.token is None else offer.credential,
                proof="" if note.token is None else note.token.proof,
                http_version=f"1.{request.head.minor}",
            )
        )


def _may_use(known: KnownClient | None, route: str) -> bool:
    if known is None or known.client.routes is None:
        return True
    return route in known.client.routes
