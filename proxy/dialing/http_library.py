"""Imports aiohttp without what it makes for itself at its import and we never use. Reads its files."""

from __future__ import annotations

import ssl
import sys

from proxy.dialing.trust import making_contexts


def import_aiohttp() -> None:
    """Import aiohttp, where that has not happened yet.

    Its connector makes two TLS contexts for sessions that are given none, each with the system's roots: 80 ms of CPU and 3 MB. Ours
    are always given one, so those two stay without roots, and would trust nobody.
    """
    if "aiohttp" in sys.modules:
        return
    with making_contexts:
        ssl.SSLContext.set_default_verify_paths = _load_nothing  # type: ignore[method-assign]
        try:
            import aiohttp  # noqa: F401, PLC0415
        finally:
            del ssl.SSLContext.set_default_verify_paths  # the base class's own comes to light again


def _load_nothing(self: ssl.SSLContext) -> None:
    """In place of `set_default_verify_paths`."""
