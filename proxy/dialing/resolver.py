"""Finds the addresses of names, so that a name that does not answer delays only those who asked for it. Does I/O.

Invariants: look-ups of one name are shared; the number of those under way is bounded, whatever clients ask for, and a name that
was found once is not subject to that bound; an address is never looked up. Answers are kept for as long as they say. Behind that
they are stale (RFC 8767): used only while, or because, there is no newer one, and for a day at most.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from proxy.dialing.descriptors import find_exhaustion
from proxy.dialing.lookup import Outcome, choose_dns_lookup, choose_lookup
from proxy.errors import NameTimeout, Overloaded, UpstreamUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable

from proxy.dialing.lookup import Answer, Lookup

# RFC 8767 §5: one to three days.
_STALE_S: Final = 86_400.0
# RFC 8767 §5: how long a failure to get a newer answer is remembered.
_RECHECK_S: Final = 30.0
# How long a request waits for a newer answer than a stale one. RFC 8767 §5 allows resolvers 1.8 s; we are no resolver of others.
_PATIENCE_S: Final = 0.5
_NAMES_KEPT: Final = 1_024


class Attempt:
    """How far the opening of a connection has come, for whoever has to say what took so long.

    Attributes:
        name: what is being looked up now, or was when the attempt was given up; empty otherwise.
        name_wait: when the wait for a name began, in monotonic seconds, and how long it took; None where there was none.
    """

    __slots__ = ("name", "name_wait")

    def __init__(self) -> None:
        self.name = ""
        self.name_wait: tuple[float, float] | None = None


class _Entry:
    """What is known of a name.

    Attributes:
        addresses: of the newest answer.
        fresh_until: monotonic seconds.
        used_as_is_until: until when nobody waits for a newer answer.
    """

    __slots__ = ("addresses", "fresh_until", "used_as_is_until")

    def __init__(self, answer: Answer, now: float) -> None:
        self.addresses = answer.addresses
        self.fresh_until = now + answer.ttl_s
        self.used_as_is_until = self.fresh_until + min(answer.ttl_s, _RECHECK_S)


class Resolver:
    """All look-ups of one process.

    Args:
        lookup: how a name is looked up; default: as suits this machine, found out at the first look-up.
        clock: monotonic seconds.
        choose: finds that out.

    Attributes:
        outcomes: how many look-ups ended how, by `Outcome`; and those that were not begun: ``refused``.
    """

    def __init__(
        self,
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
        choose: Callable[[], Lookup] = choose_lookup,
    ) -> None:
        self.outcomes: dict[str, int] = {}
        self._lookup = lookup
        self._clock = clock
        self._choose = choose
        self._dns_only: Resolver | None = None
        self._known: OrderedDict[str, _Entry] = OrderedDict()
        self._flights: dict[str, asyncio.Task[Answer]] = {}

    @property
    def pending(self) -> int:
        """How many look-ups are under way, with those that nobody waits for any more."""
        return len(self._flights) + (self._dns_only.pending if self._dns_only is not None else 0)

    @property
    def dns_only(self) -> Resolver:
        """What asks name servers alone, never the hosts file, and counts its look-ups among these."""
        if self._dns_only is None:
            self._dns_only = Resolver(clock=self._clock, choose=choose_dns_lookup)
            self._dns_only.outcomes = self.outcomes
        return self._dns_only

    async def resolve(self, host: str, attempt: Attempt | None = None) -> tuple[str, ...]:
        """Return the addresses of a name, the preferred one first; of an address, itself.

        Args:
            host: a DNS name in A-label form, or an IP address.
            attempt: takes note of the wait.

        Raises:
            UpstreamUnreachable: there is no such name, or the look-up failed.
            NameTimeout: no name server answered.
            Overloaded: too many names are being looked up, or no file descriptor is left.
        """
        if is_address(host):
            return (host,)
        name = host.lower()
        entry, now = self._known.get(name), self._clock()
        if entry is not None:
            self._known.move_to_end(name)
            if now < entry.fresh_until:
                return entry.addresses
            if now < entry.used_as_is_until:
                self._fly(name)
                return entry.addresses
            if now >= entry.fresh_until + _STALE_S:
                del self._known[name]
                entry = None
        if attempt is None:
            attempt = Attempt()
        attempt.name, begun = host, time.monotonic()
        try:
            addresses = await self._wait(name, entry)
            attempt.name = ""
        finally:
            attempt.name_wait = (begun, time.monotonic() - begun)
        return addresses

    def forget(self, host: str) -> None:
        """Drop what is known of a name: nothing answers at its addresses."""
        self._known.pop(host.lower(), None)

    async def _wait(self, name: str, stale: _Entry | None) -> tuple[str, ...]:
        flight = self._fly(name)
        if stale is not None:
            await asyncio.wait((flight,), timeout=_PATIENCE_S)
            if not flight.done() or flight.result().outcome in (Outcome.TIMED_OUT, Outcome.FAILED):
                stale.used_as_is_until = self._clock() + _RECHECK_S
                return stale.addresses
        answer = await asyncio.shield(flight)
        if answer.outcome is Outcome.FOUND:
            return answer.addresses
        if answer.outcome is not Outcome.NOT_FOUND and (exhausted := find_exhaustion()) is not None:
            raise exhausted
        if answer.outcome is Outcome.TIMED_OUT:
            raise NameTimeout(
                f"The name {name} did not resolve: no name server of this machine answered. {NAME_ADVICE}",
                code="name_timeout",
            )
        why = "" if answer.outcome is Outcome.NOT_FOUND else ": this machine's name servers failed to answer"
        raise UpstreamUnreachable(
            f"The name {name} does not resolve{why}. Check its spelling and this machine's DNS.",
            code="name_not_resolved",
        )

    def _fly(self, name: str) -> asyncio.Task[Answer]:
        """Return the look-up of a name that is under way, or begin one."""
        flight = self._flights.get(name)
        if flight is None or flight.get_loop() is not asyncio.get_running_loop():
            if self._lookup is None:
                self._lookup = self._choose()
            if name not in self._known and len(self._flights) >= self._lookup.limit:
                self._add("refused")
                raise Overloaded(
                    f"{len(self._flights)} names are being looked up, and no name server answers. {NAME_ADVICE}",
                    retry_after_s=5,
                    code="name_lookups_exhausted",
                )
            flight = asyncio.get_running_loop().create_task(self._look_up(name, self._lookup), name="name look-up")
            self._flights[name] = flight
        return flight

    async def _look_up(self, name: str, lookup: Lookup) -> Answer:
        try:
            answer = await lookup.start(name)
        finally:
            self._flights.pop(name, None)
        self._add(answer.outcome.value)
        if answer.outcome is Outcome.FOUND:
            self._known[name] = _Entry(answer, self._clock())
            if len(self._known) > _NAMES_KEPT:
                self._known.popitem(last=False)
        elif answer.outcome is Outcome.NOT_FOUND:
            self._known.pop(name, None)
        elif (entry := self._known.get(name)) is not None:
            entry.used_as_is_until = self._clock() + _RECHECK_S
        return answer

    def _add(self, ended: str) -> None:
        self.outcomes[ended] = self.outcomes.get(ended, 0) + 1


NAME_ADVICE: Final = (
    "Check this machine's DNS (/etc/resolv.conf). A route's `dial` can name an address, which needs no name server."
)


def describe_name_timeout(attempt: Attempt, limit_s: float, key: str = "") -> NameTimeout | None:
    """Return the error for an attempt that was given up while it waited for a name; None where it waited for something else."""
    if not attempt.name:
        return None
    within = f"{limit_s:g} s ({key})" if key else f"{limit_s:g} s"
    return NameTimeout(f"The name {attempt.name} did not resolve within {within}. {NAME_ADVICE}", code="name_timeout")


def is_address(host: str) -> bool:
    """Return whether a host is an IP address, which is not looked up."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
