"""TLS server contexts in a relay process: made of leaf certificates that control minted. Does I/O through its channel."""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, TypeAlias

from proxy.interception.contexts import create_server_context
from proxy.interception.names import wildcard_over
from proxy.workers.messages import Leaf, WantLeaf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.workers.messages import Message

# A leaf lives for seven days; see `proxy.interception.leaf`.
_RENEW_AFTER_S: Final = 3 * 86_400
_REMEMBERED: Final = 1_024

_Kept: TypeAlias = "tuple[ssl.SSLContext, float]"


class RemoteContexts:
    """The contexts of one relay process.

    Args:
        send: sends a message to control.
        leaves: by host, as PEM with chain and key: what control sent along at the start.
    """

    def __init__(self, send: Callable[[Message], None], leaves: dict[str, str]) -> None:
        self._send = send
        self._ahead: dict[str, _Kept] = {}
        self._fetched: OrderedDict[str, _Kept] = OrderedDict()
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self.replace(leaves)

    def replace(self, leaves: dict[str, str]) -> None:
        """Goes over to other leaves; connections that have their context keep it."""
        self._ahead = {host: _keep(pem) for host, pem in leaves.items()}
        self._fetched.clear()

    def context_for(self, host: str) -> ssl.SSLContext | None:
        """Returns the context for a host; None while its leaf is still to be fetched."""
        found = self._ahead.get(host) or self._fetched.get(host)
        if found is None:
            # One with a wildcard was fetched for a sibling: control gives none but for what is below a wildcard route.
            wildcard = wildcard_over(host, (host.partition(".")[2],))
            found = None if wildcard is None else self._fetched.get(wildcard)
        if found is None:
            return None
        context, renew_at = found
        if time.monotonic() > renew_at:
            self.fetch(host, lambda: None)
        return context

    def fetch(self, host: str, on_arrival: Callable[[], None]) -> None:
        """Asks control for a host's leaf.

        Args:
            host: in canonical form.
            on_arrival: called when it is there, or when there will be none.
        """
        waiting = self._waiting.setdefault(host, [])
        waiting.append(on_arrival)
        if len(waiting) == 1:
            self._send(WantLeaf(host=host))

    def take(self, message: Leaf) -> None:
        """Takes what control answered."""
        if message.pem is not None:
            if message.name in self._ahead:
                self._ahead[message.name] = _keep(message.pem)
            else:
                self._fetched[message.name] = _keep(message.pem)
                if len(self._fetched) > _REMEMBERED:
                    self._fetched.popitem(last=False)
        for on_arrival in self._waiting.pop(message.host, []):
            on_arrival()


def _keep(pem: str) -> _Kept:
    return create_server_context(pem.encode("ascii")), time.monotonic() + _RENEW_AFTER_S
