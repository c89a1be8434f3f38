"""TLS server contexts in a relay process: made of leaf certificates that control minted. Does I/O through its channel."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from proxy.interception.contexts import create_server_context
from proxy.workers.messages import Leaf, WantLeaf

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.workers.messages import Message

# A leaf lives for seven days; see `proxy.interception.leaf`.
_RENEW_AFTER_S: Final = 3 * 86_400
_REMEMBERED: Final = 1_024


class RemoteContexts:
    """The contexts of one relay process.

    Args:
        send: sends a message to control.
        leaves: by host, as PEM with chain and key: what control sent along at the start.
    """

    def __init__(self, send: Callable[[Message], None], leaves: dict[str, str]) -> None:
        self._send = send
        self._contexts: dict[str, tuple[ssl.SSLContext, float]] = {}
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        for host, pem in leaves.items():
            self._keep(host, pem)

    def replace(self, leaves: dict[str, str]) -> None:
        """Goes over to other leaves; connections that have their context keep it."""
        self._contexts.clear()
        for host, pem in leaves.items():
            self._keep(host, pem)

    def context_for(self, host: str) -> ssl.SSLContext | None:
        """Returns the context for a host; None while its leaf is still to be fetched."""
        found = self._contexts.get(host)
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
            self._keep(message.host, message.pem)
        for on_arrival in self._waiting.pop(message.host, []):
            on_arrival()

    def _keep(self, host: str, pem: str) -> None:
        if len(self._contexts) >= _REMEMBERED:
            self._contexts.pop(next(iter(self._contexts)))
        self._contexts[host] = (create_server_context(pem.encode("ascii")), time.monotonic() + _RENEW_AFTER_S)
