"""The RSA key for clients that take no ECDSA: made once, and made again after a failure."""

from __future__ import annotations

import asyncio

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from proxy.interception.rsa import RSAKey


def test_a_key_that_could_not_be_made_is_made_for_the_next_client(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        make, calls = rsa.generate_private_key, 0

        def fail_once(public_exponent: int, key_size: int) -> rsa.RSAPrivateKey:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise MemoryError
            return make(public_exponent, key_size)

        monkeypatch.setattr(rsa, "generate_private_key", fail_once)
        key = RSAKey()
        with pytest.raises(MemoryError):
            await key.get()
        first, second = await asyncio.gather(key.get(), key.get())
        assert first is second
        assert calls == 2

    asyncio.run(work())
