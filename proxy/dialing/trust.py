"""Whom the proxy trusts as a TLS client: the system's roots, and those of a file. Reads the file."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def create_tls_context(ca_file: Path | None, key: str = "ca_file") -> ssl.SSLContext:
    """Return a context that verifies names and certificates against the system's roots and the file's.

    Args:
        ca_file: PEM; None for the system's roots alone.
        key: what names the file in the configuration.

    Raises:
        ConfigurationError: the file cannot be read, or holds no certificate.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError):
            raise ConfigurationError(
                f"{ca_file} cannot be used as {key}: it must be a readable PEM file with at least one certificate."
            ) from None
    return context
