"""Proof by another identity provider's token in a file, as workload identity mounts it. Reads the file for each request.

Source: RFC 7523 §2.2 with a foreign issuer; Entra ID's workload identity federation.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from proxy.errors import IdentityError
from proxy.identity.proof.interface import FormProof
from proxy.identity.proof.signed_assertion import ASSERTION_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


_LIMIT_BYTES = 65_536
# Three non-empty segments of base64url, padded or not (RFC 7515 §7.1).
_COMPACT = re.compile(rb"[A-Za-z0-9_-]+=*\.[A-Za-z0-9_-]+=*\.[A-Za-z0-9_-]+=*\Z")


class FederatedToken(FormProof):
    """A token that somebody else issues and replaces; never kept here, so that the newest is always used."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def name(self) -> str:
        """The file's path."""
        return f"federated token {self._file}"

    async def form_fields(self, *, client_id: str, audience: str, now: float) -> Mapping[str, str]:  # noqa: ARG002 -- the interface
        """Return client_assertion_type and the file's token as client_assertion.

        Raises:
            IdentityError: the file cannot be read, or holds no JWT.
        """
        try:
            content = (await asyncio.to_thread(self._read)).strip()
        except OSError:
            raise self._unusable("cannot be read; check that the token is mounted and readable for this user") from None
        if len(content) > _LIMIT_BYTES or not _COMPACT.match(content):
            raise self._unusable("does not hold a JWT; check what writes it")
        return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": content.decode("ascii")}

    def _read(self) -> bytes:
        with self._file.open("rb") as stream:
            return stream.read(_LIMIT_BYTES + 1)

    def _unusable(self, what: str) -> IdentityError:
        return IdentityError(f"{self._file}: the federated token file {what}.", code="federated_token_unusable")
