"""How requests on a connection name their destination: a forward listener, a reverse one, or inside a CONNECT tunnel.

Pure but for the memory of authorities already judged. One canonical authority decides everything about an exchange: route,
token, where to dial and which name to verify. On a forward listener the request target names it, and Host is ignored and
written anew (RFC 9112 §3.2.2). Inside a tunnel and on a reverse listener the connection names it, and whatever else names an
authority (absolute-form target, Host, SNI) must agree with it, or the answer is 421 (RFC 9110 §7.4).
"""

from __future__ import annotations

import re
import ssl  # noqa: TC003  # see below
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from proxy.errors import ClientRefused, MalformedRequest, MisdirectedRequest, ProxyUsageError
from proxy.policy.authority import Authority, parse_authority
from proxy.policy.local_names import is_local_name
from proxy.relay.destinations import Destination  # noqa: TC001  # mypyc evaluates the annotations of dataclasses

if TYPE_CHECKING:
    from proxy.relay.message import RequestHead
    from proxy.relay.state import Relay

_ABSOLUTE_FORM: Final = re.compile(rb"([A-Za-z][A-Za-z0-9+.\-]*)://([^/?]*)([^\r\n]*)", re.DOTALL)
_DEFAULT_PORTS: Final = {b"http": 80, b"https": 443}
# What browsers send with requests of pages, and hardly anything else does (Fetch Metadata §2; RFC 6454 §7).
_PAGE_FIELDS: Final = frozenset((b"sec-fetch-site", b"origin"))


class DestinationRule(Protocol):
    """What a connection knows about the destinations of its requests."""

    @property
    def mode(self) -> str:
        """For the access log."""
        ...

    @property
    def takes_http2(self) -> bool:
        """Whether the listener takes HTTP/2, from clients that have nothing else at least."""
        ...

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        """Return the destination, and the request target in origin-form.

        Raises:
            ClientError: there is none, or the names disagree.
        """
        ...


@dataclass(frozen=True, slots=True)
class ForwardRule:
    """A forward listener: the absolute-form target alone names the destination, whatever Host says (RFC 9112 §3.2.2)."""

    mode: str = "forward"
    takes_http2: bool = True

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        """See `DestinationRule`."""
        scheme, raw, path = split_absolute_form(head)
        destination = relay.destinations.for_target(scheme, raw)
        if head.host is not None and head.host != raw:
            check_host(head.host)
        return destination, path


@dataclass(slots=True)
class FixedRule:
    """A reverse listener, or the inside of a tunnel: every request is for one authority.

    Attributes:
        destination: where requests go.
        authority: what Host and absolute-form targets must name.
        mode: ``connect`` or ``reverse``.
        known_hosts: Host values that have been found to name it, as sent.
        own_names: of a reverse listener, beside those that nobody on the internet can own.
        accepts_any_host: whether Host is the listener's, which nobody can know, and is replaced unseen.
        refuses_cross_site: whether requests of web pages of other sites are refused.
        tls: the client's TLS inside the tunnel, which knows the SNI; None for plain HTTP.
        takes_http2: see `DestinationRule`.
    """

    destination: Destination
    authority: Authority
    mode: str
    known_hosts: set[bytes] = field(default_factory=set)
    own_names: frozenset[str] = frozenset()
    accepts_any_host: bool = False
    refuses_cross_site: bool = False
    tls: ssl.SSLObject | None = None
    takes_http2: bool = True
    _name_checked: bool = False

    def locate(self, relay: Relay, head: RequestHead) -> tuple[Destination, bytes]:
        """See `DestinationRule`."""
        target = head.target
        if not self._name_checked:
            self._check_requested_name()
        if not target.startswith(b"/") and not (target == b"*" and head.method == b"OPTIONS"):
            scheme, raw, target = split_absolute_form(head)
            # A client of a plain reverse listener calls its upstream `http://host`, for it knows no other (RFC 9112 §3.2.2).
            is_plain = scheme == b"http" and self.mode == "reverse"
            self._check(relay, raw, self.authority.port if is_plain else _DEFAULT_PORTS[scheme])
        if head.host is not None and head.host not in self.known_hosts:
            self._check(relay, head.host, self.authority.port)
            if (
                len(self.known_hosts) < 64
            ):  # spellings of one name; a client that varies them pays for the check each time
                self.known_hosts.add(head.host)
        if self.refuses_cross_site and not _PAGE_FIELDS.isdisjoint(head.names):
            self._check_site(head)
        return self.destination, target

    def _check(self, relay: Relay, raw: bytes, default_port: int) -> None:
        if self.accepts_any_host:
            return
        if self.mode != "reverse":
            check_same(raw, default_port, self.authority)
            return
        named = parse_named(raw, default_port)
        if named == self.authority or named.host in self.own_names:
            return
        # A name that a route has is the API's, and never the listener's own. Clients often say it with the listener's port.
        is_routed = relay.destinations.route_for(named) is not None or (
            named.host != self.authority.host and relay.destinations.has_name(named)
        )
        if is_routed or not is_local_name(named):
            raise MisdirectedRequest(
                f"This listener leads to {self.authority}, and the request names {named}. If clients reach the listener by that "
                f"name, add `server_names: [{named.host}]` to it."
            )

    def _check_site(self, head: RequestHead) -> None:
        """Judges what a browser says of the page that sends a request.

        Sec-Fetch-Site is the browser's own verdict, but it is sent to TLS and loopback names only, and not with every
        WebSocket handshake (Chromium sends none). There Origin tells: it has to name the host that Host names, or the upstream.
        """
        verdicts = head.values(b"sec-fetch-site")
        if verdicts:
            is_foreign = b"cross-site" in verdicts
        else:
            is_foreign = not all(self._is_own(origin, head.host) for origin in head.values(b"origin"))
        if is_foreign:
            raise ClientRefused(CROSS_SITE, code="cross_site")

    def _is_own(self, origin: bytes, host_field: bytes | None) -> bool:
        match = _ABSOLUTE_FORM.fullmatch(origin)
        if match is None:  # "null": a page that has no origin, such as a file or a sandboxed frame
            return False
        try:
            host = parse_authority(match[2], 80).host
        except MalformedRequest:
            return False
        return host == self.authority.host or (
            host_field is not None and host == parse_authority(host_field, 80).host  # which has been found sound
        )

    def _check_requested_name(self) -> None:
        """Compare the SNI with the CONNECT target; a client may leave it out, and must where the host is an IP address."""
        requested: str | None = getattr(self.tls, "requested_name", None)
        if requested is not None:
            check_same(requested.encode("utf-8", "replace"), self.authority.port, self.authority)
        self._name_checked = True


def split_absolute_form(head: RequestHead) -> tuple[bytes, bytes, bytes]:
    """Return scheme (lower case), authority as sent, and the target in origin-form.

    Raises:
        ProxyUsageError: the target is in another form, or of another scheme.
    """
    match = _ABSOLUTE_FORM.fullmatch(head.target)
    if match is None:
        raise ProxyUsageError(USAGE)
    scheme, raw, path = match.groups()
    scheme = scheme.lower()
    if scheme not in _DEFAULT_PORTS:
        raise ProxyUsageError("Only http and https URLs can be passed on.")
    if not path:
        path = b"*" if head.method == b"OPTIONS" else b"/"  # RFC 9112 §3.2.4
    elif path[:1] == b"?":
        path = b"/" + path
    return scheme, raw, path


USAGE: Final = (
    "The request came without a destination: it looks as if this proxy was addressed like a web server. "
    "Name this address as the proxy of your program instead: `curl -x http://HOST:PORT http://api.example.com/path`, or "
    "`HTTP_PROXY=http://HOST:PORT`. For a program that can only change its base URL, add a listener with `mode: reverse`."
)


CROSS_SITE: Final = (
    "A web page of another site sent this request, as the browser says in Sec-Fetch-Site or Origin, and the access token is not "
    "for it. If such pages are meant to use this proxy, set `allow_cross_site: true` at the listener."
)


def check_host(raw: bytes) -> None:
    """Refuse a Host field that is no authority at all (RFC 9112 §3.2); which one it names makes no difference here.

    Raises:
        MalformedRequest: it is no authority.
    """
    parse_named(raw, 80)


def parse_named(raw: bytes, default_port: int) -> Authority:
    """Return the authority that a client named.

    Raises:
        MalformedRequest: it is no authority.
    """
    try:
        return parse_authority(raw, default_port)
    except MalformedRequest as error:
        raise MalformedRequest(f"The Host field is not an authority. {error.detail}") from None


def check_same(raw: bytes, default_port: int, authority: Authority) -> None:
    """Compare a name the client used with the authority the connection is for.

    Raises:
        MalformedRequest: it is no authority.
        MisdirectedRequest: it is another one.
    """
    if parse_named(raw, default_port) != authority:
        raise MisdirectedRequest(
            f"The connection is for {authority}, and the request's Host field, its target, or the TLS handshake (SNI) names "
            "another authority. All must be the same."
        )
