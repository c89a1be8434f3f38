"""Redis as the store: GET, PTTL, SET and nothing else. Does network I/O through redis-py, on connections of its own.

It is imported only where Redis is configured: it is the extra `redis`. Every failure becomes a `StoreError` in our words.
Connections go by no upstream proxy.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Any, Final

import redis.asyncio as redis_client
from redis import exceptions
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.credentials import CredentialProvider

from proxy.config.redis_url import Topology
from proxy.identity.sharing.availability import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from typing import TypeVar

    from proxy.config.redis_url import RedisUrl

    _Answer = TypeVar("_Answer")

# Above the quarter of a second after which nobody waits for an answer: it ends what nobody waits for.
_SOCKET_TIMEOUT_S: Final = 1.0
_CONNECTIONS: Final = 16

# The more special one stands first.
_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (exceptions.ReadOnlyError, "is a replica that may only be read: name the master, or its sentinels"),
    (exceptions.OutOfMemoryError, "has no memory left (maxmemory)"),
    (
        exceptions.NoPermissionError,
        "does not let this user do that: the ACL has to allow get, set, pttl and the keys aap:*",
    ),
    (exceptions.AuthenticationError, "does not accept the user or its password"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "does not accept the user or its password"),
    (exceptions.BusyLoadingError, "is loading its data"),
    (exceptions.TimeoutError, "does not answer in time"),
    (exceptions.MaxConnectionsError, "has all its connections in use"),
    (ssl.SSLError, "does not complete the TLS handshake, or its certificate is not trusted: see token_cache.ca_file"),
    (exceptions.ConnectionError, "cannot be reached"),
    (exceptions.RedisClusterException, "is a cluster of which no node can be used"),
    (exceptions.ResponseError, "answers with an error"),
    (exceptions.RedisError, "does not answer as Redis does"),
    (OSError, "cannot be reached"),
)


class RedisStore:
    """One server, cluster or sentinels."""

    def __init__(
        self, url: RedisUrl, ca_file: Path | None, login: Callable[[], Awaitable[tuple[str, ...]]] | None
    ) -> None:
        """Prepare, without connecting.

        Args:
            url: where it is.
            ca_file: PEM certificates trusted beside the system's roots; only with TLS.
            login: returns a password, or a user and a password, for each new connection; None: there is none.
        """
        self._client, self._sentinels = _create_client(url, ca_file, None if login is None else _Login(login))

    async def get(self, name: str) -> tuple[bytes, float] | None:
        """See `Store.get`: the time first, so that a value that comes in between has at least that much left."""
        left_ms = int(await _translate(self._client.pttl(name)))
        if left_ms <= 0:
            return None
        value = await _translate(self._client.get(name))
        return None if value is None else (bytes(value), left_ms / 1000)

    async def set(self, name: str, value: bytes, life_ms: int) -> None:
        """See `Store.set`."""
        await _translate(self._client.set(name, value, px=life_ms))

    async def lock(self, name: str, life_ms: int) -> bool:
        """See `Store.lock`."""
        return bool(await _translate(self._client.set(name, b"1", px=life_ms, nx=True)))

    async def close(self) -> None:
        """Close the connections."""
        for client in (self._client, *self._sentinels):
            await client.aclose()


class _Login(CredentialProvider):
    def __init__(self, login: Callable[[], Awaitable[tuple[str, ...]]]) -> None:
        self._login = login

    def get_credentials(self) -> Any:  # noqa: ANN401 -- redis-py's signature
        raise NotImplementedError

    async def get_credentials_async(self) -> Any:  # noqa: ANN401 -- as above
        return await self._login()


def _create_client(url: RedisUrl, ca_file: Path | None, login: CredentialProvider | None) -> tuple[Any, list[Any]]:
    """Return a client, and those of the sentinels that it asks; redis-py's types fit no protocol."""
    common: dict[str, Any] = {
        "socket_timeout": _SOCKET_TIMEOUT_S,
        "socket_connect_timeout": _SOCKET_TIMEOUT_S,
        # With its own repetitions a call would outlast the time that we give it.
        "retry": Retry(NoBackoff(), 0),
        # No CLIENT SETINFO: a command less that an ACL has to allow.
        "driver_info": None,
        "protocol": 2,
    }
    if url.is_tls:
        common |= {"ssl": True, "ssl_min_version": ssl.TLSVersion.TLSv1_2}
        if ca_file is not None:
            common["ssl_ca_certs"] = str(ca_file)
    authenticated = common if login is None else {**common, "credential_provider": login}
    host, port = url.addresses[0]
    match url.topology:
        case Topology.CLUSTER:
            nodes = [ClusterNode(*address) for address in url.addresses]
            # Once more, at the node that the first one names.
            return RedisCluster(startup_nodes=nodes, **(authenticated | {"retry": Retry(NoBackoff(), 1)})), []
        case Topology.SENTINEL:
            sentinels: Any = Sentinel(url.addresses, sentinel_kwargs=common, **authenticated)  # type: ignore[no-untyped-call]  # redis-py's
            master = sentinels.master_for(url.service, db=url.db, max_connections=_CONNECTIONS)
            return master, list(sentinels.sentinels)
        case Topology.SERVER:
            return redis_client.Redis(
                host=host, port=port, db=url.db, max_connections=_CONNECTIONS, **authenticated
            ), []


async def _translate(answer: Awaitable[_Answer]) -> _Answer:
    try:
        return await answer
    except asyncio.CancelledError:
        raise
    except Exception as error:  # noqa: BLE001 -- whatever a library raises: no request may fail for it
        raise StoreError(_find_reason(error)) from None


def _find_reason(error: BaseException) -> str:
    """Return our words for what happened; a connection's failure hides what it failed of."""
    seen: BaseException | None = error
    chain = []
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    for kind, reason in _REASONS:
        if any(isinstance(one, kind) for one in chain):
            return reason
    return "cannot be used"
