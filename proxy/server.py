"""The composition root: keys, tokens, the CA and the admin site, and one relay or several relay processes. Does I/O.

Nothing below this module knows what stands beside it: the relay gets its token sources, TLS contexts and observers from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy.config.addresses import ListenAddress, parse_listen_address
from proxy.config.privacy import find_tolerated
from proxy.config.routed_hosts import routed_hosts
from proxy.dialing.descriptors import find_exhaustion, read_limit, reserve
from proxy.dialing.resolver import Resolver
from proxy.dialing.route_tls import ClientCertificates
from proxy.errors import ConfigurationError
from proxy.identity.rotation import ExpiryWarnings, warn_of_expiry
from proxy.identity.sources import TokenSources
from proxy.interception.opening import AuthorityWatch, authority_files, find_date_problem, open_authority
from proxy.operations.event_log import EventLog
from proxy.policy.authority import HTTPS_PORT, parse_authority
from proxy.relay.listening import cannot_listen, find_listener_certificates
from proxy.relays import OneRelay
from proxy.tasks import keep_going
from proxy.token_service.service import TokenService
from proxy.token_service.token_files import TokenFiles

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from proxy.config.settings import Settings
    from proxy.identity.sources import Failing, IdentityStatistics
    from proxy.interception.signing import Authority
    from proxy.operations.admin import AdminSite
    from proxy.operations.metrics import CertificateExpiry
    from proxy.operations.overview import ClientSummary, RouteSummary
    from proxy.operations.server_metrics import ServerFigures
    from proxy.relays import Relays

logger = logging.getLogger("proxy.interception")

_RENEW: Final = "have a new one issued, and put it in the place of the old one"
# Between two looks at the CA's files.
_LOOK_S: Final = 1.0
# Of the hosts of one credential, in a sentence.
_HOSTS_NAMED: Final = 3
# What nobody guesses, and what passes through a browser's password field: RFC 6750 §2.1's b64token, at 128 bits or more.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]{32,512}")


class Server:
    """One proxy, in one process or several.

    Args:
        settings: what to serve.
        on_quit: called where somebody asks the admin site to end the proxy.

    Attributes:
        tokens: the token sources.
        reloads: how many there were, by outcome: ``ok`` or ``refused``.
        admin_address: of the admin site; None where there is none.
    """

    def __init__(self, settings: Settings, on_quit: Callable[[], None] = lambda: None) -> None:
        """Build everything that can fail for reasons of configuration, before any socket opens.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        self._settings = settings
        self._event_log: EventLog | None = None
        self._resolver = Resolver()
        self.tokens = TokenSources.from_settings(settings, patience_s=_patience_s(settings), resolver=self._resolver)
        self.reloads = {"ok": 0, "refused": 0}
        self._last_reload_ok = True
        self._retired: dict[asyncio.Task[None], TokenSources] = {}
        self._hosts = routed_hosts(settings)
        self._client_certificates = ClientCertificates(settings)
        self._listener_certificates = find_listener_certificates(settings.listeners)
        self._ca_watch = AuthorityWatch(authority_files(settings), time.monotonic())
        self._ca = _open_ca(settings, self._hosts)
        self._relays = self._build_relays()
        self.token_files = TokenFiles()
        self.token_service = TokenService(settings, self._relays.observe, self._relays.accepted_connections)
        self.admin_address: tuple[str, int] | None = None
        self._admin: AdminSite | None = None
        self._warm_up: asyncio.Task[None] | None = None
        self._ca_task: asyncio.Task[None] | None = None
        self._expiry_task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._on_quit = on_quit
        self._is_cut = asyncio.Event()

    @property
    def settings(self) -> Settings:
        """What is served at present."""
        return self._settings

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """The bound address of each listener, in the configuration's order, once started."""
        handing_out = self.token_service.addresses
        relaying = iter(self._relays.addresses)
        found = [handing_out.get(index) or next(relaying, None) for index in range(len(self._settings.listeners))]
        return [address for address in found if address is not None]

    async def start(self, inherited: Sequence[socket.socket] = ()) -> None:
        """Open the listeners and the admin site, and begin to obtain tokens.

        Args:
            inherited: sockets that listen already, one for each of the first listeners.

        Raises:
            ConfigurationError: an address cannot be bound.
        """
        self._event_log = EventLog()
        _warn_of_exposed(self._settings)
        _warn_of_descriptors(self._settings)
        token_files = self.token_files.plan(self._settings, self.tokens)
        plan = self.token_service.plan(self._settings, self.tokens, self._relays.admission)
        handing_out = {listener.index for listener in plan.listeners}
        await self.token_service.open(plan, {index: one for index, one in enumerate(inherited) if index in handing_out})
        self.token_service.use(plan)
        relaying = [one for index, one in enumerate(inherited) if index not in handing_out]
        await self._relays.start(self._with_bound(self._settings), relaying)
        opened = await self._open_admin(self._settings)
        if opened is not None:
            self._admin, self.admin_address = opened
        self._exclude_own_addresses()
        self._warm_up = asyncio.create_task(self.tokens.warm_up(), name="warm-up")
        await self.token_files.use(token_files)
        self._expiry_task = asyncio.create_task(
            keep_going(
                lambda: warn_of_expiry(self._other_ends, ExpiryWarnings(_RENEW)),
                "watching the ends of listeners' and client certificates",
            ),
            name="certificate expiry",
        )
        self._ca_task = asyncio.create_task(
            keep_going(self._follow_ca, "following the interception CA"), name="interception CA"
        )

    def begin_drain(self) -> None:
        """Fails readiness, and tells clients that their connections end; everything else goes on until `stop`."""
        self._is_draining = True
        self.token_service.announce_end()
        self._relays.announce_end()

    async def stop(self) -> None:
        """Fails readiness, waits for who routes by it, stops accepting, lets exchanges finish, closes everything."""
        self.begin_drain()
        delay_s = self._settings.timeouts.drain_delay_s
        if delay_s and self.addresses:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._is_cut.wait(), delay_s)
        handing_out = asyncio.create_task(self.token_service.stop(), name="identity listeners")
        await self.token_files.close()
        await self._relays.drain()
        await handing_out
        if self._admin is not None:
            await self._admin.close()
        for background in (self._warm_up, self._ca_task, self._expiry_task):
            if background is not None:
                background.cancel()
                await asyncio.gather(background, return_exceptions=True)
        for task, retired in list(self._retired.items()):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await retired.retire(self.tokens)
        await self.tokens.close()
        if self._event_log is not None:
            self._event_log.close()

    async def reload(self, load: Callable[[], Settings]) -> None:
        """Goes over to another configuration, or to none of it: new listeners open before old ones close, tokens are kept.

        Args:
            load: returns the new settings; called in a thread.

        Raises:
            ConfigurationError: it cannot be used, and everything is as it was.
        """
        try:
            settings = await asyncio.to_thread(load)
            self._refuse_what_needs_a_restart(settings)
            await self._go_over(settings)
        except ConfigurationError:
            self.reloads["refused"] += 1
            self._last_reload_ok = False
            exhausted = find_exhaustion()  # then no file can be read, whatever it is that could not be
            if exhausted is not None:
                raise ConfigurationError(f"The configuration cannot be read. {exhausted.detail}") from None
            raise
        _warn_of_exposed(settings)
        _warn_of_descriptors(settings)
        self.reloads["ok"] += 1
        self._last_reload_ok = True

    def _refuse_what_needs_a_restart(self, settings: Settings) -> None:
        changed = ["workers"] if self._settings.workers != settings.workers else []
        changed += self._relays.fixed_until_restart(settings)
        if changed:
            raise ConfigurationError(f"These settings change with a restart only: {', '.join(changed)}.")

    async def _go_over(self, settings: Settings) -> None:
        """Build everything first, in an order in which each step can still be given up; then use it at once."""
        hosts = routed_hosts(settings)
        await self.tokens.look_at_files()
        client_certificates = ClientCertificates(settings)
        listener_certificates = find_listener_certificates(settings.listeners)
        tokens = TokenSources.from_settings(settings, patience_s=_patience_s(settings), resolver=self._resolver)
        tokens.adopt(self.tokens, unchanged_credentials(self._settings, settings))
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(tokens.retire, self.tokens)
            change = await self._relays.prepare(settings, tokens)
            undo.callback(change.give_up)
            handout = self.token_service.plan(settings, tokens, change.admission)
            await self.token_service.open(handout)
            undo.callback(self.token_service.close_new, handout)
            token_files = self.token_files.plan(settings, tokens)
            admin = await self._open_admin(settings)
            if admin is not None:
                undo.push_async_callback(admin[0].close)
            watch = AuthorityWatch(authority_files(settings), time.monotonic())
            ca = await asyncio.to_thread(_open_ca, settings, hosts)
            undo.pop_all()
        self._settings, self._hosts, self._ca = settings, hosts, ca
        self._ca_watch, self._client_certificates = watch, client_certificates
        self._listener_certificates = listener_certificates
        retired, self.tokens = self.tokens, tokens
        self.token_service.use(handout)
        change.use(self._with_bound(settings), ca)
        closing = None
        if admin is not None or settings.admin is None:
            closing, (self._admin, self.admin_address) = self._admin, admin or (None, None)
        self._exclude_own_addresses()
        if closing is not None:
            await closing.close()
        self._warm_up = asyncio.create_task(tokens.warm_up(), name="warm-up")
        await self.token_files.use(token_files)
        tokens.forgive()
        self._retire(retired, settings.timeouts.drain_s)

    def _build_relays(self) -> Relays:
        """Return what relays: in this process, or in several of their own.

        Raises:
            ConfigurationError: a file named by the settings cannot be used.
        """
        if self._settings.workers == 1:
            return OneRelay(self._settings, self.tokens, self._ca, self._resolver, self._events_dropped)
        from proxy.workers.relays import RelayProcesses  # noqa: PLC0415  # one process needs none of it

        return RelayProcesses(self._settings, self.tokens, self._ca, self._resolver, self._events_dropped)

    def _events_dropped(self) -> int:
        return self._event_log.dropped if self._event_log is not None else 0

    def _exclude_own_addresses(self) -> None:
        """Tell the dialler what is no destination; port 0 is known by what was bound."""
        admin = [] if self.admin_address is None else [self.admin_address]
        self._relays.exclude([*self.token_service.addresses.values(), *admin])

    def _with_bound(self, settings: Settings) -> Settings:
        """Return the settings as relay processes are told them: with the ports that identity listeners have got."""
        addresses = self.token_service.addresses
        listeners = [
            replace(listener, address=str(ListenAddress(*addresses[index])))
            if index in addresses and addresses[index][1]
            else listener
            for index, listener in enumerate(settings.listeners)
        ]
        return replace(settings, listeners=tuple(listeners))

    async def _follow_ca(self) -> None:
        """Take up another CA when its files have changed, as at a rotation, and once an hour what is due without that."""
        while True:
            await asyncio.sleep(_LOOK_S)
            if not self._ca_watch.is_due(time.monotonic()):
                continue
            settings, hosts = self._settings, self._hosts
            try:
                ca = await asyncio.to_thread(_open_ca, settings, hosts)
                if ca.identity == self._ca.identity:
                    continue
            except ConfigurationError as error:
                logger.error("the interception CA has changed and cannot be used, so the earlier one stays: %s", error)  # noqa: TRY400  # its text says all
                continue
            if settings is not self._settings:
                continue  # a reload came in between, and has looked itself
            self._ca = ca
            self._relays.use_ca(ca)
            logger.warning("the interception CA has changed: new connections get certificates as it now says")

    def _retire(self, tokens: TokenSources, after_s: float) -> None:
        async def close_later() -> None:
            await asyncio.sleep(after_s)  # exchanges in flight may still ask for what they began with
            await tokens.retire(self.tokens)

        task = asyncio.create_task(close_later(), name="retired tokens")
        tokens.stop_watching()
        self._retired[task] = tokens
        task.add_done_callback(lambda done: self._retired.pop(done, None) if not done.cancelled() else None)

    def cut(self) -> None:
        """End a drain: what is left of it is cut."""
        self._is_cut.set()
        self.token_service.cut()
        self._relays.cut()

    def readiness(self) -> tuple[bool, list[str]]:
        """Whether a request of at least one route can be served, and what cannot be. Never speaks of the API's health."""
        reasons = ["draining"] if self._is_draining else []
        serves = self._relays.is_serving
        if not serves:
            reasons.append("no relay process is running; the log says why")
        reasons += [self._describe_failing(one) for one in self.tokens.failing()]
        ca_problem = find_date_problem(self._ca, datetime.now(UTC))
        if ca_problem is not None:
            reasons.append(ca_problem)
        return serves and self.tokens.ready and not self._is_draining, reasons

    def _describe_failing(self, failing: Failing) -> str:
        hosts = [
            host
            for route in self._settings.routes
            if route.credential == failing.credential and (route.scope or route.resource) == str(failing.target)
            for host in route.hosts
        ]
        hosts += [
            str(file.path)
            for file in self._settings.token_files
            if file.credential == failing.credential and (file.scope or file.resource) == str(failing.target)
        ]
        named = ", ".join(hosts[:_HOSTS_NAMED]) + (", …" if len(hosts) > _HOSTS_NAMED else "")
        since = datetime.fromtimestamp(time.time() - failing.for_s, UTC)
        return (
            f"no valid access token for {named} (credential {failing.credential}, {failing.target}) since"
            f" {since:%Y-%m-%d %H:%M:%S} UTC: {failing.reason}"
        )

    async def _open_admin(self, settings: Settings) -> tuple[AdminSite, tuple[str, int]] | None:
        """Open the admin site of a configuration, where it has one that is not open already."""
        if settings.admin is None:
            return None
        token = read_admin_token(settings.admin.token_file)
        if self._admin is not None and (settings.admin, token) == (self._settings.admin, self._admin.token):
            return None
        # Some of it takes long to import, and not everybody wants the site.
        from proxy.operations.admin import AdminSite  # noqa: PLC0415
        from proxy.operations.extras import AutoConfig, Quit  # noqa: PLC0415
        from proxy.operations.page import Page, PageSources  # noqa: PLC0415
        from proxy.operations.server_metrics import ServerCollector  # noqa: PLC0415

        text = settings.admin.address
        address = parse_listen_address(text)
        collector = ServerCollector(
            self._relays.counted, self._identity_statistics, self._other_certificates, figures=self._figures
        )
        page = Page(
            PageSources(
                readiness=self.readiness,
                workers=self._relays.snapshots,
                identity=self._identity_statistics,
                certificates=self._other_certificates,
                routes=self._summarise_routes,
                tail=self._relays.tail,
                errors=self._relays.errors,
                usage=self._relays.usage,
                clients=self._summarise_clients,
            )
        )
        extras: list[AutoConfig | Quit] = [AutoConfig(lambda: self._hosts, self._forward_addresses)]
        if settings.admin.allow_quit:
            extras.append(Quit(self._on_quit))
        site = AdminSite(
            address.host,
            address.port,
            self.readiness,
            collector,
            token=token,
            server_names=[parse_authority(name.encode(), HTTPS_PORT).host for name in settings.admin.server_names],
            page=page,
            extras=extras,
        )
        try:
            bound = await site.start(self._admin)
        except OSError as error:
            raise cannot_listen(text, error, site="admin") from None
        return site, bound

    def _forward_addresses(self) -> list[tuple[str, int]]:
        pairs = zip(self._settings.listeners, self.addresses, strict=True)
        return [
            address for listener, address in pairs if listener.mode == "forward" and listener.tls is None and address[1]
        ]

    def _figures(self) -> ServerFigures:
        from proxy.operations.server_metrics import ServerFigures  # noqa: PLC0415  # see `_open_admin`

        ready, _ = self.readiness()
        return ServerFigures(
            ready,
            self.reloads,
            self._last_reload_ok,
            self._relays.restarts,
            self.token_service.counts,
            self.token_files.files,
        )

    def _identity_statistics(self) -> IdentityStatistics:
        return self.tokens.statistics()

    def _other_certificates(self) -> list[CertificateExpiry]:
        """Return the certificates beside the credentials' own."""
        from proxy.operations.metrics import CertificateExpiry  # noqa: PLC0415  # see `_open_admin`

        return [
            CertificateExpiry("interception_ca", "", "", self._ca.not_after.timestamp()),
            *(
                CertificateExpiry("client_certificate", one.route, one.subject, one.not_after.timestamp())
                for one in self._client_certificates.look()
            ),
            *(
                CertificateExpiry(
                    "listener",
                    address,
                    "",
                    certificate.not_valid_after_utc.timestamp(),
                    certificate.not_valid_before_utc.timestamp(),
                )
                for address, certificate in self._listener_certificates.items()
            ),
        ]

    def _other_ends(self) -> dict[str, datetime]:
        listeners = {
            f"listener {address}: the certificate": certificate.not_valid_after_utc
            for address, certificate in self._listener_certificates.items()
        }
        return {**self._client_certificates.ends(), **listeners}

    def _summarise_routes(self) -> list[RouteSummary]:
        from proxy.operations.overview import RouteSummary  # noqa: PLC0415  # see `_open_admin`

        return [
            RouteSummary(route.hosts[0], route.hosts, route.credential, route.scope or route.resource or "")
            for route in self._settings.routes
        ]

    def _summarise_clients(self) -> list[ClientSummary]:
        from proxy.operations.overview import summarise_client  # noqa: PLC0415  # see `_open_admin`

        return [summarise_client(client) for client in self._settings.clients]


def unchanged_credentials(before: Settings, after: Settings) -> list[str]:
    """Return the names of the credentials whose tokens another configuration may go on using.

    One whose key is in a vault is not among them: it reaches the vault through the sources of its own configuration. None is
    where the upstream proxy changes, through which they reach the identity platform.
    """
    if before.upstream_proxy != after.upstream_proxy:
        return []
    return [
        name
        for name, credential in after.credentials.items()
        if before.credentials.get(name) == credential and credential.key_vault_key is None
    ]


def _open_ca(settings: Settings, hosts: Sequence[str]) -> Authority:
    """Return what signs leaves, and say in the log where clients refuse it for its dates.

    Raises:
        ConfigurationError: it cannot be used.
    """
    now = datetime.now(UTC)
    ca = open_authority(settings, hosts, now)
    problem = find_date_problem(ca, now)
    if problem is not None:
        logger.error("%s Plain http URLs and reverse listeners are served all the same.", problem)
    return ca


def _patience_s(settings: Settings) -> float:
    """Return for how long requests wait out failures: a little less than they may, so that they are told the reason."""
    return settings.timeouts.token_s * 0.95


def _warn_of_descriptors(settings: Settings) -> None:
    """Says where the system lets this process, or each relay process, have fewer connections than the settings do."""
    limit = read_limit()
    connections = settings.limits.connections
    if limit is not None and connections > limit - reserve(limit):
        logging.getLogger("proxy.config").warning(
            "limits.connections is %d, and this process may have %d file descriptors, of which each connection takes one, and its "
            "upstream's another. Raise that limit (LimitNOFILE, ulimit -Hn), or lower limits.connections: beyond it, clients "
            "are answered 503.",
            connections,
            limit,
        )


def _warn_of_exposed(settings: Settings) -> None:
    for key, sentence in find_tolerated(settings):
        logging.getLogger("proxy.config").warning("%s: %s", key, sentence)


def read_admin_token(file: Path | None) -> str | None:
    """Return what opens the admin site; None without a file.

    Raises:
        ConfigurationError: the file cannot be read, or holds no token that could not be guessed.
    """
    if file is None:
        return None
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise ConfigurationError(
            f"{file} cannot be used as admin.token_file: it must be a readable text file."
        ) from None
    if not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            f"{file} holds no admin token: write 32 or more letters and digits into it, as `openssl rand -hex 32` prints them."
        )
    return token
