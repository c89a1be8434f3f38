"""Who sends a request, and whether that client may: its routes, its rate, its number of exchanges. Does no I/O itself.

Where no clients are configured and nothing but the number of connections is limited there is no `Admission`, and a request
costs nothing here.
"""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Protocol

from proxy.errors import ClientRefused, ProxyAuthenticationRequired, ProxyError
from proxy.policy.access import Client, PasswordClaim, place, recognise
from proxy.relay.known_client import KnownClient, Usage
from proxy.relay.sides import UnderWay
from proxy.tasks import guard

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.relay.accepted_connection import AcceptedConnection
    from proxy.relay.message import RequestHead
    from proxy.relay.passwords import PasswordChecker


class Admission(Usage):
    """The configured clients, and what they are using.

    Args:
        clients: the entries, in order; none: everyone is let in, and only the number of exchanges is limited.
        concurrent_exchanges: in total; None: any number.
        passwords: survives a new configuration, so that nobody has to be checked again.
    """

    def __init__(self, clients: Sequence[Client], concurrent_exchanges: int | None, passwords: PasswordChecker) -> None:
        now = time.monotonic()
        super().__init__(concurrent_exchanges)
        self.passwords = passwords
        self._clients = clients
        self._known = {client.name: KnownClient(self, client, now) for client in clients}
        self._anyone = None if clients else KnownClient(self, Client(""), now)

    def identify(self, accepted: AcceptedConnection, authorization: bytes | None) -> KnownClient | PasswordClaim:
        """Says who sends a request, or who it would be if the password were right.

        Args:
            accepted: the connection.
            authorization: the value of Proxy-Authorization; None without one.

        Raises:
            ClientRefused: nobody who may.
            ProxyAuthenticationRequired: nobody yet.
        """
        if self._anyone is not None:
            return self._anyone
        if accepted.known is not None:
            known = accepted.known = self._current(accepted, accepted.known)
            return known
        if accepted.admission is not self:
            peer = accepted.peer
            accepted.candidates = [client for client in self._clients if client.fits(peer)]
            accepted.admission = self
        found = recognise(accepted.candidates, authorization)
        if isinstance(found, Client):
            return self._known[found.name]
        if found.client is not None and self.passwords.is_known(found):
            return self._known[found.client.name]
        return found

    async def verify(self, accepted: AcceptedConnection, claim: PasswordClaim) -> KnownClient:
        """Check a password.

        Raises:
            ProxyAuthenticationRequired: it is wrong, or the name is.
            TooManyRequests: there were too many wrong ones from there, or there are too many to check.
        """
        await self.passwords.verify(claim, place(accepted.address))
        known = None if claim.client is None else self._known.get(claim.client.name)
        if known is None:
            raise ProxyAuthenticationRequired("No such client is configured.", code="wrong_credentials")
        return known

    def confirm(
        self, accepted: AcceptedConnection, settled: KnownClient | None, authorization: bytes | None
    ) -> KnownClient:
        """Says who somebody is by these clients who was let in by earlier ones.

        Args:
            accepted: the connection.
            settled: who it was; None where nobody was asked.
            authorization: what was sent then.

        Raises:
            ClientRefused: nobody who may.
            ProxyAuthenticationRequired: somebody who has yet to say a password.
        """
        if settled is not None and settled.client.name and self._anyone is None:
            return self._current(accepted, settled)
        found = self.identify(accepted, authorization)
        if isinstance(found, PasswordClaim):
            raise ProxyAuthenticationRequired(
                "The configured `clients` have changed meanwhile. Send the request again.", code="no_credentials"
            )
        return found

    def _current(self, accepted: AcceptedConnection, settled: KnownClient) -> KnownClient:
        """Return the same client under this configuration, if what it has shown is still what its entry asks for."""
        if settled.admission is self:
            return settled
        known = self._known.get(settled.client.name)
        if known is None:
            raise ClientRefused(
                f"The client {settled.client.name} is no longer among the configured `clients`.", code="unknown_client"
            )
        if known.client.password not in (None, settled.client.password) or not known.client.fits(accepted.peer):
            raise ClientRefused(
                f"The entry of the client {settled.client.name} in `clients` has changed since this connection was opened. "
                "Connect again.",
                code="unknown_client",
            )
        return known


class PendingCheck(UnderWay):
    """A request whose sender is being found out.

    Args:
        admission, accepted, claim: what is to be checked.
        request: the request's head.
        connection: takes the verdict.

    Attributes:
        request_complete: whether no content follows the head.
    """

    __slots__ = ("_connection", "_task", "request", "request_complete")

    def __init__(
        self,
        admission: Admission,
        accepted: AcceptedConnection,
        claim: PasswordClaim,
        request: RequestHead,
        connection: Checked,
    ) -> None:
        self._connection = connection
        self.request = request
        self.request_complete = not request.has_content
        self._task: asyncio.Task[None] | None = asyncio.get_running_loop().create_task(
            guard(lambda: self._check(admission, accepted, claim), self._on_task_failed, "a check of a password")
        )

    @property
    def response_deadline(self) -> float:
        """See `UnderWay`; there is no upstream."""
        return -inf

    def hold_response(self) -> None:
        """See `UnderWay`."""

    def release_response(self) -> None:
        """See `UnderWay`."""

    def on_client_lost(self) -> None:
        """Give up: the client went away, so the verdict is not needed."""
        self._cancel()

    def fail(self, error: ProxyError) -> None:
        """Something else was wrong in the meantime."""
        self._cancel()
        self._connection.on_checked(self.request, error)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _check(self, admission: Admission, accepted: AcceptedConnection, claim: PasswordClaim) -> None:
        verdict = await admission.verify(accepted, claim)
        self._task = None
        self._connection.on_checked(self.request, verdict)

    def _on_task_failed(self, error: ProxyError) -> None:
        if self._task is None:
            self._connection.abort()  # the request had gone on its way: only cutting it is left
            return
        self._task = None
        self._connection.on_checked(self.request, error)


class Checked(Protocol):
    """Who waits for a password check."""

    def on_checked(self, head: RequestHead, verdict: KnownClient | ProxyError) -> None:
        """Take the verdict on the request with this head."""
        ...

    def abort(self) -> None:
        """Cuts the client."""
        ...
