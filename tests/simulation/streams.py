"""Bytes both ways, behind CONNECT or 101: each end checks that it gets the other's, and that a cut looks like one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.messages import content_of

if TYPE_CHECKING:
    from tests.simulation.tls import Line
    from tests.simulation.world import Request, World

_PIECE = 20_000


class End:
    """One end of a tunnel: sends its bytes, and ends when it has sent them and has seen the other's end.

    Args:
        world: in which it is.
        plan: what is to go through.
        line: where it sends.
        is_client: which end it is.

    Attributes:
        received: from the other end.
        sent: to the other end.
        has_ended: it has said that it sends no more, and was not cut before.
        is_cut: it was cut, by whomever.
        has_vanished: it is gone without a word, and so is what was on its way.
        moved_at: when it has sent something last.
    """

    def __init__(self, world: World, plan: Request, line: Line, *, is_client: bool) -> None:
        self.received = bytearray()
        self.sent = 0
        self.has_ended = False
        self.is_cut = False
        self.has_vanished = False
        self._has_seen_end = False
        self._world = world
        self._plan = plan
        self._line = line
        self._is_client = is_client
        self._name = f"{'client' if is_client else 'far'} end of {plan.number}"
        self._kind, self._other_kind = (b"q", b"r") if is_client else (b"r", b"q")
        self._size, self._other_size = plan.size, plan.response_size
        if not is_client:
            self._size, self._other_size = self._other_size, self._size
        self._content = content_of(self._kind, plan.number, self._size)
        self._other_content = content_of(self._other_kind, plan.number, self._other_size)
        self._fault = plan.client_fault if is_client else plan.upstream_fault
        self.moved_at = world.loop.now
        world.ends.setdefault(plan.number, {})[is_client] = self

    @property
    def other(self) -> End | None:
        return self._world.ends[self._plan.number].get(not self._is_client)

    def begin(self, before: bytes = b"") -> None:
        """Send, a piece at a time, with `before` in front of the first."""
        if self._is_client or self._plan.at < 0.7 or not self._other_size:
            self._go_on(before)
        elif before:
            self._line.send(before)
        if self._fault in ("stops_reading", "deaf"):
            self._line.endpoint.pause_reading()
            self._world.loop.call_later(20, self._line.endpoint.resume_reading)
        elif self._fault == "reads_late":
            self._line.endpoint.pause_reading()
            self._world.loop.call_later(self._plan.at * 16, self._line.endpoint.resume_reading)

    def _go_on(self, before: bytes = b"") -> None:
        if self._line.endpoint.is_closing() or self.has_ended:
            return
        has_fault = self._fault not in ("", "late", "reads_late", "stops_reading", "deaf", "half_closes")
        most = int(self._size * self._plan.at) if has_fault else self._size
        piece = self._content[self.sent : min(self.sent + _PIECE, most)]
        self.sent += len(piece)
        if before or piece:
            self.moved_at = self._world.loop.now
            self._line.send(before + piece)
        if self.sent < most:
            self._world.loop.call_later(0.01 + 0.3 * self._plan.at, self._go_on)
        elif has_fault:
            self._world.loop.call_later(self._plan.at, self._fail)
        elif self._is_client == (self._plan.at < 0.5) or self._has_seen_end:
            self._end()

    def _end(self) -> None:
        """Say that nothing more comes; and close, where the other has said so."""
        if self.has_ended or self._line.endpoint.is_closing():
            return
        self._world.note(self._name, "ends behind %d bytes", self.sent)
        self.has_ended = True
        if self._has_seen_end:
            self._line.close()
        else:
            self._line.end()

    def _fail(self) -> None:
        endpoint = self._line.endpoint
        if endpoint.is_closing():
            return
        self._world.note(self._name, "%s behind %d bytes", self._fault, self.sent)
        if self._fault in ("leaves", "drops", "end", "closes"):
            self.has_ended = True
            self._line.close()
        elif self._fault in ("vanishes", "silent", "stops_sending"):
            if self._fault == "vanishes":
                self.is_cut = self.has_vanished = True
                endpoint.vanish()
        elif self._fault == "cut" and self._line.tls is not None:
            self.is_cut = True
            endpoint.close()  # FIN without close_notify
        else:
            self.is_cut = True
            endpoint.reset()

    def take(self, data: bytes) -> None:
        begin = len(self.received)
        self.received += data
        if self._other_content[begin : len(self.received)] != data:
            self._world.fail(f"the {self._name} gets what the other end has not sent")
        if not self._is_client and self._plan.at >= 0.7 and len(self.received) == self._other_size:
            self._go_on()

    def take_end(self) -> None:
        """Take note that the other has ended, properly as it seems."""
        world, other = self._world, self.other
        if self._has_seen_end or self.is_cut:
            return
        self._has_seen_end = True
        world.note(self._name, "sees the end behind %d bytes", len(self.received))
        sent = other.sent if other is not None else 0
        # A tunnel that nobody uses is ended by the proxy, properly: whatever was sent has arrived by then.
        is_short = len(self.received) < sent and not (other is not None and other.has_vanished)
        moved_at = max(self.moved_at, 0 if other is None else other.moved_at)
        is_early = (other is None or not other.has_ended) and not world.may_end_tunnels(moved_at)
        if (is_short or is_early) and not world.is_draining:
            world.fail(f"the {self._name} sees a proper end behind {len(self.received)} bytes of {sent}")
        if self._fault in ("silent", "stops_sending"):
            return
        if self.sent == self._size:
            if self.has_ended:
                self._line.close()
            else:
                self._end()

    def take_loss(self, error: Exception | None) -> None:
        """Take note that the connection is gone."""
        if error is not None:
            self.is_cut = True
        if self._world.story.is_calm and (error is not None or len(self.received) < self._other_size):
            self._world.fail(f"the {self._name} is cut behind {len(self.received)} bytes, and nothing is wrong")
