"""All token sources of a configuration: one per (credential, scope). Reads the credentials' files when it is built.

Invariant: routes with the same credential and scope share one source, so they share its token and its one flight.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import random
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

from proxy.config.bound_tokens import PATIENCE_WITH_BOUND_TOKENS
from proxy.config.redis_url import REDIS_SCOPE
from proxy.dialing.building import build_dialer
from proxy.errors import ConfigurationError, IdentityError
from proxy.identity.cache import Pause
from proxy.identity.clouds import AUTHORITIES
from proxy.identity.credential import Credential, CredentialStatistics, Target
from proxy.identity.machine import Machine
from proxy.identity.machine_credential import MachineCredential
from proxy.identity.managed_identity import find_client_id
from proxy.identity.proof.building import create_proofs, list_proof_files
from proxy.identity.proof.vault_access import VaultAccess
from proxy.identity.rotation import POLL_S, ExpiryWarnings, RotationWatch, Watched, warn_of_expiry
from proxy.identity.source import SourceStatistics, TokenSource
from proxy.identity.suspension import watch_suspension
from proxy.identity.token_endpoint import TokenEndpoint
from proxy.keys.fingerprint import read_fingerprint
from proxy.tasks import keep_going

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from proxy.config.settings import CredentialSettings, Settings, TokenCacheSettings
    from proxy.dialing.dialer import Dialer
    from proxy.dialing.resolver import Resolver
    from proxy.identity.proof.interface import Proof
    from proxy.identity.sharing.shared_token import SharedCache, SharedToken, SharingStatistics


logger = logging.getLogger("proxy.identity")

AnyCredential: TypeAlias = Credential | MachineCredential

_Key = TypeVar("_Key", bound=Hashable)
# How late a certificate may be taken up that becomes valid; a look compares two numbers.
_START_LOOK_S = 1.0
# By then upstreams are shown a new certificate (`proxy.config.bound_tokens`).
_BOUND_RENEWAL_S = POLL_S * (PATIENCE_WITH_BOUND_TOKENS + 2)


@dataclass(frozen=True, slots=True)
class IdentityStatistics:
    """A snapshot for metrics: credentials by name, sources, which of them fail, and what replicas share."""

    credentials: Mapping[str, CredentialStatistics]
    sources: tuple[SourceStatistics, ...]
    failing: tuple[Failing, ...] = ()
    sharing: SharingStatistics | None = None


class Failing(NamedTuple):
    """A source that could not give a token now.

    Attributes:
        credential: its name in the configuration.
        target: scope or resource.
        for_s: seconds for which there has been no token, although one was wanted.
        reason: a sentence or more.
        code: as `IdentityError.code`; empty before an attempt has failed.
    """

    credential: str
    target: Target
    for_s: float
    reason: str
    code: str


class TokenSources:
    """Hands out the one source of each (credential, scope)."""

    def __init__(
        self,
        credentials: Mapping[str, AnyCredential],
        *,
        lazy: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
        wall_clock: Callable[[], float] = time.time,
        dialer: Dialer | None = None,
        patience_s: float = 0.0,
    ) -> None:
        """Begin with no source.

        Args:
            credentials: by name; closed with this object.
            lazy: names of those whose tokens are obtained by demand only.
            clock: monotonic seconds.
            jitter: 0 to 1.
            wall_clock: Unix seconds.
            dialer: opens connections to key vaults.
            patience_s: as for `TokenSource`.
        """
        self._credentials = dict(credentials)
        self._lazy = set(lazy)
        self._clock = clock
        self._jitter = jitter
        self._sources: dict[tuple[str, Target], TokenSource] = {}
        # By the host asked, and by token endpoint and client id. Those of credentials in use, no others.
        self._endpoint_pauses: dict[str, Pause] = {}
        self._client_pauses: dict[tuple[str, str], Pause] = {}
        self._patience_s = patience_s
        machine = Machine(clock=clock, wall_clock=wall_clock)
        self._vaults = VaultAccess(self.source_for, machine, dialer=dialer)
        # Whose vaults and machine each credential was built with: it may come from earlier sources.
        self._accesses: dict[str, VaultAccess] = {}
        self._shared: SharedCache | None = None
        self._shared_settings: TokenCacheSettings | None = None
        self._vault_targets: set[tuple[str, Target]] = set()
        self._watch = RotationWatch(())
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        poll_s: float = POLL_S,
        patience_s: float = 0.0,
        resolver: Resolver | None = None,
    ) -> TokenSources:
        """Build every credential, and a source for every route.

        Args:
            settings: the configuration.
            clock: monotonic seconds.
            wall_clock: Unix seconds.
            jitter: 0 to 1.
            poll_s: seconds between two looks at the certificates' files.
            patience_s: as for `TokenSource`; by default what asks hears of each failure at once.
            resolver: of this process; default: one for these sources alone.

        Raises:
            ConfigurationError: a file of a credential cannot be read or used.
        """
        lazy = [name for name, credential in settings.credentials.items() if credential.lazy]
        dialer = build_dialer(settings, resolver)
        sources = cls(
            {},
            lazy=lazy,
            clock=clock,
            jitter=jitter,
            wall_clock=wall_clock,
            dialer=dialer,
            patience_s=patience_s,
        )
        watched = []
        # A credential whose key is in a vault may need another credential to reach it.
        for name, each in sorted(settings.credentials.items(), key=lambda item: item[1].key_vault_key is not None):
            sources._accesses[name] = sources._vaults
            if each.managed_identity is not None:
                machine = sources._vaults.machine
                sources._credentials[name] = MachineCredential(name, machine, find_client_id(each.managed_identity))
                continue
            files = list_proof_files(each)
            read = read_fingerprint(files)
            proofs = create_proofs(each, sources._vaults)
            credential = create_credential(name, each, proofs, clock=clock, wall_clock=wall_clock, dialer=dialer)
            sources._credentials[name] = credential
            load = functools.partial(create_proofs, each, sources._vaults)
            watched.append(Watched(name, files, load, functools.partial(sources._rotate, name), read))
        if settings.token_cache is not None:
            sources._share_tokens(settings.token_cache, clock, wall_clock, jitter)
        sources._vault_targets = set(sources._sources)
        for route in settings.routes:
            target = Target(scope=route.scope, resource=route.resource)
            sources.source_for(route.credential, target)
            sources._vault_targets.discard((route.credential, target))
        for each_file in settings.token_files:
            target = Target(scope=each_file.scope, resource=each_file.resource)
            sources.source_for(each_file.credential, target)
            sources._vault_targets.discard((each_file.credential, target))
        sources._watch = RotationWatch(watched, poll_s=poll_s)
        return sources

    def source_for(self, credential: str, target: Target) -> TokenSource:
        """Return the source of the pair, always the same one.

        Raises:
            ConfigurationError: there is no credential of that name.
        """
        key = (credential, target)
        source = self._sources.get(key)
        if source is None:
            requester = self._credentials.get(credential)
            if requester is None:
                raise ConfigurationError(f"There is no credential named {credential!r}; define it under `credentials`.")
            source = TokenSource(
                requester,
                target,
                credential_name=credential,
                endpoint_pause=self._endpoint_pauses.setdefault(requester.origin, Pause()),
                client_pause=self._client_pauses.setdefault(requester.throttled_as, Pause()),
                patience_s=self._patience_s,
                shared=self._share(credential, target),
                clock=self._clock,
                jitter=self._jitter,
            )
            self._sources[key] = source
        return source

    def _share_tokens(
        self,
        settings: TokenCacheSettings,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        jitter: Callable[[], float],
    ) -> None:
        """Share the tokens of sources that are made from now on; the token for Redis itself is made before."""
        # A start without a shared cache need not wait for its ciphers to be imported.
        from proxy.identity.sharing.building import create_shared_cache  # noqa: PLC0415

        tokens = None
        if settings.credential is not None:
            tokens = self.source_for(settings.credential, Target(scope=REDIS_SCOPE))
        self._shared = create_shared_cache(settings, tokens, clock=clock, wall_clock=wall_clock, jitter=jitter)
        self._shared_settings = settings

    async def try_sharing(self) -> str:
        """Return what is wrong with the store that replicas meet in; empty where nothing is."""
        return "" if self._shared is None else await self._shared.probe()

    def _share(self, credential: str, target: Target) -> SharedToken | None:
        """Return what a source shares; None where it shares nothing."""
        requester = self._credentials[credential]
        if self._shared is None or requester.name_token(target, None) is None or target.scope == REDIS_SCOPE:
            return None
        from proxy.identity.sharing.shared_token import SharedToken  # noqa: PLC0415 -- as in `_share_tokens`

        return SharedToken(self._shared, lambda claims: requester.name_token(target, claims) or "")

    @property
    def ready(self) -> bool:
        """Whether at least one source of a route can give a token; also where there is no route at all."""
        wanted = len(self._sources.keys() - self._vault_targets)
        return wanted == 0 or len(self.failing()) < wanted

    def failing(self) -> list[Failing]:
        """Return the sources of routes that could not give a token now.

        A lazy one can while it may be asked: also before anybody has asked, and again after each wait that follows a failure.
        """
        found = []
        for (name, target), each in self._sources.items():
            source = each.statistics()
            if source.usable or (name, target) in self._vault_targets:
                continue
            error = self._credentials[name].out_of_date()
            if error is not None:
                found.append(Failing(name, target, source.without_s or 0.0, error.detail, code=error.code))
            elif name not in self._lazy or source.retry_in_s > 0:
                reason = source.failure_detail or "It is still on its way."
                found.append(Failing(name, target, source.without_s or 0.0, reason, code=source.failure_code))
        return found

    async def warm_up(self) -> None:
        """Obtain every source's first token, keep all of them fresh from now on, and watch the certificates' files.

        Returns when each has answered or failed once; those that failed go on trying in the background.
        """
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(
                    keep_going(self._watch.run, "watching certificate files"), name="certificate files"
                ),
                asyncio.create_task(
                    keep_going(
                        lambda: warn_of_expiry(self._expirations, ExpiryWarnings()), "watching the ends of certificates"
                    ),
                    name="certificate expiry",
                ),
                asyncio.create_task(
                    keep_going(lambda: watch_suspension(self._wake), "watching for sleep"), name="suspension"
                ),
                asyncio.create_task(
                    keep_going(self._watch_starts, "watching the starts of certificates"), name="certificate starts"
                ),
            ]
        for name in self._credentials:
            self._report_dates(name)
        if self._shared is not None:
            await self._shared.open()
        sources = [source for (name, _), source in self._sources.items() if name not in self._lazy]
        for source in sources:
            source.keep_fresh()
        await asyncio.gather(*(_try_once(source) for source in sources))

    async def reload(self) -> None:
        """Load all certificates anew and forget failures, as on a signal. Tokens stay; what cannot be used is logged."""
        await self._watch.reload()
        self.forgive()

    def forgive(self) -> None:
        """Forget failures, as after a change by whoever runs the proxy."""
        for source in self._sources.values():
            source.forgive()

    def adopt(self, earlier: TokenSources, unchanged: Collection[str]) -> None:
        """Share the credentials that have not changed, their tokens, and what authorities asked us to wait.

        Args:
            earlier: what is in use until now; it stays usable.
            unchanged: names of credentials.
        """
        own = self._shared_settings
        if own is not None and own == earlier._shared_settings and own.credential in (None, *unchanged):
            self._shared = earlier._shared  # Nothing was asked of ours yet, and it has no connection.
        _keep(self._endpoint_pauses, earlier._endpoint_pauses)
        _keep(self._client_pauses, earlier._client_pauses)
        for name in unchanged:
            self._credentials[name] = earlier._credentials[name]
            if name in earlier._accesses:
                self._accesses[name] = earlier._accesses[name]
        wanted, self._sources = list(self._sources), {}
        for key in wanted:
            if key[0] in unchanged and key in earlier._sources:
                self._sources[key] = earlier._sources[key]
                self._sources[key].patience_s = self._patience_s
                if self._shared is not earlier._shared:
                    self._sources[key].shared = self._share(*key)
            else:
                self.source_for(*key)

    async def look_at_files(self) -> None:
        """Put to use the certificates that have changed since the last look."""
        await self._watch.poll()

    def stop_watching(self) -> None:
        """End what runs in the background; sources go on."""
        for task in self._tasks:
            task.cancel()

    async def retire(self, other: TokenSources) -> None:
        """Close what is not shared with `other`."""
        kept = {id(one) for one in (*other._sources.values(), *other._credentials.values())}
        self._sources = {key: source for key, source in self._sources.items() if id(source) not in kept}
        self._credentials = {name: one for name, one in self._credentials.items() if id(one) not in kept}
        shared = set(map(id, other._list_accesses()))
        if self._shared is other._shared:
            self._shared = None
        await self._close([each for each in self._list_accesses() if id(each) not in shared])

    def statistics(self) -> IdentityStatistics:
        """Return a snapshot."""
        return IdentityStatistics(
            credentials={name: credential.statistics() for name, credential in self._credentials.items()},
            sources=tuple(source.statistics() for source in self._sources.values()),
            failing=tuple(self.failing()),
            sharing=None if self._shared is None else self._shared.statistics(),
        )

    async def close(self) -> None:
        """End what runs in the background; close sources."""
        await self._close(self._list_accesses())

    def _list_accesses(self) -> list[VaultAccess]:
        return list(dict.fromkeys((self._vaults, *self._accesses.values())))

    async def _close(self, accesses: Sequence[VaultAccess]) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources.values():
            await source.close()
        if self._shared is not None:
            await self._shared.close()
        for access in accesses:
            await access.close()

    def _rotate(self, name: str, proofs: Sequence[Proof]) -> None:
        self._credentials[name].replace_proofs(proofs)
        self._report_dates(name)
        if any(proof.tls is not None for proof in proofs):
            # A token that is bound to the new certificate is of no use before upstreams are shown that one, too.
            asyncio.get_running_loop().call_later(_BOUND_RENEWAL_S, self._renew, name)
        else:
            self._renew(name)

    def take_up_certificates(self) -> None:
        """Use the certificates that have become valid since the last look."""
        for name, credential in self._credentials.items():
            if credential.take_up_certificates():
                logger.warning("credential %s: a certificate has become valid; it is used from now on", name)
                self._renew(name)

    async def _watch_starts(self) -> None:
        while True:
            await asyncio.sleep(_START_LOOK_S)
            self.take_up_certificates()

    def _report_dates(self, name: str) -> None:
        credential = self._credentials[name]
        for problem in credential.date_problems():
            logger.warning("credential %s: %s It is left out.", name, problem)
        if credential.out_of_date() is not None:
            logger.error(
                "credential %s: none of its certificates can be used at present, so its routes are not served; the others are",
                name,
            )

    def _renew(self, name: str) -> None:
        """Renew one token with new proofs at once, so that what is wrong shows while the old one serves."""
        sources = [source for (credential, _), source in self._sources.items() if credential == name]
        for source in sources:
            source.forgive()
        for source in [source for source in sources if source.obtained][:1]:
            source.renew()

    def _wake(self, slept_s: float) -> None:
        for source in self._sources.values():
            source.wake(slept_s)
        self._vaults.machine.wake(slept_s)

    def _expirations(self) -> dict[str, datetime]:
        return {
            f"credential {name}: {proof}": end
            for name, credential in self._credentials.items()
            for proof, end in credential.statistics().expirations.items()
        }


def create_credential(
    name: str,
    settings: CredentialSettings,
    proofs: Sequence[Proof],
    *,
    clock: Callable[[], float] = time.monotonic,
    wall_clock: Callable[[], float] = time.time,
    dialer: Dialer | None = None,
) -> Credential:
    """Return one credential, ready to request tokens.

    Raises:
        ConfigurationError: the token endpoint's CA file cannot be read or used.
    """
    return Credential(
        name,
        client_id=settings.client_id or "",  # Only `managed_identity` leaves it out, which is no `Credential`.
        endpoint=TokenEndpoint(token_url(settings), ca_file=settings.ca_file, wall_clock=wall_clock, dialer=dialer),
        proofs=proofs,
        resource_url=resource_url(settings),
        audience=settings.assertion_audience,
        parameters={key: value.reveal() for key, value in settings.token_parameters.items()},
        capabilities=settings.client_capabilities,
        clock=clock,
        wall_clock=wall_clock,
    )


def token_url(settings: CredentialSettings) -> str:
    """Return where a credential's requests for a scope go."""
    return settings.token_endpoint or f"{_tenant_url(settings)}/oauth2/v2.0/token"


def resource_url(settings: CredentialSettings) -> str:
    """Return where a credential's requests for a resource go: Entra ID has a v1 endpoint for them."""
    return settings.token_endpoint or f"{_tenant_url(settings)}/oauth2/token"


def _tenant_url(settings: CredentialSettings) -> str:
    authority = settings.authority or AUTHORITIES[settings.cloud.value]
    return f"{authority.rstrip('/')}/{settings.tenant_id}"


def _keep(pauses: dict[_Key, Pause], earlier: Mapping[_Key, Pause]) -> None:
    """Put the pauses in force in place of new ones, so that sources old and new share them."""
    pauses.update({key: earlier[key] for key in pauses.keys() & earlier.keys()})


async def _try_once(source: TokenSource) -> None:
    with contextlib.suppress(IdentityError):  # It has been logged, and the source goes on trying.
        await source.acquire()
