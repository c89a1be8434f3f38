"""A signer outside this process: a command that gets the signing input and answers with the signature. Starts processes.

For keys that may not leave their place: an HSM, a TPM, a PKCS#11 token, a cloud vault's own tool. The command reads the
signing input from stdin until its end, finds the algorithm in the environment variable ``SIGNING_ALGORITHM`` (``PS256`` or
``RS256``), and writes the signature to stdout, raw or as base64 or base64url text. Its stderr is ours.

Invariants: one answer in bounded time; whatever the command does, it and its process group are gone afterwards; a signature
that does not verify under the certificate is never sent.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import signal
from io import FileIO
from typing import TYPE_CHECKING, NamedTuple

from proxy.errors import IdentityError
from proxy.identity.certificate import verify_signature

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    def certificate(self) -> PublicCertificate | None:
        """The configured certificate."""
        return self._certificate

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
        with contextlib.ExitStack() as ends:
            question = _open_pipe(ends)
            answer = _open_pipe(ends)
            if not _fill(question, signing_input):
                raise self._failed("would have to read more than a pipe holds; leave out the certificate chain")
            try:
                process = await _start(self._command, question.reader, answer.writer, algorithm)
            except OSError:
                raise self._failed("cannot be started; check its path and mode") from None
            answer.writer.close()
            try:
                async with asyncio.timeout(self._timeout_s):
                    output = await _read(answer.reader)
                    status = 0 if len(output) > _OUTPUT_LIMIT_BYTES else await process.wait()
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


class _Pipe(NamedTuple):
    """Both ends, unbuffered. Ours and not the event loop's: uvloop's are sockets, which nobody can open as /dev/stdin."""

    reader: FileIO
    writer: FileIO


def _open_pipe(ends: contextlib.ExitStack) -> _Pipe:
    reader, writer = os.pipe()
    return _Pipe(ends.enter_context(FileIO(reader, "r")), ends.enter_context(FileIO(writer, "w")))


def _fill(pipe: _Pipe, content: bytes) -> bool:
    """Write before anybody reads, and close the writer; False: the pipe is too small (64 KiB, for a few KiB normally)."""
    with pipe.writer:
        os.set_blocking(pipe.writer.fileno(), False)
        return pipe.writer.write(content) == len(content)


async def _start(command: Sequence[str], stdin: FileIO, stdout: FileIO, algorithm: str) -> asyncio.subprocess.Process:
    """Start the command, or leave nothing of it behind.

    Raises:
        OSError: it cannot be started.
    """
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *command,
            stdin=stdin,
            stdout=stdout,
            env={**os.environ, "SIGNING_ALGORITHM": algorithm},
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # It may run already, though nobody has been told yet.
        await asyncio.wait({starting})
        if not starting.cancelled() and starting.exception() is None:
            await _end(starting.result())
        raise


async def _read(reader: FileIO) -> bytes:
    """Return all output until its end, or until it is over the limit."""
    loop = asyncio.get_running_loop()
    finished = loop.create_future()
    output = bytearray()

    def take() -> None:
        chunk = reader.read(_OUTPUT_LIMIT_BYTES)
        if chunk is None:  # Woken up for nothing.
            return
        output.extend(chunk)
        if (not chunk or len(output) > _OUTPUT_LIMIT_BYTES) and not finished.done():
            finished.set_result(None)

    os.set_blocking(reader.fileno(), False)
    loop.add_reader(reader.fileno(), take)
    try:
        await finished
    finally:
        loop.remove_reader(reader.fileno())
    return bytes(output)


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the command with everything in its process group, and reap it: no orphan, no zombie."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    # Killed, it ends at once. Waited for without being awaited itself, so that a cancelled request still reaps it.
    await asyncio.wait({asyncio.ensure_future(process.wait())}, timeout=_REAP_S)


def _readings(output: bytes) -> list[bytes]:
    """Return what the output may mean: the signature itself, or its text."""
    readings = [output]
    text = b"".join(output.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    with contextlib.suppress(binascii.Error):
        readings.append(base64.b64decode(text + b"=" * (-len(text) % 4), validate=True))
    return readings
