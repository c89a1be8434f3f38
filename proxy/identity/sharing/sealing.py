"""Names and sealed values in the shared store. Does no I/O but the system's randomness.

Invariants: without a key nobody learns what an entry is for or what is in it; an entry that was changed, or put under another name,
does not open; bytes from anywhere give an entry or None.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import os
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KEY_BYTES: Final = 32
_PREFIX: Final = "aap:1:"
MARK_NAME: Final = f"{_PREFIX}key"
"""Where who puts a token there says by which key: names follow from keys, so nobody meets what another key has sealed."""
_VERSION: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12  # NIST SP 800-38D §8.2; random, for far fewer than 2**32 entries a key
_HEADER_BYTES: Final = len(_VERSION) + _KEY_ID_BYTES


@dataclass(frozen=True, slots=True)
class Entry:
    """What replicas tell one another of a token.

    Attributes:
        value: the access token.
        life_s: its remaining life when it was put there.
        refresh_in_s: the platform's suggestion, counted from then; None without one.
        proof: name of the proof that it was obtained with.
    """

    value: str = field(repr=False)
    life_s: float
    refresh_in_s: float | None
    proof: str


class _Key:
    def __init__(self, secret: bytes) -> None:
        self._name_secret = _derive(secret, b"name")
        self.id = _derive(secret, b"id")[:_KEY_ID_BYTES]
        self.cipher = AESGCM(_derive(secret, b"seal"))

    def name(self, what: str) -> str:
        digest = hmac.new(self._name_secret, what.encode(), sha256).digest()
        return _PREFIX + base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


class KeyRing:
    """The keys of a fleet: the first one seals, all of them open."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        """Take keys of `KEY_BYTES` random bytes each; at least one."""
        self._keys = [_Key(secret) for secret in secrets]

    def names(self, what: str) -> list[str]:
        """Return the names under which an entry may be, ours first: while keys change, others have another first key."""
        return [key.name(what) for key in self._keys]

    @property
    def mark(self) -> bytes:
        """What stands at `MARK_NAME`: it tells keys apart, and nothing of them."""
        return _VERSION + self._keys[0].id

    def knows(self, mark: bytes) -> bool:
        """Return whether a mark is one of these keys'."""
        return any(mark == _VERSION + key.id for key in self._keys)

    def seal(self, name: str, entry: Entry) -> bytes:
        """Return what to store under a name of `names`' first."""
        key = self._keys[0]
        header, nonce = _VERSION + key.id, os.urandom(_NONCE_BYTES)
        content = json.dumps([entry.value, entry.life_s, entry.refresh_in_s, entry.proof]).encode()
        return header + nonce + key.cipher.encrypt(nonce, content, header + name.encode())

    def open(self, name: str, sealed: bytes) -> Entry | None:
        """Return what was sealed for that name; None where it does not open."""
        header, nonce = sealed[:_HEADER_BYTES], sealed[_HEADER_BYTES : _HEADER_BYTES + _NONCE_BYTES]
        key = next((each for each in self._keys if header == _VERSION + each.id), None)
        if key is None:
            return None
        try:
            content = key.cipher.decrypt(nonce, sealed[_HEADER_BYTES + _NONCE_BYTES :], header + name.encode())
            value, life_s, refresh_in_s, proof = json.loads(content)
        except (InvalidTag, ValueError):
            return None
        return Entry(value, life_s, refresh_in_s, proof)


def read_key(file: Path) -> bytes:
    """Return the key in a file: 32 random bytes as base64.

    Raises:
        ConfigurationError: the file cannot be read, or holds something else.
    """
    try:
        text = file.read_bytes().strip()
        secret = base64.b64decode(
            text.translate(bytes.maketrans(b"-_", b"+/")) + b"=" * (-len(text) % 4), validate=True
        )
    except OSError as error:
        raise ConfigurationError(f"{file}: the key cannot be read ({error.strerror}).") from None
    except binascii.Error:
        secret = b""
    if len(secret) != KEY_BYTES:
        raise ConfigurationError(
            f"{file}: a key of token_cache is {KEY_BYTES} random bytes in base64; make one with `openssl rand -base64 32`."
        )
    return secret


def _derive(secret: bytes, purpose: bytes) -> bytes:
    return HKDFExpand(SHA256(), KEY_BYTES, b"apim-auth-proxy token_cache 1 " + purpose).derive(secret)
