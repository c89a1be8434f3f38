"""The control process: holds every key, obtains the tokens, starts relay processes and replaces those that die. Does I/O."""

from __future__ import annotations

import asyncio
import errno
import functools
import itertools
import logging
import signal
import socket
import time
from collections import OrderedDict, deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import msgspec

from proxy.errors import ConfigurationError
from proxy.identity.credential import Target
from proxy.interception.rsa import RSAKey
from proxy.operations.own_errors import ErrorTally
from proxy.operations.snapshot import WorkerSnapshot, parse_snapshot, sum_snapshots
from proxy.operations.usage import UsageTally
from proxy.tasks import guard, keep_going
from proxy.workers.channel import Channel
from proxy.workers.messages import (
    TO_CONTROL,
    AnnounceEnd,
    Answered,
    Begin,
    CAChanged,
    Drain,
    Failed,
    Figures,
    Leaf,
    Message,
    Rejected,
    Reload,
    SourceKey,
    Stale,
    Started,
    ToControl,
    Token,
    Want,
    WantLeaf,
)
from proxy.workers.template import UNSEEN, Template
from proxy.workers.tokens import ERRORS

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

    from proxy.config.settings import Settings
    from proxy.errors import ProxyError
    from proxy.identity.access_token import AccessToken
    from proxy.identity.source import TokenSource
    from proxy.identity.sources import TokenSources
    from proxy.interception.leaf import Leaf as LeafCertificate
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.usage import Usage
    from proxy.relay.record import ExchangeRecord
    from proxy.workers.template import ForkedProcess

logger = logging.getLogger("proxy.workers")

# How often control looks for a renewed token; a renewal is minutes ahead of the expiry.
_LOOK_S: Final = 0.25
# A relay process that dies at once is started again after this, doubling up to the limit; one that lived is at once.
_RESTART_S: Final = 0.5
_RESTART_LIMIT_S: Final = 30.0
_LIVED_S: Final = 10.0
_START_LIMIT_S: Final = 30.0
# What the page shows.
_RECENT: Final = 200
# Tokens a relay process may still complain about.
_REMEMBERED: Final = 16


class SharedSource:
    """A token source as control shares it: each token with a serial number, by which relay processes speak of it."""

    def __init__(self, source: TokenSource, number: int) -> None:
        self.number = number
        self.source = source
        self._serials = itertools.count()
        self._known: OrderedDict[int, AccessToken] = OrderedDict()
        self._current: AccessToken | None = None
        self.message: Token | None = None

    def look(self, now_mono: float) -> bool:
        """Notices the current token; returns whether it is another than before.

        Where the source has lost it before its end, because it was refused or the machine slept, relay processes are told that it
        has ended: they count by the moments they were given.
        """
        token, current = self.source.look(now_mono), self._current
        if token is None and current is not None and now_mono < current.usable_until_mono:
            token = replace(current, refresh_at_mono=now_mono, expires_at_mono=now_mono, usable_until_mono=now_mono)
        if token is None or token is current:
            return False
        self._take(token)
        return True

    def reject(self, message: Rejected, now_mono: float) -> None:
        """Pass a complaint on to the source."""
        token = self._known.get(message.serial)
        if token is not None:
            self.source.report_refusal(token, now_mono, message.claims, certain=message.certain)

    def _take(self, token: AccessToken) -> None:
        self._current = token
        serial = next(self._serials)
        self._known[serial] = token
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        self.message = Token(
            source=self.number,
            serial=serial,
            value=token.value,
            obtained_at_mono=token.obtained_at_mono,
            refresh_at_mono=token.refresh_at_mono,
            expires_at_mono=token.expires_at_mono,
            usable_until_mono=token.usable_until_mono,
            proof=token.proof,
        )


class RecentExchanges:
    """The newest exchanges of all relay processes, as `proxy.operations.access_log` has them of one."""

    def __init__(self) -> None:
        self._count = 0
        self._recent: deque[ExchangeRecord] = deque(maxlen=_RECENT)
        self._errors = ErrorTally()
        self._usage = UsageTally()

    def add(self, records: Sequence[ExchangeRecord], stands_for: int = 0) -> None:
        """Remember some more: the newest of so many."""
        self._count += len(records)
        self._recent.extend(records)
        self._errors.add(records)
        self._usage.add(records, stands_for)

    def tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        """See `proxy.operations.access_log.AccessLog.tail`."""
        new = min(self._count - after, len(self._recent))
        return self._count, list(self._recent)[-new:] if new > 0 else []

    def errors(self) -> list[ErrorCount]:
        """See `proxy.operations.access_log.AccessLog.errors`."""
        return self._errors.counts()

    def usage(self) -> Usage:
        """See `proxy.operations.access_log.AccessLog.usage`."""
        return self._usage.snapshot()


class RelayProcess:
    """One relay process as control sees it.

    Attributes:
        number: from 0; a replacement has its predecessor's.
        process: the operating system's.
        channel: to it.
        started: set once its listeners are open.
        snapshot: the figures it last sent.
        born_at_mono: when it was started.
    """

    def __init__(self, number: int, on_message: Callable[[RelayProcess, ToControl], None]) -> None:
        self.number = number
        self.channel: Channel[ToControl] = Channel(
            TO_CONTROL, lambda message: on_message(self, message), self._on_closed
        )
        self.started = asyncio.Event()
        self.snapshot = WorkerSnapshot()
        self.born_at_mono = time.monotonic()
        self.process: ForkedProcess | None = None

    async def start(self, template: Template) -> None:
        """Start the process, with one end of a socket pair and nothing else of ours.

        Raises:
            OSError: the system lets us have no socket or no process; nothing is left of the attempt.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = await template.fork(theirs)
            ours.setblocking(False)
            await self.channel.open(ours)
        except BaseException:
            ours.close()
            self.kill()
            raise

    def send(self, message: Message) -> None:
        """Send a message; a process that has stopped reading is ended, and another takes its place."""
        if not self.channel.send(message) and self.process is not None and self.process.returncode is None:
            logger.error("relay process %d reads nothing any more; it is ended", self.number)
            self.kill()

    @property
    def is_serving(self) -> bool:
        """Whether its listeners are open, and it has not ended."""
        return self.started.is_set() and self.process is not None and self.process.returncode is None

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.kill()

    def _on_closed(self) -> None:
        if self.process is not None:
            self.process.fall_silent()


class Control:
    """All relay processes of a proxy.

    Args:
        settings: what they serve.
        tokens: the sources they draw on.
        mint: returns a leaf certificate for a host, with a key where one is given; raises `ConfigurationError` for other hosts.

    Attributes:
        recent: the newest exchanges of all of them.
        is_draining: whether they are to end.
        restarts: how many ended without being asked to.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: TokenSources,
        mint: Callable[[str, RSAPrivateKey | None], LeafCertificate],
    ) -> None:
        self._settings = settings
        self._ports: tuple[int, ...] = ()
        self._mint = mint
        self._template = Template()
        self._processes: dict[int, RelayProcess] = {}
        self._retired = WorkerSnapshot()
        self.recent = RecentExchanges()
        self.is_draining = False
        self.restarts = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count()
        # Those of the configuration in use, and of the one before: relay processes may not have come to the last reload yet.
        self._sources: dict[int, SharedSource] = {}
        self._keys: tuple[SourceKey, ...] = ()
        self._rsa_key = RSAKey()
        self._take_sources(settings, tokens)

    async def start(self, settings: Settings, ports: Sequence[int]) -> None:
        """Start all relay processes and wait until their listeners are open.

        Args:
            settings: what they serve, with the ports that this process's own listeners have got.
            ports: the port of each of their listeners, which they share.

        Raises:
            ConfigurationError: one of them did not get that far.
        """
        self._settings, self._ports = settings, tuple(ports)
        self._spawn(keep_going(self._look_for_tokens, "looking for renewed tokens"))
        for number in range(self._settings.workers):
            self._spawn(
                keep_going(functools.partial(self._keep_running, number), f"keeping relay process {number} running")
            )
        give_up_at = time.monotonic() + _START_LIMIT_S
        while not self._all_started():
            if time.monotonic() > give_up_at:
                raise ConfigurationError(
                    f"The relay processes did not start within {_START_LIMIT_S:g} s; what they say stands above."
                )
            await asyncio.sleep(0.02)  # once, at start

    def reload(
        self,
        settings: Settings,
        tokens: TokenSources,
        mint: Callable[[str, RSAPrivateKey | None], LeafCertificate],
    ) -> None:
        """Lets every relay process go over to another configuration with the same listeners.

        Args:
            settings: what they serve from now on.
            tokens: as for a new object.
            mint: as for a new object.
        """
        self._settings, self._mint = settings, mint
        self._take_sources(settings, tokens)
        begin = self._begin(0)
        message = Reload(settings=begin.settings, sources=begin.sources)
        for process in self._processes.values():
            process.send(message)
        for source in self._sources.values():
            self._share(source)

    def use_ca(self, mint: Callable[[str, RSAPrivateKey | None], LeafCertificate]) -> None:
        """Lets every relay process show leaves of another CA from now on.

        Args:
            mint: as for a new object, for the same hosts.
        """
        self._mint = mint
        for process in self._processes.values():
            process.send(CAChanged())

    def announce_end(self) -> None:
        """Has every relay process tell clients that their connections end."""
        for process in self._processes.values():
            process.send(AnnounceEnd())

    async def drain(self) -> None:
        """Lets every relay process finish, and waits for its end."""
        self.is_draining = True
        ends = []
        for process in self._processes.values():
            process.send(Drain())
            if process.process is not None:
                ends.append(asyncio.create_task(process.process.wait()))
        if ends:
            _, late = await asyncio.wait(ends, timeout=self._settings.timeouts.drain_s + 5)
            if late:
                self.kill()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._template.close()

    def kill(self) -> None:
        """End every relay process at once; no other takes its place."""
        self.is_draining = True  # a second signal may come before the drain has begun
        for process in self._processes.values():
            process.kill()

    @property
    def is_serving(self) -> bool:
        """Whether any relay process takes connections."""
        return any(process.is_serving for process in self._processes.values())

    def snapshots(self) -> list[WorkerSnapshot]:
        """Return what each relay process has counted; what those that have ended had is the first one's."""
        first, *others = [process.snapshot for process in self._processes.values()] or [WorkerSnapshot()]
        return [sum_snapshots((self._retired, first)), *others]

    def _all_started(self) -> bool:
        ready = [process for process in self._processes.values() if process.started.is_set()]
        return len(ready) == self._settings.workers

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep_running(self, number: int) -> None:
        delay_s = _RESTART_S
        while True:
            process = self._processes[number] = RelayProcess(number, self._on_message)
            status = None if self.is_draining else await self._run(process, delay_s)
            if self.is_draining:
                return
            lived = status is not None and time.monotonic() - process.born_at_mono > _LIVED_S
            if status is not None:
                self.restarts += 1
                logger.error("relay process %d %s; another takes its place", number, _describe_end(status))
            await asyncio.sleep(0.0 if lived else delay_s)
            delay_s = _RESTART_S if lived else min(delay_s * 2, _RESTART_LIMIT_S)

    async def _run(self, process: RelayProcess, delay_s: float) -> int | None:
        """Run a relay process to its end and return its status; None where it could not be started."""
        try:
            await process.start(self._template)
        except OSError as error:
            logger.error(  # noqa: TRY400  # the reason in our words says it all
                "relay process %d could not be started: %s. It is tried again in %g s.",
                process.number,
                _describe_start(error.errno),
                delay_s,
            )
        if process.process is None:
            return None
        try:
            process.send(self._begin(process.number))
            for source in self._sources.values():
                if source.message is not None:
                    process.send(source.message)
            status = await process.process.wait()
        finally:
            process.kill()
            process.channel.close()
        self._retired = sum_snapshots((self._retired, process.snapshot.retired()))
        process.snapshot = WorkerSnapshot()
        return status

    def _take_sources(self, settings: Settings, tokens: TokenSources) -> None:
        """Give each source of a configuration its number, and forget those that have not been in use since the last reload."""
        before = {key.number: self._sources[key.number] for key in self._keys}
        numbers = {id(shared.source): number for number, shared in before.items()}
        self._sources, keys = before, []
        for credential, scope, resource in dict.fromkeys(
            (route.credential, route.scope, route.resource) for route in settings.routes
        ):
            source = tokens.source_for(credential, target_of(scope, resource))
            number = numbers.get(id(source))
            if number is None:
                number = next(self._numbers)
                self._sources[number] = SharedSource(source, number)
            keys.append(SourceKey(number=number, credential=credential, scope=scope, resource=resource))
        self._keys = tuple(keys)

    def _begin(self, number: int) -> Begin:
        return Begin(
            settings=describe_settings(self._settings),
            ports=self._ports,
            number=number,
            sources=self._keys,
        )

    async def _look_for_tokens(self) -> None:
        while True:
            for source in self._sources.values():
                self._share(source)
            await asyncio.sleep(_LOOK_S)

    def _share(self, source: SharedSource) -> None:
        if source.look(time.monotonic()) and source.message is not None:
            for process in self._processes.values():
                process.send(source.message)

    def _on_message(self, process: RelayProcess, message: ToControl) -> None:
        match message:
            case Started():
                process.started.set()
            case Figures():
                before = process.snapshot.access_log.observed
                process.snapshot = parse_snapshot(message.snapshot.encode())
                self.recent.add(message.records, process.snapshot.access_log.observed - before)
            case Want() if message.source in self._sources:
                self._spawn(self._give_token(process, self._sources[message.source], message.request))
            case Want():
                process.send(Answered(request=message.request))  # two reloads ago there was such a source
            case Stale() if message.source in self._sources:
                self._sources[message.source].source.peek(time.monotonic())
                self._share(self._sources[message.source])
            case Rejected() if message.source in self._sources:
                self._sources[message.source].reject(message, time.monotonic())
            case WantLeaf(rsa=True):
                self._spawn(self._give_rsa_leaf(process, message))
            case WantLeaf():
                self._give_leaf(process, message)

    async def _give_token(self, process: RelayProcess, source: SharedSource, request: int) -> None:
        """Answer in any case: a relay process asks once, and until then all its requests for that token wait."""

        async def give() -> None:
            await source.source.acquire()
            self._share(source)
            if source.message is not None:
                process.send(source.message)
            process.send(Answered(request=request))

        def fail(error: ProxyError) -> None:
            failed = Failed(
                request=request,
                error=next(kind.__name__ for kind in type(error).__mro__ if kind.__name__ in ERRORS),
                detail=error.detail,
                code=error.code,
                retry_after_s=error.retry_after_s,
            )
            process.send(failed)

        await guard(give, fail, "giving a token to a relay process")

    async def _give_rsa_leaf(self, process: RelayProcess, message: WantLeaf) -> None:
        """Answer in any case, as `_give_token` does."""

        async def give() -> None:
            self._give_leaf(process, message, await self._rsa_key.get())

        def fail(_error: ProxyError) -> None:
            process.send(Leaf(host=message.host, name=message.host, rsa=True, pem=None))

        await guard(give, fail, "making an RSA certificate")

    def _give_leaf(self, process: RelayProcess, message: WantLeaf, key: RSAPrivateKey | None = None) -> None:
        try:
            leaf = self._mint(message.host, key)
        except ConfigurationError:
            process.send(Leaf(host=message.host, name=message.host, rsa=message.rsa, pem=None))
        else:
            pem = leaf.pem().decode("ascii")
            process.send(Leaf(host=message.host, name=leaf.name, rsa=message.rsa, pem=pem))


def _describe_end(status: int) -> str:
    """Say how a process ended: its exit status, or the negative number of a signal."""
    if status == UNSEEN:
        return "ended"
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"


def _describe_start(number: int | None) -> str:
    """Says why the system gave us no process, and what to do."""
    if number == errno.EMFILE:
        return "this process has no file descriptor left; raise its limit (LimitNOFILE, ulimit -n)"
    if number == errno.ENFILE:
        return "the system has no file descriptor left (fs.file-max)"
    if number == errno.EAGAIN:
        return "no more processes may be started; raise the limit of this user or container (ulimit -u, pids.max)"
    if number in (errno.ECHILD, errno.EPIPE, errno.ECONNRESET):
        return "the process that they are forked from has ended"
    if number == errno.ENOMEM:
        return "there is no memory for it"
    return f"the system refused it ({errno.errorcode.get(number or 0, 'no reason given')})"


def target_of(scope: str | None, resource: str | None) -> Target:
    """Return what a route asks tokens for."""
    return Target(scope=scope, resource=resource)


def check_sendable(settings: Settings) -> None:
    """Raise unless relay processes can be told of the settings.

    Raises:
        ConfigurationError: a path in them is no text.
    """
    try:
        msgspec.json.encode(describe_settings(settings))
    except UnicodeEncodeError:
        raise ConfigurationError(
            "A path that the configuration names, or the directory it is in, has bytes that are not UTF-8. Relay processes "
            "cannot be told of it: rename the file or directory, or use `workers: 1`."
        ) from None


def describe_settings(settings: Settings) -> dict[str, object]:
    """Return the settings as JSON values, for a relay process.

    With the secrets it needs and no others: the fields it sets, the hashes it checks, what it says to the upstream proxy.
    """
    described: dict[str, object] = msgspec.to_builtins(settings, enc_hook=str)
    described["routes"] = [
        {
            **msgspec.to_builtins(route, enc_hook=str),
            "set_headers": {name: value.reveal() for name, value in route.set_headers.items()},
        }
        for route in settings.routes
    ]
    described["clients"] = [
        {
            **msgspec.to_builtins(client, enc_hook=str),
            "password_hash": None if client.password_hash is None else client.password_hash.reveal(),
        }
        for client in settings.clients
    ]
    upstream_proxy = settings.upstream_proxy
    described["upstream_proxy"] = {
        **msgspec.to_builtins(upstream_proxy, enc_hook=str),
        **{
            key: None if url is None else url.reveal()
            for key, url in (("url", upstream_proxy.url), ("plain_http_url", upstream_proxy.plain_http_url))
        },
    }
    return described
