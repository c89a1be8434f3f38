"""Looks for memory that grows slowly: ``python -m tests.soak.growth``. Does I/O.

Does one thing very often, rests, does it as often again, and fails where the second round has left memory behind that the first
had not. What the first round fills is a cache; what the second adds would never end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.end_to_end.programs import write_configuration
from tests.soak.connection import Connection, NotOpened, Way, open_connection
from tests.soak.journal import Journal
from tests.soak.plan import Ending
from tests.soak.response import Response, read_response
from tests.soak.stage import HOST, WILDCARD, create_certificates, set_up
from tests.soak.watch import MEGABYTE, Held, measure, wait_for_rest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.soak.stage import Stage

MEMORY_ALLOWANCE_BYTES: Final = 6 * MEGABYTE
DESCRIPTOR_ALLOWANCE: Final = 4
_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
_AT_ONCE: Final = 50
_CONNECTIONS_AT_ONCE: Final = 20
_REST_S: Final = 30.0


class Answering(asyncio.Protocol):
    """An upstream that answers requests without content, as fast as they come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER * data.count(b"\r\n\r\n"))


async def ask(connection: Connection, targets: list[str]) -> list[int]:
    """Sends requests in one go; returns what they were answered."""
    host = connection.host
    for target in targets:
        named = target.partition("://")[2].partition("/")[0] or host
        connection.writer.write(f"GET {target} HTTP/1.1\r\nHost: {named}\r\n\r\n".encode())
    statuses = []
    for _ in targets:
        response = Response()
        await read_response(connection.reader, "GET", response)
        statuses.append(response.status)
    return statuses


def expect(statuses: list[int], wanted: int) -> None:
    """Fails where an answer is not as it should be: then it is something else that is measured."""
    assert set(statuses) == {wanted}, statuses


async def many_requests(stage: Stage, first: int, count: int) -> None:
    """All through one connection."""
    connection = await open_connection(stage.listeners, Way.CONNECT, HOST)
    for start in range(first, first + count, _AT_ONCE):
        expect(await ask(connection, [f"/{number}" for number in range(start, start + _AT_ONCE)]), 200)
    connection.end(Ending.CLOSE)


async def many_connections(stage: Stage, first: int, count: int) -> None:
    """Each with one request, and TLS in every second."""
    listeners = stage.listeners

    async def one(number: int) -> None:
        connection = await open_connection(listeners, Way.CONNECT if number % 2 else Way.FORWARD, HOST)
        expect(await ask(connection, [f"{connection.prefix}/{number}"]), 200)
        connection.end(Ending.RESET if number % 3 else Ending.CLOSE)

    await several(one, first, count)


async def many_hosts(stage: Stage, first: int, count: int) -> None:
    """Each below a route's wildcard, intercepted with a certificate of its own."""

    async def one(number: int) -> None:
        connection = await open_connection(stage.listeners, Way.CONNECT, f"h{number}.{WILDCARD[2:]}")
        expect(await ask(connection, ["/"]), 200)
        connection.end(Ending.CLOSE)

    await several(one, first, count)


async def many_refused_names(stage: Stage, first: int, count: int) -> None:
    """Each the authority of an https URL that no route names: refused, which ends the connection."""

    async def one(number: int) -> None:
        connection = await open_connection(stage.listeners, Way.FORWARD, HOST)
        expect(await ask(connection, [f"https://nonsense-{number}.example.test:{number % 60_000 + 1}/"]), 403)
        connection.end(Ending.CLOSE)

    await several(one, first, count)


async def many_unreachable_names(stage: Stage, first: int, count: int) -> None:
    """Each an address to which plain http may be passed on, and at which nobody listens."""
    port = stage.listeners.plain.partition(":")[2]
    connection = await open_connection(stage.listeners, Way.FORWARD, HOST)
    for start in range(first, first + count, _AT_ONCE):
        numbers = range(start, start + _AT_ONCE)
        targets = [f"http://127.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}:{port}/" for n in numbers]
        expect(await ask(connection, targets), 502)
    connection.end(Ending.CLOSE)


async def many_refused_tunnels(stage: Stage, first: int, count: int) -> None:
    """Each a CONNECT to a port that must not be dialled."""

    async def one(number: int) -> None:
        with contextlib.suppress(NotOpened):
            await open_connection(
                stage.listeners, Way.CONNECT, f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            )
            raise AssertionError("the tunnel was opened")

    await several(one, first, count)


async def many_reloads(stage: Stage, first: int, count: int) -> None:
    """Each of a configuration that differs, so that all that is built from it is built anew."""

    def done() -> int:
        return sum(line.endswith("reloaded") for line in stage.proxy.lines)

    settings = dict(stage.settings)
    for number in range(first, first + count):
        before = done()
        settings["routes"][0]["set_headers"] = {"Generation": str(number)}  # type: ignore[index]  # a list of mappings
        await asyncio.to_thread(write_configuration, settings, stage.proxy.config_file.parent)
        stage.proxy.signal(signal.SIGHUP)
        async with asyncio.timeout(_REST_S):
            while done() == before:  # noqa: ASYNC110  # a line of another process
                await asyncio.sleep(0.02)


async def several(work: Callable[[int], Awaitable[None]], first: int, count: int) -> None:
    """Does something for each number, some at a time."""
    numbers = iter(range(first, first + count))

    async def client() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS_AT_ONCE):
            group.create_task(client())


HUNTS: Final[dict[str, tuple[Callable[[Stage, int, int], Awaitable[None]], int]]] = {
    "requests on one connection": (many_requests, 200_000),
    "connections": (many_connections, 20_000),
    "intercepted hosts": (many_hosts, 5_000),
    "refused names": (many_refused_names, 100_000),
    "unreachable names": (many_unreachable_names, 100_000),
    "refused tunnels": (many_refused_tunnels, 20_000),
    "reloads": (many_reloads, 200),
}


async def hunt(name: str, scale: float) -> list[str]:
    """Runs one hunt on a proxy of its own; writes the figures, returns what was wrong."""
    work, count = HUNTS[name]
    half = max(int(count * scale / 2) // _AT_ONCE, 1) * _AT_ONCE
    with tempfile.TemporaryDirectory() as directory:
        certificates = create_certificates(Path(directory))
        server = await asyncio.get_running_loop().create_server(
            Answering, "127.0.0.1", 0, ssl=certificates.context, backlog=1024
        )
        port = server.sockets[0].getsockname()[1]
        async with set_up(Path(directory), Journal(), certificates=certificates, dial_port=port) as stage:
            began = time.monotonic()
            held: list[Held] = [measure(stage.proxy.process.pid)]
            left: dict[str, float] = {}
            for first in (0, half):
                await work(stage, first, half)
                left |= await wait_for_rest(stage.proxy, _REST_S)
                held.append(measure(stage.proxy.process.pid))
        server.close()
    figures = ", ".join(f"{each.memory_bytes / MEGABYTE:.1f} MB" for each in held)
    sys.stdout.write(
        f"{name:28} 2 x {half}: {figures}; {held[-1].descriptors} descriptors; {time.monotonic() - began:.0f} s\n"
    )
    sys.stdout.flush()
    faults = [f"{name}: still open at rest: {left}"] if left else []
    if held[2].memory_bytes > held[1].memory_bytes + MEMORY_ALLOWANCE_BYTES:
        faults.append(f"{name}: memory went on growing: {figures}")
    if held[2].descriptors > held[1].descriptors + DESCRIPTOR_ALLOWANCE:
        faults.append(f"{name}: descriptors are left: {held[1].descriptors}, then {held[2].descriptors}")
    return faults


async def run(names: list[str], scale: float) -> list[str]:
    """Runs hunts one after the other; returns what was wrong."""
    return [fault for name in names for fault in await hunt(name, scale)]


def main() -> int:
    """Runs what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tests.soak.growth", description=__doc__)
    parser.add_argument("--only", choices=list(HUNTS), help="default: all")
    parser.add_argument("--scale", type=float, default=1.0, help="of all numbers")
    arguments = parser.parse_args()
    faults = asyncio.run(run([arguments.only] if arguments.only else list(HUNTS), arguments.scale))
    for fault in faults:
        sys.stdout.write(f"VIOLATION {fault}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
