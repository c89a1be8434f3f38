"""An event loop whose DNS says what a test wants, so that name resolution can lead anywhere. Does no I/O of its own."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, ClassVar

from proxy.dialing.lookup import Answer, Outcome


class NamedLoop(asyncio.SelectorEventLoop):
    """An event loop with a DNS of its own."""

    names: ClassVar[dict[str, list[str]]] = {}

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
        if host not in self.names and not host.replace(".", "").isdigit() and ":" not in host:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [_result(one, port) for one in self.names.get(host, [host])]


class LoopLookup:
    """Asks the running loop's DNS."""

    limit = 1_000

    def start(self, name: str) -> asyncio.Future[Answer]:
        return asyncio.ensure_future(self._ask(name))

    async def _ask(self, name: str) -> Answer:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(name, 0)
        except OSError:
            return Answer(Outcome.NOT_FOUND)
        return Answer(Outcome.FOUND, tuple(str(entry[4][0]) for entry in found))


def _result(address: str, port: int) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
