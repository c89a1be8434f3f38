"""TLS server contexts in a relay process: made of leaf certificates that control minted. Does I/O through its channel."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.interception.contexts import create_server_context, show_too
from proxy.interception.names import split_hosts, wildcard_over
from proxy.workers.messages import Leaf, WantLeaf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable

    from proxy.workers.messages import Message

# A leaf lives for seven days; see `proxy.interception.leaf`.
_RENEW_AFTER_S: Final = 3 * 86_400
_REMEMBERED: Final = 1_024
# Connections that may wait for leaves at a time; as many as come in the moment that control takes to sign.
_WAITING: Final = 4_096

_Kept: TypeAlias = "tuple[ssl.SSLContext, float]"


class RemoteContexts:
    """The contexts of one relay process.

    Args:
        send: sends a message to control; returns False where control takes no more.
        hosts: the routed hosts.
    """

    def __init__(self, send: Callable[[Message], bool], hosts: Iterable[str]) -> None:
        self._send = send
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._waiting: dict[tuple[str, bool], list[Callable[[], None]]] = {}
        self._waiting_count = 0
        self.use(hosts)

    def use(self, hosts: Iterable[str]) -> None:
        """Goes over to other hosts; connections that have their context keep it."""
        literal, self._apexes = split_hosts(hosts)
        self._literal_hosts = frozenset(literal)
        self.forget()

    def forget(self) -> None:
        """Has every leaf fetched again; connections that have their context keep it."""
        self._kept.clear()

    def context_for(self, host: str) -> ssl.SSLContext | None:
        """Return the context for a host; None while its leaf is still to be fetched."""
        name = host
        found = self._kept.get(host)
        if found is None and host not in self._literal_hosts:
            name = wildcard_over(host, self._apexes) or host
            found = self._kept.get(name)
        if found is None:
            return None
        self._kept.move_to_end(name)
        context, renew_at = found
        if time.monotonic() > renew_at:
            self._want(host, rsa=False)
        return context

    def fetch(self, host: str, on_arrival: Callable[[], None], *, rsa: bool = False) -> None:
        """Asks control for a host's leaf, or for an RSA one to be shown beside it.

        Args:
            host: in canonical form.
            on_arrival: called when it is there, or when there will be none: at once where too many wait already.
            rsa: which of the two; the other has been fetched before.
        """
        if self._waiting_count >= _WAITING or not self._want(host, rsa=rsa):
            on_arrival()
            return
        self._waiting[host, rsa].append(on_arrival)
        self._waiting_count += 1

    def _want(self, host: str, *, rsa: bool) -> bool:
        """Asks control, once until it has answered; returns whether an answer is to come."""
        if (host, rsa) not in self._waiting:
            if len(self._waiting) >= _WAITING or not self._send(WantLeaf(host=host, rsa=rsa)):
                return False
            self._waiting[host, rsa] = []
        return True

    def take(self, message: Leaf) -> None:
        """Take what control answered."""
        if message.pem is not None and message.rsa:
            if message.name in self._kept:
                show_too(self._kept[message.name][0], message.pem.encode("ascii"))
        elif message.pem is not None:
            self._kept[message.name] = _keep(message.pem)
            if len(self._kept) > _REMEMBERED:
                self._kept.popitem(last=False)
        waiting = self._waiting.pop((message.host, message.rsa), [])
        self._waiting_count -= len(waiting)
        for on_arrival in waiting:
            on_arrival()


def _keep(pem: str) -> _Kept:
    return create_server_context(pem.encode("ascii")), time.monotonic() + _RENEW_AFTER_S
