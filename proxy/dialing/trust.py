"""Whom the proxy trusts as a TLS client: the system's roots, and those of a file. Reads the files.

Parsing the system's roots costs some 40 ms of CPU and 2 MB of memory, so those who trust the same share one context: routes, token
endpoints, and the configuration before a reload with the one behind it.
"""

from __future__ import annotations

import ssl
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from proxy.keys.trusted import read_trusted

if TYPE_CHECKING:
    from proxy.keys.trusted import TrustedCertificates

_File = tuple[int, int, int, int] | None
_Fingerprint = tuple[_File, _File, bytes | None, tuple[str, ...]]

_contexts: Final[WeakValueDictionary[_Fingerprint, ssl.SSLContext]] = WeakValueDictionary()
_making: Final = threading.Lock()
# Names of protocols, the one that is liked best first (RFC 7301 §6).
HTTP_1_1: Final = ("http/1.1",)
HTTP_2: Final = ("h2",)
HTTP_2_OR_1_1: Final = ("h2", "http/1.1")


def create_tls_context(
    ca_file: Path | None, key: str = "ca_file", *, protocols: tuple[str, ...] = HTTP_1_1
) -> ssl.SSLContext:
    """Return a context that verifies names and certificates against the system's roots and the file's, and speaks HTTP/1.1.

    It is shared: never change it. A context is made anew where the file, or the system's roots, have changed.

    Args:
        ca_file: PEM, DER or PKCS#7; None for the system's roots alone.
        key: what names the file in the configuration.
        protocols: those that are offered instead (RFC 7301).

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    with _making:
        trusted = None if ca_file is None else read_trusted(ca_file, key)
        content = None if trusted is None else trusted.content
        fingerprint = (*_fingerprint_system(), content, protocols)
        context = _contexts.get(fingerprint)
        if context is None:
            context = _make_context(trusted, protocols)
            if fingerprint == (*_fingerprint_system(), content, protocols):  # else it may be of what came in between
                _contexts[fingerprint] = context
    return context


def create_own_tls_context(
    ca_file: Path | None, key: str = "ca_file", *, protocols: tuple[str, ...] = HTTP_1_1
) -> ssl.SSLContext:
    """Return a context like `create_tls_context`'s, which is shared with nobody and may be changed.

    Raises:
        ConfigurationError: as `create_tls_context`.
    """
    return _make_context(None if ca_file is None else read_trusted(ca_file, key), protocols)


def _make_context(trusted: TrustedCertificates | None, protocols: tuple[str, ...]) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    if trusted is not None:
        trusted.add_to(context)
    return context


def _fingerprint_system() -> tuple[_File, _File]:
    """Return what changes when the system's roots do: of their file, and of their directory."""
    paths = ssl.get_default_verify_paths()
    return _fingerprint(paths.cafile), _fingerprint(paths.capath)


def _fingerprint(path: str | None) -> _File:
    try:
        found = Path(path).stat() if path is not None else None
    except OSError:
        return None
    return None if found is None else (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size)
