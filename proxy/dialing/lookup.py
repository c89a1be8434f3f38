"""Two ways to look a name up, neither of which blocks the event loop: c-ares, and the system's own resolver in threads. Does I/O.

docs/adr/0012-names.md says which of them is used where, and why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import threading
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from proxy.dialing.system_files import WatchedFile, find_in_hosts, list_sources

if TYPE_CHECKING:
    import pycares

logger = logging.getLogger("proxy.dialing")

_HOSTS: Final = Path("/etc/hosts")
_RESOLV_CONF: Final = Path("/etc/resolv.conf")
_NSSWITCH_CONF: Final = Path("/etc/nsswitch.conf")
# A name server that stays silent costs a look-up of c-ares about 12 s and a few hundred bytes; one of the system's costs a thread.
_CARES_LIMIT: Final = 1_024
_THREADS: Final = 64
# c-ares remembers answers for as long as their TTL says, without a bound in number; it forgets them when it starts anew.
_ANSWERS_KEPT: Final = 4_096
# What c-ares does as the system would. `myhostname` knows this machine's own name; nobody's upstream is reached by that.
_CARES_SOURCES: Final = frozenset({"files", "dns", "myhostname"})


class Outcome(Enum):
    """How a look-up ended."""

    FOUND = "found"
    NOT_FOUND = "not_found"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


class Answer(NamedTuple):
    """What a look-up gave.

    Attributes:
        outcome: how it ended.
        addresses: the preferred one first; empty unless found.
        ttl_s: for how long they hold; 0 where that is not known, or where nothing has to be asked over a network.
    """

    outcome: Outcome
    addresses: tuple[str, ...] = ()
    ttl_s: float = 0.0


class Lookup(Protocol):
    """A way to look names up.

    Attributes:
        limit: how many names it may look up at a time.
    """

    limit: int

    def start(self, name: str) -> asyncio.Future[Answer]:
        """Begin to look a name up. The future always gets an answer in the end."""
        ...


class CaresLookup:
    """Looks into the hosts file, then asks name servers by c-ares, whose queries wait in one thread, however many there are.

    Args:
        has_hosts: whether the hosts file counts on this system.

    Raises:
        OSError: c-ares cannot be started.
    """

    limit = _CARES_LIMIT

    def __init__(self, *, has_hosts: bool = True) -> None:
        import pycares  # noqa: PLC0415  # half of the commands dial nobody

        self._error = pycares.AresError
        try:
            self._channel = pycares.Channel()
        except pycares.AresError as error:
            raise OSError("c-ares cannot be started") from error
        self._hosts = WatchedFile(_HOSTS) if has_hosts else None
        self._configuration = WatchedFile(_RESOLV_CONF)
        self._asked = 0

    def start(self, name: str) -> asyncio.Future[Answer]:
        """See `Lookup`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if self._hosts is not None:
            self._hosts.changed()
            found = find_in_hosts(self._hosts.text, name)
            if found:
                future.set_result(Answer(Outcome.FOUND, found))
                return future
        self._begin_anew_if_due()

        def settle(found: pycares.AddrInfoResult | None, number: int | None) -> None:  # in the thread of c-ares
            _tell(loop, future, _read_answer(found, number))

        try:
            self._channel.getaddrinfo(name, None, type=socket.SOCK_STREAM, callback=settle)
        except self._error:
            _settle(future, Answer(Outcome.FAILED))
        return future

    def _begin_anew_if_due(self) -> None:
        """Have c-ares read the system's configuration again once it has changed, and forget what it remembers."""
        self._asked += 1
        if self._configuration.changed() or self._asked > _ANSWERS_KEPT:
            self._asked = 0
            self._channel.reinit()


class DnsLookup(CaresLookup):
    """Asks name servers by c-ares, and never the hosts file, which c-ares would read by itself for all but single queries.

    Names below ``localhost`` are this machine's own and asked of nobody (RFC 6761 §6.3).

    Raises:
        OSError: c-ares cannot be started.
    """

    def __init__(self) -> None:
        super().__init__(has_hosts=False)

    def start(self, name: str) -> asyncio.Future[Answer]:
        """See `Lookup`."""
        from pycares import QUERY_TYPE_A, QUERY_TYPE_AAAA  # noqa: PLC0415  # as above

        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        if name == "localhost" or name.endswith(".localhost"):
            future.set_result(Answer(Outcome.FOUND, ("::1", "127.0.0.1")))
            return future
        self._begin_anew_if_due()
        # In the order in which they are tried: IPv6 first (RFC 8305 §4).
        answers: dict[int, Answer | None] = {QUERY_TYPE_AAAA: None, QUERY_TYPE_A: None}

        def ask(kind: int) -> None:
            def settle(found: pycares.DNSResult | None, number: int | None) -> None:  # in the thread of c-ares
                with contextlib.suppress(RuntimeError):  # the loop has been closed
                    loop.call_soon_threadsafe(note, kind, _read_records(found, number, kind))

            try:
                self._channel.search(name, kind, callback=settle)
            except self._error:
                loop.call_soon(note, kind, Answer(Outcome.FAILED))

        def note(kind: int, answer: Answer) -> None:
            answers[kind] = answer
            both = [one for one in answers.values() if one is not None]
            if len(both) == len(answers):
                _settle(future, _join(both))

        for kind in answers:
            ask(kind)
        return future


class SystemLookup:
    """Asks the system's resolver, each time in a thread of its own; daemons, for nothing can end one that hangs."""

    limit = _THREADS

    def start(self, name: str) -> asyncio.Future[Answer]:
        """See `Lookup`."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()

        def work() -> None:
            _tell(loop, future, _ask_system(name))

        try:
            threading.Thread(target=work, name="name look-up", daemon=True).start()
        except RuntimeError:  # no thread is to be had
            future.set_result(Answer(Outcome.FAILED))
        return future


def choose_lookup() -> Lookup:
    """Return c-ares where it finds what the system's resolver would find, else that resolver."""
    if sys.platform == "linux":
        sources = list_sources(WatchedFile(_NSSWITCH_CONF).text, WatchedFile(_RESOLV_CONF).text)
        with_hosts = sources[:1] == ["files"]
        if set(sources) <= _CARES_SOURCES and "dns" in sources and (with_hosts or "files" not in sources):
            try:
                return CaresLookup(has_hosts=with_hosts)
            except ImportError:
                pass  # pycares has no wheel for this machine
            except OSError:
                logger.warning("c-ares cannot be used, so names are looked up in up to %d threads", _THREADS)
    return SystemLookup()


def choose_dns_lookup() -> Lookup:
    """Return what asks name servers alone; where c-ares is not to be had, the system's resolver, which has its own ways."""
    try:
        return DnsLookup()
    except ImportError:
        pass  # as above; macOS and Windows have none
    except OSError:
        logger.warning(
            "c-ares cannot be used, so the names in `dial` are looked up as the system does, in the hosts file, too"
        )
    return SystemLookup()


def find_in_hosts_file(name: str) -> tuple[str, ...]:
    """Return what this machine's hosts file says of a name, for a message about it."""
    return find_in_hosts(WatchedFile(_HOSTS).text, name.lower())


def _read_answer(found: pycares.AddrInfoResult | None, number: int | None) -> Answer:
    if found is not None and number is None:
        addresses = tuple(dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes))
        ttls = [*(node.ttl for node in found.nodes), *(cname.ttl for cname in found.cnames)]
        if addresses:  # as long as the shortest-lived record on the way to them (RFC 2181 §5.2)
            return Answer(Outcome.FOUND, addresses, float(max(0, min(ttls))))
    return _read_failure(number)


def _read_records(found: pycares.DNSResult | None, number: int | None, kind: int) -> Answer:
    """Return what one query gave: the records of its kind; the others lead to them."""
    from pycares import AAAARecordData, ARecordData  # noqa: PLC0415  # as above

    if found is not None and number is None:
        data = (record.data for record in found.answer if record.type == kind)
        addresses = tuple(dict.fromkeys(one.addr for one in data if isinstance(one, ARecordData | AAAARecordData)))
        if addresses:  # as above
            return Answer(Outcome.FOUND, addresses, float(max(0, min(record.ttl for record in found.answer))))
    return _read_failure(number)


def _read_failure(number: int | None) -> Answer:
    from pycares import errno  # noqa: PLC0415  # as above

    if number == errno.ARES_ETIMEOUT:
        return Answer(Outcome.TIMED_OUT)
    if number in (None, errno.ARES_ENOTFOUND, errno.ARES_ENODATA, errno.ARES_EBADNAME):
        return Answer(Outcome.NOT_FOUND)
    return Answer(Outcome.FAILED)


def _join(answers: list[Answer]) -> Answer:
    """Return what queries for several kinds of records gave; one that failed matters only where no other found anything."""
    found = [answer for answer in answers if answer.outcome is Outcome.FOUND]
    if found:
        addresses = tuple(address for answer in found for address in answer.addresses)
        return Answer(Outcome.FOUND, addresses, min(answer.ttl_s for answer in found))
    return next((answer for answer in answers if answer.outcome is not Outcome.NOT_FOUND), answers[0])


def _ask_system(name: str) -> Answer:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        # "Try again" is a silent name server's as well as a failing one's.
        return Answer(Outcome.TIMED_OUT if error.errno == socket.EAI_AGAIN else Outcome.NOT_FOUND)
    except (OSError, ValueError):
        return Answer(Outcome.FAILED)
    return Answer(Outcome.FOUND, tuple(dict.fromkeys(str(entry[4][0]) for entry in found)))


def _tell(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Answer], answer: Answer) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed
        loop.call_soon_threadsafe(_settle, future, answer)


def _settle(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)
