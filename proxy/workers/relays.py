"""The relay processes of a proxy, as its server steers them: their shared ports, their CA, their log. Does I/O."""

from __future__ import annotations

import asyncio
import os
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxy.config.addresses import parse_listen_address
from proxy.config.routed_hosts import routed_hosts
from proxy.errors import ConfigurationError
from proxy.interception.leaf import mint
from proxy.interception.names import split_hosts
from proxy.operations.access_log import AccessLog
from proxy.operations.snapshot import WorkerSnapshot
from proxy.relay.accepted_connection import AcceptedConnections
from proxy.relay.listening import cannot_listen
from proxy.relay.passwords import PasswordChecker
from proxy.relay_server import build_admission, check_files, relayed
from proxy.relays import Change
from proxy.workers.control import Control, check_sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from proxy.config.settings import Settings
    from proxy.dialing.resolver import Resolver
    from proxy.identity.sources import TokenSources
    from proxy.interception.leaf import Leaf
    from proxy.interception.signing import Authority
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.usage import Usage
    from proxy.relay.admission import Admission
    from proxy.relay.record import ExchangeRecord


class RelayProcesses:
    """Several relay processes and the control over them. See `proxy.relays.Relays`.

    Args:
        settings: what to serve.
        tokens: where access tokens come from.
        ca: what signs leaves.
        resolver: what looks up the names that this process reaches itself, as those of token endpoints.
        events_dropped: how many events this process's event log has dropped.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: TokenSources,
        ca: Authority,
        resolver: Resolver,
        events_dropped: Callable[[], int],
    ) -> None:
        """Build everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: this system cannot share a listener, a client is known by a Unix user that it does not have, or a
                file that the settings name cannot be used.
        """
        if not hasattr(os, "fork") or not hasattr(socket, "SO_REUSEPORT"):
            raise ConfigurationError("This system cannot have several relay processes: use `workers: 1`.")
        # Or each relay process ends of it, and so does each that takes its place.
        check_files(settings)
        check_sendable(settings)
        self._settings = settings
        self._resolver = resolver
        self._events_dropped = events_dropped
        self._hosts = routed_hosts(settings)
        self._control = Control(settings, tokens, LeafMint(ca, self._hosts))
        self._passwords = PasswordChecker()
        self._log = _open_log(settings)
        self._reserved: list[socket.socket] = []
        self.admission: Admission | None = build_admission(settings, self._passwords)
        self.accepted_connections = AcceptedConnections(settings.limits)
        self.addresses: list[tuple[str, int]] = []

    @property
    def is_serving(self) -> bool:
        """See `Relays`."""
        return self._control.is_serving

    @property
    def restarts(self) -> int:
        """See `Relays`."""
        return self._control.restarts

    async def start(self, settings: Settings, inherited: Sequence[socket.socket]) -> None:
        """See `Relays`."""
        if inherited:
            raise ConfigurationError("Sockets of a service manager can be used with `workers: 1` only.")
        self._reserved = [_reserve(listener.address) for listener in relayed(settings)]
        self.addresses = [one.getsockname()[:2] for one in self._reserved]
        await self._control.start(settings, [port for _, port in self.addresses])

    def fixed_until_restart(self, settings: Settings) -> list[str]:
        """See `Relays`."""
        before, after = ([one.address for one in relayed(each)] for each in (self._settings, settings))
        return [] if before == after else ["listeners, with several workers"]

    async def prepare(self, settings: Settings, tokens: TokenSources) -> Change:
        """See `Relays`."""
        admission = build_admission(settings, self._passwords)
        # Or all relay processes end of what this one should have refused.
        await asyncio.to_thread(check_files, settings)
        check_sendable(settings)

        def use(bound: Settings, ca: Authority) -> None:
            before, self._settings, self.admission = self._settings, settings, admission
            self._hosts = routed_hosts(settings)
            self.accepted_connections.limits = settings.limits
            self._renew_log(before, settings)
            self._control.reload(bound, tokens, LeafMint(ca, self._hosts))

        return Change(admission, use, lambda: None)

    def use_ca(self, ca: Authority) -> None:
        """See `Relays`."""
        self._control.use_ca(LeafMint(ca, self._hosts))

    def exclude(self, addresses: Collection[tuple[str, int]]) -> None:
        """Nothing: relay processes know them by their settings."""

    def announce_end(self) -> None:
        """See `Relays`."""
        self._control.announce_end()

    async def drain(self) -> None:
        """See `Relays`."""
        for reserved in self._reserved:
            reserved.close()
        await self._control.drain()
        self._passwords.close()
        if self._log is not None:
            self._log.close()

    def cut(self) -> None:
        """See `Relays`."""
        self._control.kill()

    def observe(self, record: ExchangeRecord) -> None:
        """See `Relays`."""
        self._control.recent.add([record])
        if self._log is not None:
            self._log.observe(record)

    def snapshots(self) -> list[WorkerSnapshot]:
        """See `Relays`."""
        return self._control.snapshots()

    def counted(self) -> list[WorkerSnapshot]:
        """See `Relays`."""
        own = WorkerSnapshot(events_dropped=self._events_dropped(), name_lookups=dict(self._resolver.outcomes))
        return [own, *self.snapshots()]

    def tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        """See `Relays`."""
        return self._control.recent.tail(after)

    def errors(self) -> list[ErrorCount]:
        """See `Relays`."""
        return self._control.recent.errors()

    def usage(self) -> Usage:
        """See `Relays`."""
        return self._control.recent.usage()

    def _renew_log(self, before: Settings, settings: Settings) -> None:
        if self._log is not None and before.access_log == settings.access_log:
            self._log.reopen()
            return
        earlier, self._log = self._log, _open_log(settings)
        if earlier is not None:
            asyncio.get_running_loop().run_in_executor(None, earlier.close)


def _open_log(settings: Settings) -> AccessLog | None:
    """Return the log of what this process answers itself; None where it answers nothing."""
    return None if len(relayed(settings)) == len(settings.listeners) else AccessLog(settings.access_log)


class LeafMint:
    """Makes the leaf certificates that relay processes present.

    Args:
        ca: what signs them.
        hosts: the routed hosts.
    """

    def __init__(self, ca: Authority, hosts: Sequence[str]) -> None:
        self._ca = ca
        literal, self._apexes = split_hosts(hosts)
        self._literal = frozenset(literal)

    def __call__(self, host: str, key: RSAPrivateKey | None = None) -> Leaf:
        """Return a leaf for a host; one below a wildcard route shares it with its siblings. See `proxy.interception.leaf.mint`.

        Raises:
            ConfigurationError: the CA may not sign for that host.
        """
        return mint(self._ca, host, datetime.now(UTC), () if host in self._literal else self._apexes, key)


def _reserve(text: str) -> socket.socket:
    """Binds an address for the relay processes to share, without listening on it: so the port is known, and ours.

    Raises:
        ConfigurationError: it cannot be bound, or somebody else listens there.
    """
    address = parse_listen_address(text)
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    host = "127.0.0.1" if address.host == "localhost" else address.host
    try:
        # First without SO_REUSEPORT, under which a second proxy would share the first one's clients.
        with socket.socket(family) as probe:
            _keep_to_family(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, address.port))
            port = probe.getsockname()[1]
        reserved = socket.socket(family)
        _keep_to_family(reserved)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind((host, port))
    except OSError as error:
        raise cannot_listen(text, error) from None
    return reserved


def _keep_to_family(bound: socket.socket) -> None:
    """Leave IPv4 alone, as the relay's listeners do: [::] and 0.0.0.0 may have the same port."""
    if bound.family == socket.AF_INET6:
        bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
