"""TCP as the two ends see it: segments cut anywhere, delays, full buffers, half-close, resets, a peer gone without a word."""

from __future__ import annotations

import asyncio
import math
import os
import socket
from collections import deque
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tests.simulation.loop import VirtualLoop

Address = tuple[str, int]
_FIN: Final = b""
# What the product may ask the kernel about: nothing ever happens to it.
_QUIET: Final = os.open(os.devnull, os.O_RDONLY)


class SimulatedSocket:
    """As much of a socket as the product looks at."""

    family = socket.AF_UNIX  # so that nobody asks the kernel about a TCP connection that it does not have

    def __init__(self, endpoint: Endpoint | None, name: Address, peer: Address | None = None) -> None:
        self.endpoint = endpoint
        self.name = name
        self.peer = peer
        self.resets_on_close = False

    def setsockopt(self, _level: int, option: int, _value: object) -> None:
        if option == socket.SO_LINGER:
            self.resets_on_close = True

    def getsockname(self) -> Address:
        return self.name

    def getpeername(self) -> Address | None:
        return self.peer

    def fileno(self) -> int:
        """Return -1 where the peer has gone: that is how `is_gone` hears of it."""
        return -1 if self.endpoint is not None and self.endpoint.peer.is_dead else _QUIET

    def close(self) -> None:
        if self.endpoint is not None:
            self.endpoint.abort()


class Endpoint(asyncio.Transport):
    """One end of a connection, and a transport as asyncio's are.

    Attributes:
        number: of the connection.
        peer: the other end.
        is_dead: the program has let go of it, or it was reset.
        most_buffered: the most that waited in it for the kernel.
        allowance: how much more than usual may.
        taken: how much its program has read.
        written: how much it has written.
    """

    def __init__(self, network: Network, number: int, name: Address, peer_name: Address, chance: Random) -> None:
        super().__init__()
        self.number = number
        self.socket = SimulatedSocket(self, name, peer_name)
        self.is_dead = False
        self.most_buffered = 0
        self.allowance = 0
        self.taken = 0
        self.high, self.low = 65_536, 16_384
        self.peer: Endpoint
        self._network = network
        self._loop = network.loop
        self._chance = chance
        self._latency_s = chance.choice((0.0002, 0.002, 0.02, 0.08))
        self._segment = chance.choice((1_460, 1_460, 9_000, 200, 17))
        self._segments = 0
        self._window = max(network.least_window, chance.choice((65_536, 16_384, 4_096)))
        self._protocol: Any = None
        self._out = bytearray()
        self._in: deque[bytes] = deque()
        self._on_the_way = 0
        self._arrives_at = 0.0
        self._is_paused = False
        self._is_closing = False
        self._is_stalled = False
        self._wants_fin = False
        self._has_fin = False
        self._is_told = False
        self._is_lost = False
        self.written = 0
        self._writes: list[tuple[int, float, int]] = []
        self.has_vanished = False

    # What the product asks of a transport.

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "socket":
            return self.socket
        return {"peername": self.socket.peer, "sockname": self.socket.name}.get(name, default)

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_protocol(self) -> Any:
        return self._protocol

    def is_closing(self) -> bool:
        return self._is_closing

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = 65_536 if high is None else high
        self.low = self.high // 4 if low is None else low

    def get_write_buffer_size(self) -> int:
        return len(self._out)

    def write(self, data: Any) -> None:
        if self._wants_fin and not self._is_closing:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._is_closing or not data:
            return
        self._out += data
        self.written += len(data)
        self._writes.append((self.written, self._loop.true_time(), self.taken))
        self._send()
        self.most_buffered = max(self.most_buffered, len(self._out))
        if len(self._out) > self.high and not self._is_stalled:
            self._is_stalled = True
            self._protocol.pause_writing()

    def can_write_eof(self) -> bool:
        return True

    @property
    def has_ended(self) -> bool:
        """Whether nothing can be written any more."""
        return self._wants_fin or self._is_closing

    def write_eof(self) -> None:
        if not self._wants_fin and not self._is_closing:
            self._wants_fin = True
            self._send()

    def pause_reading(self) -> None:
        self._is_paused = True

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._loop.call_soon(self._deliver)

    def is_reading(self) -> bool:
        return not self._is_paused

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = self._wants_fin = True
            self._send()

    def abort(self) -> None:
        self._is_closing = True
        self._out.clear()
        self._let_go(None)

    # What only the simulated world asks for.

    async def attach(self, protocol: Any) -> None:
        """Give the connection to a protocol, as `create_connection` does."""
        await asyncio.sleep(0)
        self._protocol = protocol
        self.begin()

    def begin(self) -> None:
        if self.is_dead:
            self._is_closing = True
        self._protocol.connection_made(self)
        self._loop.call_soon(self._deliver)
        if self.is_dead:
            self._tell(ConnectionResetError())

    def when_written(self, offset: int) -> tuple[float, int]:
        """Return the true time at which the byte with this number was written, and how much had been read by then."""
        return next((at, taken) for end, at, taken in self._writes if end > offset)

    def reset(self) -> None:
        """Cut the connection with RST."""
        self.socket.resets_on_close = True
        self.abort()

    def vanish(self) -> None:
        """Go without a word: nothing arrives any more, either way."""
        self._network.note("net", "connection %d: one end vanishes", self.number)
        self.has_vanished = self.is_dead = self._is_closing = self.peer._is_lost = True
        self._out.clear()
        self._tell(None)

    # Within.

    def _send(self) -> None:
        """Put on the way what the window lets through, and behind the last byte the end."""
        if self.is_dead:
            return
        while self._out and self._on_the_way < self._window:
            size = min(self._cut(), self._window - self._on_the_way, len(self._out))
            segment = bytes(self._out[:size])
            del self._out[:size]
            self._on_the_way += size
            self._travel(self.peer._arrive, segment)
        if not self._out and self._wants_fin:
            if self._is_closing:
                self._let_go(None)
            elif not self._has_fin:
                self._has_fin = True
                self._travel(self.peer._arrive, _FIN)

    def _cut(self) -> int:
        """Return where a segment ends: anywhere in the first ones, so that heads are cut, and later where it is cheap."""
        self._segments += 1
        return 9_000 if self._segments % 200 > 40 else self._chance.randint(1, self._segment)

    def _travel(self, arrive: Callable[..., object], *what: object) -> None:
        if self._is_lost:
            return
        late_s = self._latency_s if self._chance.random() > 0.005 else self._chance.uniform(0.2, 2.5)
        at, grid_s = self._loop.now + late_s, self._network.grid_s
        if grid_s:
            at = math.ceil(at / grid_s) * grid_s
        self._arrives_at = max(self._arrives_at + 1e-6, at)  # never two at once: order holds
        self._loop.call_at(self._arrives_at, arrive, *what)

    def _arrive(self, segment: bytes) -> None:
        if self.is_dead:
            if segment and not self.has_vanished:
                self._travel(self.peer._on_reset)
            return
        self._in.append(segment)
        self._deliver()

    def _deliver(self) -> None:
        while self._in and not (self._is_paused or self._is_closing or self._protocol is None):
            segment = self._in.popleft()
            if segment is _FIN or not segment:
                if not self._protocol.eof_received():
                    self.close()
                return
            if self._in and self._in[0] and self._chance.random() < 0.5:
                segment += self._in.popleft()
            self.taken += len(segment)
            self._acknowledge(len(segment))
            self._protocol.data_received(segment)

    def _acknowledge(self, size: int) -> None:
        peer = self.peer
        peer._on_the_way -= size
        if peer._out or peer._is_stalled:
            self._loop.call_later(self._latency_s, peer._on_window)

    def _on_window(self) -> None:
        self._send()
        if self._is_stalled and len(self._out) <= self.low and not self.is_dead:
            self._is_stalled = False
            self._protocol.resume_writing()

    def _let_go(self, error: Exception | None) -> None:
        if self.is_dead:
            return
        self.is_dead = True
        # As Linux: data that nobody has read, or SO_LINGER with 0, makes it a reset. A reset may destroy what is on its way.
        if self.socket.resets_on_close or any(self._in):
            self._travel(self.peer._on_reset)
        elif not self._has_fin:
            self._has_fin = True
            self._travel(self.peer._arrive, _FIN)
        self._tell(error)

    def _on_reset(self) -> None:
        if self.is_dead or self._is_lost:
            return
        self._network.note("net", "connection %d: reset arrives at %s", self.number, self.socket.name)
        self.is_dead = self._is_closing = True
        self._out.clear()
        self._in.clear()
        self._tell(ConnectionResetError("reset by peer"))

    def _tell(self, error: Exception | None) -> None:
        if self._protocol is not None and not self._is_told:
            self._is_told = True
            self._loop.call_soon(self._on_told, error)

    def _on_told(self, error: Exception | None) -> None:
        self._protocol.connection_lost(error)


class Server:
    """As much of `asyncio.Server` as the product uses."""

    def __init__(self, network: Network, address: Address, factory: Callable[[], Any]) -> None:
        self.network = network
        self.address = address
        self.factory = factory
        self.sockets = (SimulatedSocket(None, address),)

    def close(self) -> None:
        if self.network.servers.get(self.address) is self:
            del self.network.servers[self.address]


class Network:
    """Everything that is connected.

    Attributes:
        servers: what accepts connections.
        endpoints: those of the proxy.
        accepted: those among them that clients have opened.
        least_window: how much may be on its way at least; where streams share a connection, a small one makes for long waits.
        grid_s: all arrives at multiples of this; 0: whenever.
    """

    def __init__(self, loop: VirtualLoop, draw: Callable[[str], Random], note: Callable[..., None]) -> None:
        self.loop = loop
        self.draw = draw
        self.note = note
        self.servers: dict[Address, Server] = {}
        self.endpoints: list[Endpoint] = []
        self.accepted: list[Endpoint] = []
        self.grid_s = 0.0
        self.least_window = 0
        self._connections = 0

    def listen(self, factory: Callable[[], Any], host: str, port: int) -> Server:
        if (host, port) in self.servers:
            raise OSError(98, "Address already in use")
        server = self.servers[host, port] = Server(self, (host, port), factory)
        return server

    def join(self, near: Address, far: Address) -> tuple[Endpoint, Endpoint]:
        """Return both ends of a new connection."""
        self._connections += 1
        number = self._connections
        chance = self.draw(f"{near} to {far}")
        ends = Endpoint(self, number, near, far, chance), Endpoint(self, number, far, near, chance)
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        return ends

    def call(self, protocol: Any, name: Address, address: Address) -> Endpoint | None:
        """Connect a client's protocol to the proxy; None where nothing listens."""
        server = self.servers.get(address)
        if server is None:
            return None
        near, far = self.join(name, address)
        self.endpoints.append(far)
        self.accepted.append(far)
        near._protocol, far._protocol = protocol, server.factory()
        far.begin()
        near.begin()
        return near
