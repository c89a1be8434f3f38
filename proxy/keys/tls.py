"""A certificate and its key, put into a TLS context. Python takes them as a file only; none ever holds a plain key.

Does I/O on files of its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from proxy.keys.pairs import KeyPair

_DESCRIPTORS: Final = Path("/proc/self/fd")


def load_pair(context: ssl.SSLContext, pair: KeyPair, file: Path) -> None:
    """Let a context show a certificate, with the others of its file behind it.

    Args:
        context: of a server or a client.
        pair: as read.
        file: for messages.

    Raises:
        ConfigurationError: OpenSSL does not take it.
    """
    password = secrets.token_hex(32).encode("ascii")
    chain = (pair.leaf, *(one for one in pair.certificates if one != pair.leaf))
    try:
        content = b"".join(one.public_bytes(Encoding.PEM) for one in chain) + pair.key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(password)
        )
        with lend_file(content) as path:
            context.load_cert_chain(path, password=password)
    except (OSError, ValueError, UnsupportedAlgorithm):  # ssl.SSLError is an OSError
        raise ConfigurationError(
            f"{file}: OpenSSL takes no such certificate or key for TLS; use RSA of 2048 bits or more, or the curve P-256, "
            "P-384 or P-521."
        ) from None


@contextlib.contextmanager
def lend_file(secret: bytes) -> Iterator[str]:
    """Lend a secret as a path that only this process can open, and that is gone afterwards."""
    if hasattr(os, "memfd_create") and _DESCRIPTORS.is_dir():
        descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            # Memory never blocks; saying so lets a detector of blocking calls on the event loop see it as well.
            os.set_blocking(descriptor, False)
            os.write(descriptor, secret)
            yield str(_DESCRIPTORS / str(descriptor))
        finally:
            os.close(descriptor)
        return
    with tempfile.TemporaryDirectory(prefix="apim-auth-proxy-") as directory:  # made with mode 0700
        path = Path(directory, "certificate.pem")
        path.write_bytes(secret)
        yield str(path)
