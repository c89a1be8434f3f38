"""A signer outside this process: a command that gets the signing input and answers with the signature. Starts processes.

For keys that may not leave their place: an HSM, a TPM, a PKCS#11 token, a cloud vault's own tool. The command reads the
signing input from stdin until its end, finds the algorithm in the environment variable ``SIGNING_ALGORITHM`` (``PS256`` or
``RS256``), and writes the signature to stdout, raw or as base64 or base64url text. Its stderr is ours.

Invariants: one answer in bounded time; whatever the command does, it and its children are gone afterwards; a signature that
does not verify under the certificate is never sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import signal
from typing import TYPE_CHECKING

from proxy.errors import IdentityError
from proxy.identity.certificate import verify_signature

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from proxy.identity.certificate import PublicCertificate

# A smart card takes a second or two; a vault's command line a few.
TIMEOUT_S = 10.0
# An RSA signature of 16384 bits in base64 is under 3 KiB.
_OUTPUT_LIMIT_BYTES = 8_192
_REAP_S = 1.0


class CommandSigner:
    """Signs by running a command."""

    def __init__(self, command: Sequence[str], certificate: PublicCertificate, *, timeout_s: float = TIMEOUT_S) -> None:
        """Prepare.

        Args:
            command: program and arguments; no shell is involved.
            certificate: whose key the command holds.
            timeout_s: for one signature.
        """
        self._command = tuple(command)
        self._certificate = certificate
        self._timeout_s = timeout_s

    @property
    def name(self) -> str:
        """The program and the certificate's SHA-1 thumbprint; arguments may hold a PIN and are left out."""
        return f"signer command {self._command[0]}, certificate {self._certificate.sha1_hex}"

    @property
    def expires(self) -> datetime | None:
        """The certificate's end."""
        return self._certificate.not_after

    async def public_certificate(self) -> PublicCertificate:
        """Return the configured certificate."""
        return self._certificate

    async def sign(self, signing_input: bytes, algorithm: str) -> bytes:
        """Run the command once.

        Raises:
            IdentityError: it cannot be started, takes too long, fails, or answers with something else than the signature.
        """
        output = await self._run(signing_input, algorithm)
        size = (self._certificate.key_bits + 7) // 8
        for signature in _readings(output):
            if len(signature) == size and verify_signature(self._certificate, signature, signing_input, algorithm):
                return signature
        raise self._failed(
            "answers with something that is not the signature; check that it signs with the certificate's key,"
            f" with {algorithm}, and writes nothing else to stdout"
        )

    async def _run(self, signing_input: bytes, algorithm: str) -> bytes:
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "SIGNING_ALGORITHM": algorithm},
                start_new_session=True,
            )
        except OSError:
            raise self._failed("cannot be started; check its path and mode") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                output = await _converse(process, signing_input)
                status = await process.wait()
        except TimeoutError:
            raise self._failed(f"did not answer within {self._timeout_s:g} s") from None
        finally:
            await _end(process)
        if len(output) > _OUTPUT_LIMIT_BYTES:
            raise self._failed("writes more than a signature to stdout")
        if status != 0:
            how = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
            raise self._failed(f"{how}; its stderr says why")
        return output

    def _failed(self, what: str) -> IdentityError:
        return IdentityError(f"The signer command {self._command[0]} {what}.", code="signer_failed")


async def _converse(process: asyncio.subprocess.Process, signing_input: bytes) -> bytes:
    """Write the input and read the output, at most one byte over the limit."""
    if process.stdin is None or process.stdout is None:
        raise AssertionError("both pipes were asked for")
    with contextlib.suppress(ConnectionError):  # It may answer, or fail, without reading.
        process.stdin.write(signing_input)
        await process.stdin.drain()
    process.stdin.close()
    output = bytearray()
    while len(output) <= _OUTPUT_LIMIT_BYTES and (chunk := await process.stdout.read(_OUTPUT_LIMIT_BYTES + 1)):
        output += chunk
    if len(output) > _OUTPUT_LIMIT_BYTES:
        _kill(process)
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the command with everything it started, and reap it: no orphan, no zombie."""
    _kill(process)
    # Killed, it ends at once. Not awaited itself, so that a cancelled request still reaps it; bounded, because a process
    # that left the group may keep the pipe open.
    await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=_REAP_S)


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _readings(output: bytes) -> list[bytes]:
    """Return what the output may mean: the signature itself, or its text."""
    readings = [output]
    text = b"".join(output.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    with contextlib.suppress(binascii.Error):
        readings.append(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True))
    return readings
