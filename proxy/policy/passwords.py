"""Password hashes as the configuration holds them: scrypt (RFC 7914) in the PHC string format. Pure, but slow on purpose.

A hash is never shown, and comparing takes the same time whatever differs.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

# OWASP's password storage cheat sheet lists N=2^14, r=8, p=5 as one of five equally strong settings; this one needs 16 MiB
# at a time, so that a few guesses at once do not exhaust a small container.
LOG_N: Final = 14
BLOCK: Final = 8
PARALLEL: Final = 5
SALT_BYTES: Final = 16
_KEY_BYTES: Final = 32

_FORMAT: Final = re.compile(
    r"\$scrypt\$ln=([1-9][0-9]?),r=([1-9][0-9]?),p=([1-9][0-9]?)\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)
# What a hash from elsewhere may ask for: bounded, because whoever sends a password makes us spend this.
_LARGEST_MEMORY_BYTES: Final = 256 * 1024 * 1024
_LARGEST_PARALLEL: Final = 16


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A salted scrypt hash.

    Attributes:
        log_n, block, parallel: scrypt's parameters; N is 2 to the power of `log_n`.
        salt: random bytes.
        key: the derived key.
    """

    log_n: int
    block: int
    parallel: int
    salt: bytes = field(repr=False)
    key: bytes = field(repr=False)

    def verify(self, password: bytes) -> bool:
        """Whether the hash is of this password. Takes tens to hundreds of milliseconds; without the GIL."""
        return hmac.compare_digest(self._derive(password), self.key)

    def _derive(self, password: bytes) -> bytes:
        return _derive(password, self.salt, self.log_n, self.block, self.parallel, len(self.key))

    def __str__(self) -> str:
        salt, key = (base64.b64encode(part).decode().rstrip("=") for part in (self.salt, self.key))
        return f"$scrypt$ln={self.log_n},r={self.block},p={self.parallel}${salt}${key}"


def hash_password(password: bytes, salt: bytes) -> PasswordHash:
    """Return the hash of a password. Takes as long as `PasswordHash.verify`."""
    key = _derive(password, salt, LOG_N, BLOCK, PARALLEL, _KEY_BYTES)
    return PasswordHash(LOG_N, BLOCK, PARALLEL, salt, key)


def parse_password_hash(text: str) -> PasswordHash:
    """Return the hash that a text stands for.

    Raises:
        ValueError: it stands for none; the message does not repeat it.
    """
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise ValueError(
            "not a password hash; `apim-auth-proxy client add NAME` prints one, which begins with $scrypt$"
        )
    log_n, block, parallel = (int(number) for number in match.groups()[:3])
    if 128 * block * 2**log_n > _LARGEST_MEMORY_BYTES or parallel > _LARGEST_PARALLEL:
        raise ValueError(
            "this hash takes too much memory or time to check; make one with `apim-auth-proxy client add NAME`"
        )
    try:
        salt, key = (base64.b64decode(part + "=" * (-len(part) % 4), validate=True) for part in match.groups()[3:])
    except binascii.Error:
        raise ValueError("the password hash is damaged; `apim-auth-proxy client add NAME` prints a new one") from None
    return PasswordHash(log_n, block, parallel, salt, key)


def _derive(password: bytes, salt: bytes, log_n: int, block: int, parallel: int, key_bytes: int) -> bytes:
    return hashlib.scrypt(
        password, salt=salt, n=2**log_n, r=block, p=parallel, maxmem=2 * _LARGEST_MEMORY_BYTES, dklen=key_bytes
    )
