"""A client connection of the relay between a transport that is none and an identity platform that never has a token.

So everything a client can say is read, and nothing ever leaves: whatever is written is the proxy's own answer. No I/O.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from proxy.config.settings import LimitSettings, TimeoutSettings
from proxy.errors import IdentityPlatformUnavailable
from proxy.interception.authority import issue
from proxy.interception.contexts import ServerContexts
from proxy.policy.authority import Authority
from proxy.policy.routing import RouteTable, parse_host_pattern
from proxy.relay.arrival import accept
from proxy.relay.destination_rule import FixedRule, ForwardRule
from proxy.relay.destinations import Destinations, Route
from proxy.relay.redirected import RedirectedConnection, RedirectedRule
from proxy.relay.state import Relay

if TYPE_CHECKING:
    from proxy.relay.destination_rule import DestinationRule
    from proxy.relay.tokens import Source

_HOST: Final = "api.example.test"
_CONNECT: Final = f"CONNECT {_HOST}:443 HTTP/1.1\r\nHost: {_HOST}:443\r\n\r\n".encode()
_ANSWER: Final = re.compile(
    rb"HTTP/1\.1 (?:200 Connection established\r\n\r\n|100 Continue\r\n\r\n|"
    rb"[345][0-9][0-9] [^\r\n]*\r\n(?:[^\r\n:]+: [^\r\n]*\r\n)+\r\n)"
)
_LENGTH: Final = re.compile(rb"Content-Length: ([0-9]+)\r\n")
_TLS_RECORD: Final = re.compile(rb"[\x14-\x17]\x03[\x00-\x04]")
_TURNS: Final = 8


class NoTokens:
    """A token source that never has one."""

    def peek(self, now_mono: float) -> None:
        """None."""

    async def acquire(self) -> Any:
        """Fails."""
        raise IdentityPlatformUnavailable("There is no identity platform here.")

    def report_refusal(self, *_: object, **__: object) -> bool:
        """No other is to be had."""
        return False


class Ear(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self, **extra: object) -> None:
        super().__init__({"peername": ("127.0.0.1", 40_000), **extra})
        self.written = bytearray()
        self.protocol: Any = None
        self.is_closed = False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.is_closed:
            self.written += data

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Says nothing more."""

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Is told, and fed all the same: TCP, too, delivers what is under way."""

    resume_reading = pause_reading

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Has no buffer."""

    def get_write_buffer_size(self) -> int:
        return 0


class RedirectedSocket:
    """What a connection says that the kernel has redirected; see `proxy.relay.original`."""

    def __init__(self, port: int) -> None:
        self._port = port

    def getsockopt(self, _level: int, _option: int, _size: int) -> bytes:
        return b"\x02\x00" + self._port.to_bytes(2, "big") + bytes((203, 0, 113, 10)) + bytes(8)

    def setsockopt(self, *_: object) -> None:
        """Is closed by nobody."""

    def fileno(self) -> int:
        return -1


@cache
def _stage() -> tuple[asyncio.AbstractEventLoop, Relay, tuple[DestinationRule, DestinationRule]]:
    loop = asyncio.new_event_loop()
    contexts = ServerContexts(issue([_HOST], datetime.now(UTC), reason="created for fuzzing"), [_HOST])
    relay = Relay(LimitSettings(), TimeoutSettings(), contexts.context_for, None)
    route = Route(
        name=_HOST,
        tokens=cast("Source", NoTokens()),
        fields=b"",
        field_names=frozenset(),
        dial=None,
        context=ssl.create_default_context(),
    )
    relay.destinations = Destinations(relay, RouteTable([(parse_host_pattern(_HOST), 0)]), [route], None)
    authority = Authority(_HOST, 443)
    fixed = FixedRule(relay.destinations.find(authority, 443), authority, "reverse", own_names=frozenset({"localhost"}))
    return loop, relay, (ForwardRule(), fixed)


def client_connection(data: bytes) -> None:
    """Whatever a client says, on a forward listener, a reverse one or first thing inside a tunnel, gets sound answers.

    The first byte says where, the second where the rest is cut in two.
    """
    loop, relay, (forward, reverse) = _stage()
    where, cut, rest = data[:1], data[1:2], data[2:]
    kind = where[0] % 3 if where else 0
    at = cut[0] if cut else 0
    ear = Ear()
    pieces = [rest[:at], rest[at:]] if kind != 2 else [_CONNECT, rest[:at], rest[at:]]

    async def talk() -> None:
        connection = accept(relay, forward if kind != 1 else reverse)
        ear.set_protocol(connection)
        connection.connection_made(ear)
        for piece in pieces:
            if piece and not ear.is_closed:
                ear.protocol.data_received(piece)
                for _ in range(_TURNS):
                    await asyncio.sleep(0)
        ear.protocol.eof_received()
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        ear.close()
        ear.protocol.connection_lost(None)
        relay.tick(time.monotonic())

    loop.run_until_complete(talk())
    assert relay.accepted_connections.count == 0
    assert not relay.clients
    assert not relay.arrivals
    _assert_sound(bytes(ear.written), is_tunnel=kind == 2)


def redirected_connection(data: bytes) -> None:
    """Whatever a redirected program says is answered in its protocol, or by nothing, and leaves nothing behind.

    The first byte says which port the connection was going to, the second into how large pieces the rest is cut.
    """
    loop, relay, _ = _stage()
    port = 443 if data[:1] < b"\x80" else 80
    step = data[1] % 64 + 1 if len(data) > 1 else 1
    ear = Ear(sockname=("127.0.0.1", 8085), socket=RedirectedSocket(port))

    async def talk() -> None:
        connection = RedirectedConnection(relay, RedirectedRule())
        ear.set_protocol(connection)
        connection.connection_made(ear)
        for at in range(2, len(data), step):
            if not ear.is_closed:
                ear.protocol.data_received(data[at : at + step])
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        ear.protocol.eof_received()
        ear.close()
        ear.protocol.connection_lost(None)
        relay.tick(time.monotonic())

    loop.run_until_complete(talk())
    assert relay.accepted_connections.count == 0
    assert not relay.clients
    assert not relay.arrivals
    _assert_sound(bytes(ear.written), is_tunnel=True)


def _assert_sound(written: bytes, *, is_tunnel: bool) -> None:
    """What was written is whole answers of the proxy's own, and TLS at most behind the answer to CONNECT."""
    assert b"Bearer" not in written
    while written:
        match = _ANSWER.match(written)
        if match is None and is_tunnel:
            assert _TLS_RECORD.match(written), written[:80]
            return
        assert match is not None, written[:80]
        length = _LENGTH.search(match[0])
        written = written[match.end() :]
        if length is not None and not _is_for_head(written):
            written = written[int(length[1]) :]


def _is_for_head(following: bytes) -> bool:
    """Whether no content follows: HEAD gets the fields only."""
    return not following.startswith(b"{")
