"""From settings to what replicas share. Reads the files of keys."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import TYPE_CHECKING

from proxy.config.redis_url import parse_redis_url
from proxy.errors import IdentityError
from proxy.identity.sharing.availability import StoreError
from proxy.identity.sharing.sealing import KeyRing, read_key
from proxy.identity.sharing.shared_token import SharedCache
from proxy.keys.passwords import read_password

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from proxy.config.settings import TokenCacheSettings
    from proxy.identity.source import TokenSource


def create_shared_cache(
    settings: TokenCacheSettings,
    tokens: TokenSource | None,
    *,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    jitter: Callable[[], float],
) -> SharedCache:
    """Return the cache, without connecting.

    Args:
        settings: of the cache.
        tokens: of the credential that signs in to Redis; None where none does.
        clock: monotonic seconds.
        wall_clock: Unix seconds.
        jitter: 0 to 1.

    Raises:
        ConfigurationError: a key cannot be read.
    """
    from proxy.identity.sharing.redis_store import RedisStore  # noqa: PLC0415 -- the extra `redis`, for who asks for it

    url = parse_redis_url(settings.url)
    ring = KeyRing([read_key(file) for file in settings.key_files])
    login = None
    if tokens is not None:
        login = _by_token(tokens, url.user)
    elif settings.password_file is not None:
        login = _by_file(settings.password_file, url.user)
    store = RedisStore(url, settings.ca_file, login)
    return SharedCache(store, ring, str(url), clock=clock, wall_clock=wall_clock, jitter=jitter)


def _by_file(file: Path, user: str | None) -> Callable[[], Awaitable[tuple[str, ...]]]:
    async def login() -> tuple[str, ...]:
        password = (await asyncio.to_thread(read_password, file) or b"").decode("utf-8", "replace")
        return (password,) if user is None else (user, password)

    return login


def _by_token(tokens: TokenSource, user: str | None) -> Callable[[], Awaitable[tuple[str, ...]]]:
    async def login() -> tuple[str, ...]:
        try:
            token = await tokens.acquire()
        except IdentityError:
            raise StoreError("cannot be signed in to: there is no access token for it, see the log") from None
        return user or find_object_id(token.value), token.value

    return login


def find_object_id(access_token: str) -> str:
    """Return ``oid`` of a token of Entra ID, which is the user's name in Redis; empty where it has none."""
    try:
        _, claims, _ = access_token.split(".")
        found = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
        return str(found["oid"])
    except (ValueError, KeyError, TypeError, binascii.Error):
        return ""
