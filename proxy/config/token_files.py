"""What can be wrong with `token_files` beside the tokens they name. Does no I/O."""

from __future__ import annotations

import os
import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from proxy.config.sections import sections
from proxy.config.settings import TokenFileFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from proxy.config.faults import Finding
    from proxy.config.sections import Section

# What is a key of HAProxy's map, a name in Traefik and one in Envoy alike.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def check_token_files(root: Section) -> Iterator[Finding]:
    """Yield what is wrong with where tokens are written."""
    seen: set[str] = set()
    for path, section in sections(root, "token_files"):
        text, kind = section.get("path"), section.get("format")
        if isinstance(text, str):
            if os.path.normpath(text) in seen:
                yield (*path, "path"), "another entry writes this file; give each its own"
            seen.add(os.path.normpath(text))
            if not _NAME.fullmatch(PurePath(text).name):
                yield (
                    (*path, "path"),
                    "the file's name is the token's name for the gateway; use letters, digits, dots, hyphens and underscores",
                )
        socket = section.get("haproxy_socket")
        if kind == TokenFileFormat.HAPROXY_MAP and socket is None:
            yield (
                (*path, "haproxy_socket"),
                "HAProxy reads a map's file at its start alone; name its runtime socket (`stats socket PATH level admin`)",
            )
        elif kind != TokenFileFormat.HAPROXY_MAP and socket is not None:
            yield (*path, "haproxy_socket"), "it belongs to format: haproxy-map; remove this key"
