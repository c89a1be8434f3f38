"""What is refused for its port is refused before anybody is asked about its name."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

import pytest

from proxy.dialing.dialer import Dialer
from proxy.dialing.resolver import Resolver
from proxy.errors import DestinationRefused, UpstreamUnreachable
from proxy.policy.destinations import check_destination
from tests.security.names import LoopLookup


class AskedLoop(asyncio.SelectorEventLoop):
    """Resolves nothing, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []

    async def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> NoReturn:
        self.asked.append(host)
        raise OSError


def permit(address: str, port: int) -> None:
    check_destination(address, port, [], [443])


@pytest.mark.parametrize(
    ("port", "refusal", "asked"),
    [(25, DestinationRefused, []), (443, UpstreamUnreachable, ["internal.example.test"])],
)
def test_a_name_on_a_refused_port_is_not_looked_up(port: int, refusal: type[Exception], asked: list[object]) -> None:
    loop = AskedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner, pytest.raises(refusal):
        runner.run(_connect(port))
    assert loop.asked == asked


async def _connect(port: int) -> None:
    (await Dialer(resolver=Resolver(LoopLookup())).connect("internal.example.test", port, permit)).close()
