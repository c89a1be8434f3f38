"""The listeners that hand out tokens: opened, taken through reloads, closed. Does I/O.

A plan is built and opened whole before anything changes. A listener whose address stays keeps its socket through a reload, so that
nobody is refused meanwhile; its connections end with what they are doing.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy.config.addresses import parse_listen_address
from proxy.config.settings import Http2, ListenerMode
from proxy.dialing.keep_alive import keep_alive
from proxy.relay.listening import bind_unix, build_listener_policy, cannot_listen, remove_socket
from proxy.token_service.connections import Connections
from proxy.token_service.handout import Handout
from proxy.token_service.header import IdentityHeader, header_file, remove_header, write_header
from proxy.token_service.offers import Offers
from proxy.token_service.questions import TOKEN_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from proxy.config.settings import ListenerSettings, Settings
    from proxy.identity.sources import TokenSources
    from proxy.relay.accepted_connection import AcceptedConnections
    from proxy.relay.admission import Admission
    from proxy.relay.listener_policy import ListenerPolicy
    from proxy.relay.record import ExchangeRecord
    from proxy.token_service.handout import Counts

_BACKLOG: Final = 1_024
_SECRET_BYTES: Final = 32
_ANY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # what programs on this machine connect to instead


@dataclass(slots=True)
class Listener:
    """One listener under one configuration.

    Attributes:
        index: in the configuration's listeners.
        key: what has to stay the same for the socket to stay open: address, file mode, and which of several such it is.
        settings: its settings.
        policy: what it asks of who connects; None: nothing.
        offers, admission: as for `Handout`.
        listening: the socket; None before it is open.
        server: what accepts on it.
        address: where it is bound.
        handout: answers; None before it is open.
        connections: to it; None before it is open.
        has_header: whether the secret of its token endpoint has been written.
    """

    index: int
    key: tuple[str, str, int]
    settings: ListenerSettings
    policy: ListenerPolicy | None
    offers: Offers
    admission: Admission | None
    listening: socket.socket | None = None
    server: asyncio.Server | None = None
    address: tuple[str, int] = ("", 0)
    handout: Handout | None = None
    connections: Connections | None = None
    has_header: bool = False


@dataclass(slots=True)
class Plan:
    """What a configuration means for the token service, built and checked, and not yet in use."""

    settings: Settings
    listeners: list[Listener] = field(default_factory=list)


class TokenService:
    """All identity listeners of a proxy.

    Args:
        settings: the configuration to begin with.
        observe: takes the records.
        accepted_connections: counts them.

    Attributes:
        counts: answers so far.
    """

    def __init__(
        self, settings: Settings, observe: Callable[[ExchangeRecord], None], accepted_connections: AcceptedConnections
    ) -> None:
        self._observe = observe
        self._accepted_connections = accepted_connections
        self._plan = Plan(settings)
        self._listeners: dict[tuple[str, str, int], Listener] = {}
        self._secret = secrets.token_hex(_SECRET_BYTES)
        self._ending: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self.counts: Counts = {}

    @property
    def addresses(self) -> dict[int, tuple[str, int]]:
        """The bound address of each listener, by its index in the configuration."""
        return {listener.index: listener.address for listener in self._plan.listeners}

    def plan(self, settings: Settings, tokens: TokenSources, admission: Admission | None) -> Plan:
        """Build what a configuration means, without changing anything.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        plan = Plan(settings)
        offers: Offers | None = None
        for index, listener in enumerate(settings.listeners):
            if listener.mode is not ListenerMode.IDENTITY:
                continue
            offers = offers or Offers(settings, tokens)
            spoken = replace(listener, http2=Http2.OFF)  # HTTP/1.1 is all that is spoken here
            kind = (listener.address, listener.socket_mode)
            key = (*kind, sum(other.key[:2] == kind for other in plan.listeners))  # port 0 may be there more than once
            plan.listeners.append(Listener(index, key, listener, build_listener_policy(spoken), offers, admission))
        return plan

    async def open(self, plan: Plan, inherited: Mapping[int, socket.socket] | None = None) -> None:
        """Open the listeners of a plan that are not open yet; those that are stay as they are.

        Args:
            plan: what is to run.
            inherited: sockets that listen already, by the listener's index.

        Raises:
            ConfigurationError: an address cannot be bound, or a secret cannot be written; nothing has changed then.
        """
        try:
            for listener in plan.listeners:
                known = self._listeners.get(listener.key)
                taken = (inherited or {}).get(listener.index)
                if known is not None:
                    listener.listening, listener.address = known.listening, known.address
                elif taken is not None:
                    listener.listening = taken
                else:
                    listener.listening = _listen(listener.settings)
                if known is None and listener.listening is not None:
                    listener.address = _address_of(listener.listening)
                self._prepare(plan, listener, known)
                await self._serve(listener, known)
                if listener.settings.token_endpoint:
                    write_header(*self._header(plan.settings, listener))
                    listener.has_header = True
        except BaseException:
            self.close_new(plan)
            raise

    def close_new(self, plan: Plan) -> None:
        """Close what was opened for a plan that is not to run after all."""
        for listener in plan.listeners:
            known = self._listeners.get(listener.key)
            if listener.server is not None and (known is None or known.server is not listener.server):
                listener.server.close()
            if known is None:
                _close(listener)
                self._forget_header(plan.settings, listener)

    def use(self, plan: Plan) -> None:
        """Goes over to a plan whose listeners are open. Nothing here can fail."""
        before, self._plan = self._plan, plan
        self._listeners = {listener.key: listener for listener in plan.listeners}
        kept = {
            self._header(plan.settings, listener)[0] for listener in plan.listeners if listener.settings.token_endpoint
        }
        for listener in plan.listeners:
            if listener.connections is not None and listener.handout is not None:
                listener.connections.go_over(
                    listener.handout, plan.settings.limits, plan.settings.timeouts, listener.policy
                )
            if listener.listening is not None and listener.listening.family != socket.AF_UNIX:
                keep_alive(listener.listening, plan.settings.timeouts.tcp_keep_alive_s)
        for listener in before.listeners:
            successor = self._listeners.get(listener.key)
            if listener.server is not None and (successor is None or successor.server is not listener.server):
                listener.server.close()
            if successor is None:
                _close(listener)
                self._end(listener, before.settings.timeouts.drain_s)
            if listener.settings.token_endpoint and self._header(before.settings, listener)[0] not in kept:
                self._forget_header(before.settings, listener)

    def announce_end(self) -> None:
        """Has each answer from now on tell the gateway to use another connection; new ones are accepted all the same."""
        self._is_ending = True
        for listener in self._plan.listeners:
            if listener.connections is not None:
                listener.connections.is_ending = True

    async def stop(self) -> None:
        """Stop accepting, let requests finish, close everything."""
        for listener in self._plan.listeners:
            if listener.server is not None:
                listener.server.close()
            _close(listener)
            self._forget_header(self._plan.settings, listener)
            self._end(listener, self._plan.settings.timeouts.drain_s)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def cut(self) -> None:
        """End what is left of a drain."""
        for listener in self._plan.listeners:
            if listener.connections is not None:
                listener.connections.cut()

    def _prepare(self, plan: Plan, listener: Listener, known: Listener | None) -> None:
        handout = listener.handout = Handout(
            listener.settings,
            listener.address,
            offers=listener.offers,
            admission=listener.admission,
            secret=self._secret,
            timeouts=plan.settings.timeouts,
            observe=self._observe,
            counts=self.counts,
        )
        if known is not None:
            listener.connections = known.connections  # which go on, by the new configuration once that is in use
            return
        listener.connections = Connections(
            handout,
            limits=plan.settings.limits,
            timeouts=plan.settings.timeouts,
            accepted_connections=self._accepted_connections,
            policy=listener.policy,
        )
        listener.connections.is_ending = self._is_ending

    async def _serve(self, listener: Listener, known: Listener | None) -> None:
        """Accept connections, where an earlier plan does not do that already."""
        if known is not None:
            listener.server = known.server
            return
        loop = asyncio.get_running_loop()
        listening = listener.listening
        assert listening is not None  # noqa: S101  # opened by the caller
        open_server = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        factory = functools.partial(self._accept, listener)
        listener.server = await open_server(factory, sock=listening.dup(), backlog=_BACKLOG)

    def _accept(self, opened: Listener) -> asyncio.BaseProtocol:
        """Return the protocol of a new connection, which goes by the plan in use, or by the one that opens the listener."""
        listener = self._listeners.get(opened.key, opened)
        assert listener.connections is not None  # noqa: S101  # there are some from `_prepare` on
        return listener.connections.accept()

    def _end(self, listener: Listener, within_s: float) -> None:
        """Let the connections of a listener finish what they are doing, and close them."""
        if listener.handout is not None:
            listener.handout.is_closed = True
        if listener.connections is not None:
            task = asyncio.create_task(listener.connections.end(within_s), name="identity listener")
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _header(self, settings: Settings, listener: Listener) -> tuple[Path, IdentityHeader]:
        host, port = listener.address
        scheme = "http" if listener.settings.tls is None else "https"
        host = _ANY.get(host, host)
        literal = f"[{host}]" if ":" in host and not host.startswith("unix:") else host
        endpoint = f"{scheme}://{literal}:{port}{TOKEN_PATH}" if port else host
        return header_file(settings.state_directory, listener.settings.address), IdentityHeader(endpoint, self._secret)

    def _forget_header(self, settings: Settings, listener: Listener) -> None:
        if listener.has_header:  # otherwise it is another proxy's, which has the address already
            remove_header(header_file(settings.state_directory, listener.settings.address))


def _listen(listener: ListenerSettings) -> socket.socket:
    """Return a socket that listens at the address of a listener.

    Raises:
        ConfigurationError: it cannot be bound.
    """
    address = parse_listen_address(listener.address)
    try:
        if address.path is not None:
            listening = bind_unix(address.path, listener.socket_mode)
            listening.listen(_BACKLOG)
            return listening
        host = "127.0.0.1" if address.host == "localhost" else address.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, address.port), family=family, backlog=_BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        raise cannot_listen(listener.address, error) from None
    return listening


def _address_of(listening: socket.socket) -> tuple[str, int]:
    name = listening.getsockname()
    return (f"unix:{name}", 0) if isinstance(name, str) else (name[0], name[1])


def _close(listener: Listener) -> None:
    if listener.listening is not None:
        listener.listening.close()
        remove_socket(listener.address[0])
