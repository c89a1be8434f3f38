"""Access tokens in a relay process: the newest of each source, as control sent them. Does I/O through its channel.

The relay asks here what it asks `proxy.identity.source` in a single process, and cannot tell the difference.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from math import inf
from typing import TYPE_CHECKING, Final

from proxy.errors import (
    CredentialOutOfDate,
    CredentialRejected,
    IdentityError,
    IdentityPlatformUnavailable,
    ProxyError,
)
from proxy.identity.access_token import AccessToken
from proxy.identity.credential import Target
from proxy.workers.messages import Failed, Rejected, Stale, Token, Want

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from proxy.workers.messages import Message, SourceKey


# What a client is told is the same with one process and with several; a subclass is told as the class it comes from.
ERRORS: Final[Mapping[str, type[ProxyError]]] = {
    kind.__name__: kind
    for kind in (ProxyError, IdentityError, IdentityPlatformUnavailable, CredentialRejected, CredentialOutOfDate)
}
# How long a token that control has kept after a complaint is not complained of again.
_ACQUITTED_S: Final = 1.0


class RemoteSource:
    """One source's token."""

    def __init__(self, owner: RemoteSources, number: int) -> None:
        self._owner = owner
        self.number = number
        self._token: AccessToken | None = None
        self._serial = -1
        self._stale_reported = -1
        self._asked: asyncio.Future[None] | None = None
        self._acquitted_until_mono = -inf

    def peek(self, now_mono: float) -> AccessToken | None:
        """See `proxy.identity.source.TokenSource.peek`."""
        token = self._token
        if token is None or now_mono >= token.usable_until_mono:
            return None
        is_news = now_mono >= token.refresh_at_mono and self._stale_reported != self._serial
        if is_news and self._owner.send(Stale(source=self.number)):
            self._stale_reported = self._serial
        return token

    async def acquire(self) -> AccessToken:
        """See `proxy.identity.source.TokenSource.acquire`. Control has the flights; here is only the waiting.

        Control is asked once, however many wait.

        Raises:
            ProxyError: control says why; mostly an `IdentityError`.
        """
        if self._asked is None or self._asked.done():
            self._asked = self._owner.ask(lambda request: Want(source=self.number, request=request))
        await asyncio.shield(self._asked)
        if self._token is None:
            raise IdentityPlatformUnavailable("There is no access token now.", retry_after_s=1)
        return self._token

    def report_refusal(
        self,
        token: AccessToken,
        now_mono: float,
        claims: str | None = None,
        *,
        certain: bool = False,
    ) -> bool:
        """See `proxy.identity.source.TokenSource.rejected`.

        Control decides whether the token is to blame; until it has sent one, this process has none. Where it has just sent the
        same one again, the next refusals are passed on, or each of them would cost a second request and everybody a wait.
        """
        if token is self._token:
            if now_mono < self._acquitted_until_mono:
                return False
            self._token = None
            self._owner.send(Rejected(source=self.number, serial=self._serial, claims=claims, certain=certain))
        return True

    def take(self, message: Token) -> None:
        """Take the token that control sent."""
        if message.serial == self._serial:
            if self._token is not None:
                return
            self._acquitted_until_mono = time.monotonic() + _ACQUITTED_S
        self._serial = message.serial
        self._token = AccessToken(
            field_line=b"Authorization: Bearer " + message.value.encode("ascii") + b"\r\n",
            value=message.value,
            obtained_at_mono=message.obtained_at_mono,
            refresh_at_mono=message.refresh_at_mono,
            expires_at_mono=message.expires_at_mono,
            usable_until_mono=message.usable_until_mono,
            proof=message.proof,
        )


class RemoteSources:
    """The sources of the configuration in use, and of the one before it, numbered as control numbers them.

    Args:
        send: sends a message to control; returns False where control takes no more.
    """

    def __init__(self, send: Callable[[Message], bool]) -> None:
        self.send = send
        self._by_target: dict[tuple[str, Target], RemoteSource] = {}
        self._by_number: dict[int, RemoteSource] = {}
        self._requests = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}

    def number(self, keys: Sequence[SourceKey]) -> None:
        """Take note of what each number stands for, before the first token of it arrives.

        Args:
            keys: the sources of the configuration that is in use from now on.
        """
        before = {source.number: source for source in self._by_target.values()}
        self._by_target = {
            (key.credential, Target(scope=key.scope, resource=key.resource)): before.get(key.number)
            or RemoteSource(self, key.number)
            for key in keys
        }
        # Somebody may still wait for a token of the configuration before.
        self._by_number = {**before, **{source.number: source for source in self._by_target.values()}}

    def source_for(self, credential: str, target: Target) -> RemoteSource:
        """Return the source of a (credential, target); see `proxy.identity.sources.TokenSources.source_for`."""
        return self._by_target[credential, target]

    def ask(self, make: Callable[[int], Message]) -> asyncio.Future[None]:
        """Send a request; return what is done once control has answered it, with a `ProxyError` where it failed."""
        request = next(self._requests)
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answered.add_done_callback(lambda _: self._forget(request))
        if self.send(make(request)):
            self._waiting[request] = answered
        else:
            answered.set_exception(
                IdentityPlatformUnavailable("The proxy's control process is behind.", retry_after_s=1)
            )
        return answered

    def _forget(self, request: int) -> None:
        answered = self._waiting.pop(request, None)
        if answered is not None and not answered.cancelled():
            answered.exception()  # those who waited may have gone

    def take_token(self, message: Token) -> None:
        """Take a token; nobody may need it any more."""
        source = self._by_number.get(message.source)
        if source is not None:
            source.take(message)

    def answer(self, request: int) -> None:
        """Wakes who waits for a request; it may have gone."""
        waiting = self._waiting.get(request)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def fail(self, message: Failed) -> None:
        """Tells who waits for a request that it failed."""
        waiting = self._waiting.get(message.request)
        if waiting is not None and not waiting.done():
            kind = ERRORS.get(message.error, ProxyError)
            waiting.set_exception(kind(message.detail, retry_after_s=message.retry_after_s, code=message.code))

    def abandon(self) -> None:
        """Fails everyone who waits: control is gone."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(IdentityPlatformUnavailable("The proxy is stopping.", retry_after_s=1))
