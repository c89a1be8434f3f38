"""Which version of HTTP an upstream is spoken to in: found out when a connection is opened, and remembered. Does I/O.

What HTTP/2 takes is imported when it is first spoken.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Final, cast

from proxy.dialing.handshake import NO_VERSION
from proxy.dialing.resolver import Attempt
from proxy.dialing.trust import HTTP_2, HTTP_2_OR_1_1
from proxy.errors import ProxyError, UpstreamUnreachable
from proxy.relay.pool import WITHOUT_HTTP2, UpstreamPool
from proxy.relay.secure import SecureTransport
from proxy.relay.upstream import UpstreamConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from proxy.policy.authority import Authority
    from proxy.relay.shared import Shared
    from proxy.relay.sides import UpstreamSide

# How long an upstream that had HTTP/1.1 alone is not asked again whether it has HTTP/2 by now.
_HTTP1_S: Final = 600.0
# A server that takes one connection at a time, and says nothing about versions, holds up its first request for so long.
_PROBE_S: Final = 2.0


class NegotiatingPool(UpstreamPool):
    """All connections to one upstream of a route. Its own speak HTTP/1.1; those of `over_http2` HTTP/2.

    Where HTTP/2 is preferred, it is tried first, and HTTP/1.1 spoken where the upstream chooses it. Otherwise HTTP/1.1 is, unless
    the upstream says that it has HTTP/2 only. It says so by the alert no_application_protocol (RFC 7301 §3.2); or it chooses no
    protocol when it is offered HTTP/1.1, as a server would that knows nothing of ALPN, and chooses HTTP/2 when it is offered that.

    Args:
        relay, dial, server_name, context, dns_only: see `UpstreamPool`.
        make_http2_context: reads files, and returns what is like `context`, and offers HTTP/2, alone or before HTTP/1.1.
        prefers_http2: whether it is.
    """

    def __init__(
        self,
        relay: Shared,
        dial: Authority,
        server_name: str,
        context: ssl.SSLContext,
        make_http2_context: Callable[[tuple[str, ...]], ssl.SSLContext],
        *,
        prefers_http2: bool = False,
        dns_only: bool = False,
    ) -> None:
        UpstreamPool.__init__(self, relay, dial, server_name, context, dns_only=dns_only)
        self._name = server_name
        self._make_http2_context = make_http2_context
        self._prefers_http2 = prefers_http2
        self._over_http2: UpstreamPool | None = None
        self._over_either: UpstreamPool | None = None
        self._http1_until = -inf
        self._has_http1 = prefers_http2  # nothing is to be found out behind a choice
        self.may_lack_http1 = False

    @property
    def is_unused(self) -> bool:
        """See `UpstreamPool`."""
        pools = (self._over_http2, self._over_either)
        return self.size == 0 and all(pool is None or pool.size == 0 for pool in pools)

    def over_http2(self) -> UpstreamPool:
        """See `UpstreamPool`. HTTP/2 alone is offered: of two, many servers choose HTTP/1.1."""
        if self._over_http2 is None:
            self._over_http2 = self._make_http2_pool(HTTP_2, None)
        return self._over_http2

    def _preferred(self) -> UpstreamPool:
        """Return what requests use that can do with either: of connections that offer both, where HTTP/2 is preferred."""
        if not self._prefers_http2:
            return self.over_http2()
        if self._over_either is None:
            self._over_either = self._make_http2_pool(HTTP_2_OR_1_1, self._adopt)
        return self._over_either

    def _make_http2_pool(
        self, protocols: tuple[str, ...], adopt: Callable[[asyncio.Transport], None] | None
    ) -> UpstreamPool:
        from proxy.relay.http2.pool import Http2Pool  # noqa: PLC0415  # see above

        return Http2Pool(
            self.relay,
            self.dial,
            self._name,
            lambda: self._make_http2_context(protocols),
            self._require_http1,
            adopt,
            dns_only=self._dns_only,
        )

    async def acquire(self, attempt: Attempt | None = None, *, new: bool = False, http1: bool = False) -> UpstreamSide:
        """See `UpstreamPool`."""
        attempt = attempt or Attempt()
        if http1:
            return await self._acquire_http1(attempt, new=new)
        if not new:
            kept = self.take()
            if kept is not None:
                return kept
        if self._prefers_http2 and self.http2 is None and self.relay.now >= self._http1_until:
            self.http2 = self._preferred()
        if self.http2 is not None:
            try:
                return await self._acquire_http2(attempt)
            except UpstreamUnreachable as error:
                if error.code != WITHOUT_HTTP2:
                    raise
            new = False  # there may be the connection on which the upstream has chosen HTTP/1.1
        try:
            return await UpstreamPool.acquire(self, attempt, new=new)
        except UpstreamUnreachable as error:
            if error.code != NO_VERSION or self._prefers_http2:
                raise
            refused = error
        self.http2 = self.over_http2()
        try:
            return await self._acquire_http2(attempt)
        except UpstreamUnreachable as error:
            raise (refused if error.code == WITHOUT_HTTP2 else error) from None

    async def _acquire_http1(self, attempt: Attempt, *, new: bool) -> UpstreamSide:
        kept = None if new or not self.idle else UpstreamPool.take(self)
        if isinstance(kept, UpstreamConnection):
            return kept
        if kept is not None:
            kept.return_unused()
        try:
            return await UpstreamPool.acquire(self, attempt, new=True)
        except UpstreamUnreachable as error:
            if error.code != NO_VERSION:
                raise
            raise UpstreamUnreachable(
                f"{self.dial} does not speak HTTP/1.1, which a WebSocket needs: over HTTP/2 this proxy opens none. Ask the API's "
                "operator to allow HTTP/1.1.",
                code="upstream_http2_only",
            ) from None

    async def _acquire_http2(self, attempt: Attempt) -> UpstreamSide:
        try:
            return await self._preferred().acquire(attempt)
        except UpstreamUnreachable as error:
            if error.code == WITHOUT_HTTP2:
                self._require_http1()
            raise

    def _require_http1(self) -> None:
        """Take note that the upstream wants HTTP/1.1, or has nothing else."""
        self.http2 = None
        self._http1_until = self.relay.now + _HTTP1_S

    async def _open(self, attempt: Attempt) -> UpstreamConnection:
        connection = await UpstreamPool._open(self, attempt)  # mypyc has no `super` in coroutines
        if self._has_http1:
            return connection
        transport = connection.transport
        if isinstance(transport, SecureTransport) and transport.tls.selected_alpn_protocol() is None:
            try:
                has_http2 = await self._has_http2()
            except BaseException:
                connection.abort()
                raise
            if has_http2:
                connection.abort()
                raise UpstreamUnreachable(f"{self.dial} speaks HTTP/2 only.", code="upstream_http2_only")
        self._has_http1 = True
        if transport.is_closing():
            self.size += 1
            return await UpstreamPool._open(self, attempt)
        return connection

    async def _has_http2(self) -> bool:
        try:
            async with asyncio.timeout(_PROBE_S):
                stream = await self.over_http2().acquire(Attempt())
        except (ProxyError, TimeoutError):
            return False
        stream.return_unused()
        return True

    def _adopt(self, transport: asyncio.Transport) -> None:
        """Take a connection that was opened for HTTP/2, and on which the upstream has chosen HTTP/1.1."""
        if self.size >= self.relay.limits.upstream_connections:
            transport.close()
            return
        connection = UpstreamConnection(self)
        transport.set_protocol(cast("asyncio.Protocol", connection))
        connection.connection_made(transport)
        connection.opened = True
        self.size += 1
        self.relay.upstreams.add(connection)
        self.release(connection)

    def _keep_session(self, tls: ssl.SSLObject) -> None:
        if tls.context is self._context:  # not of a connection that was adopted: a session belongs to its context
            UpstreamPool._keep_session(self, tls)

    def close_idle(self) -> None:
        """See `UpstreamPool`."""
        UpstreamPool.close_idle(self)
        for pool in (self._over_http2, self._over_either):
            if pool is not None:
                pool.close_idle()
