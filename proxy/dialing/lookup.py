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
        """Have c-ares read the system's configuration again once it has changed."""
        self._asked += 1
        if self._configuration.changed() or self._asked > _ANSWERS_KEPT:
            self._asked = 0
            self._channel.reinit()


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


def _read_answer(found: pycares.AddrInfoResult | None, number: int | None) -> Answer:
    from pycares import errno  # noqa: PLC0415  # as above

    if found is not None and number is None:
        addresses = tuple(dict.fromkeys(node.addr[0].decode("ascii") for node in found.nodes))
        ttls = [*(node.ttl for node in found.nodes), *(cname.ttl for cname in found.cnames)]
        if addresses:  # as long as the shortest-lived record on the way to them (RFC 2181 §5.2)
            return Answer(Outcome.FOUND, addresses, float(max(0, min(ttls))))
    if number == errno.ARES_ETIMEOUT:
        return Answer(Outcome.TIMED_OUT)
    if number in (None, errno.ARES_ENOTFOUND, errno.ARES_ENODATA, errno.ARES_EBADNAME):
        return Answer(Outcome.NOT_FOUND)
    return Answer(Outcome.FAILED)


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
