"""The RSA key of the leaves that are made for clients which take no ECDSA. Does no I/O; computes in a thread.

Such clients are rare, and the key costs a tenth of a second or more, so it is made when the first one comes. One serves all hosts.
"""

from __future__ import annotations

import asyncio

from cryptography.hazmat.primitives.asymmetric import rsa

_BITS = 2048  # the least that the Baseline Requirements allow (CA/Browser Forum, §6.1.5), and the fastest


class RSAKey:
    """One key, made once, off the event loop."""

    def __init__(self) -> None:
        self._making: asyncio.Task[rsa.RSAPrivateKey] | None = None

    async def get(self) -> rsa.RSAPrivateKey:
        """Return the key; who comes while it is made waits for it."""
        # What has failed or was cancelled is tried again: it would otherwise fail for as long as the process runs.
        if self._making is None or (
            self._making.done() and (self._making.cancelled() or self._making.exception() is not None)
        ):
            self._making = asyncio.create_task(asyncio.to_thread(rsa.generate_private_key, 65_537, _BITS))
        return await asyncio.shield(self._making)
