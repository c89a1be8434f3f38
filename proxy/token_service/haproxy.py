"""HAProxy's runtime socket: changes an entry of a map while HAProxy runs. Does I/O on the event loop."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_PATIENCE_S: Final = 2.0
_ANSWER_BYTES: Final = 4_096
# What HAProxy reads as more than itself in a command ("9.3. Unix Socket commands").
_SPECIAL: Final = re.compile(r"([\\; ])")


class MapNotChanged(Exception):  # noqa: N818  # says what is the case
    """HAProxy cannot be reached, or has no such map; the text is ours, for the log."""


async def set_entry(socket: Path, file: Path, key: str, value: str | None) -> None:
    """Give a map's key a value, or take it away.

    Args:
        socket: where HAProxy listens (`stats socket PATH level admin`).
        file: the map's, by which HAProxy knows it.
        key: the entry's.
        value: None: there is to be none.

    Raises:
        MapNotChanged: it could not be done.
    """
    path = _SPECIAL.sub(r"\\\1", str(file))
    if value is None:
        said = await _say(socket, f"del map {path} {key}")
        if said and "not found" not in said:
            raise MapNotChanged(_explain(file))
        return
    escaped = _SPECIAL.sub(r"\\\1", value)
    if await _say(socket, f"set map {path} {key} {escaped}"):
        said = await _say(socket, f"add map {path} {key} {escaped}")
        if said:
            raise MapNotChanged(_explain(file))


def _explain(file: Path) -> str:
    return (
        f"HAProxy knows no map {file}, or refuses the change. Let its configuration name the map by exactly that path, with a "
        "runtime socket of `level admin`, and let tune.bufsize be larger than a token"
    )


async def _say(socket: Path, command: str) -> str:
    """Send a command; return what HAProxy says to it, which is nothing where all is well."""
    try:
        async with asyncio.timeout(_PATIENCE_S):
            reader, writer = await asyncio.open_unix_connection(str(socket))
            try:
                writer.write(f"{command}\n".encode("ascii"))
                await writer.drain()
                return (await reader.read(_ANSWER_BYTES)).decode("ascii", "replace").strip()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        raise MapNotChanged(f"HAProxy's runtime socket {socket} does not answer") from None
