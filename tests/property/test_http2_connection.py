"""A connection with `h2` at its other end: whatever the two do, each understands the other, and no content is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.relay.http2.connection import Connection
from proxy.relay.http2.receiver import Terms
from tests.http2_peer import POST, RESPONSE, Recorder, take_all

if TYPE_CHECKING:
    from proxy.relay.http2.static_table import Field
    from proxy.relay.http2.streams import Stream

TRAILERS: Final = [(b"x-trailer", b"a")]
# A step: what is done, on which of the streams, with how many bytes, at which end.
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "open", "send", "send", "send", "end", "trailers", "reset", "window", "ping", "credit"]
        ),
        st.integers(0, 7),
        st.integers(0, 40_000),
        st.booleans(),
    ),
    max_size=40,
)
cuts = st.sampled_from([1, 9, 100, 16_393, 1 << 20])


class Tally(Recorder):
    """Adds up content, and notes who has been cut short."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, int] = {}
        self.ended: set[int] = set()
        self.over: set[int] = set()

    def on_content(self, stream: Stream, content: bytes, ends: bool) -> None:
        assert content == bytes([stream.id & 0xFF]) * len(content), "another stream's content"
        self.content[stream.id] = self.content.get(stream.id, 0) + len(content)
        self.connection.credit(stream, len(content))
        if ends:
            self.ended.add(stream.id)

    def on_request(self, stream: Stream, request: Any, ends: bool) -> None:
        super().on_request(stream, request, ends)
        if ends:
            self.ended.add(stream.id)

    def on_response(self, stream: Stream, response: Any, ends: bool) -> None:
        super().on_response(stream, response, ends)
        assert not ends

    def on_trailers(self, stream: Stream, fields: list[Field]) -> None:
        assert fields == TRAILERS
        self.ended.add(stream.id)

    def on_reset(self, stream: Stream, code: int, reason: str) -> None:
        assert not reason, code
        self.over.add(stream.id)


class Pair:
    """Ours at one end, `h2` at the other."""

    def __init__(self, *, is_client: bool, cut: int) -> None:
        self.is_client = is_client
        self.cut = cut
        self.tally = Tally()
        self.ours = Connection(self.tally, Terms(stream_window=65_535, highest_stream_window=200_000), is_client)
        self.tally.connection = self.ours
        config = h2.config.H2Configuration(client_side=not is_client, header_encoding=None)
        self.theirs = h2.connection.H2Connection(config)
        self.theirs.initiate_connection()
        # By stream: sent by each end, received by theirs.
        self.sent: dict[tuple[int, bool], int] = {}
        self.ended: set[tuple[int, bool]] = set()
        self.over: set[int] = set()
        self.received: dict[int, int] = {}
        self.received_ends: set[int] = set()
        self.streams: list[int] = []
        self.ours_by_id: dict[int, Stream] = {}

    def exchange(self) -> None:
        """Let everything that is on its way arrive."""
        while True:
            for event in self.theirs.receive_data(take_all(self.ours)):
                self.note(event)
            back = self.theirs.data_to_send()
            for at in range(0, len(back), self.cut):
                self.ours.receive(back[at : at + self.cut], 0.0)
            assert self.ours.fault is None, self.ours.fault
            if not back and not self.ours.output_bytes:
                return

    def note(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.DataReceived):
            assert event.data == bytes([event.stream_id & 0xFF]) * len(event.data), "another stream's content"
            self.received[event.stream_id] = self.received.get(event.stream_id, 0) + len(event.data)
            if event.flow_controlled_length and event.stream_id not in self.over:
                self.theirs.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.StreamEnded):
            self.received_ends.add(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.over.add(event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            assert [tuple(field) for field in event.headers or []] == TRAILERS

    def open(self) -> None:
        if self.is_client:
            if not self.ours.can_open():
                return
            stream = self.ours.open(False)
            number = stream.id
            self.ours.send_head(stream, POST, False)
            self.ours_by_id[number] = stream
            self.exchange()
            self.theirs.send_headers(number, RESPONSE)
        else:
            number = self.theirs.get_next_available_stream_id()
            self.theirs.send_headers(number, POST)
            self.exchange()
            stream = self.tally.streams[number]
            self.ours_by_id[number] = stream
            self.ours.send_head(stream, RESPONSE, False)
        self.streams.append(number)
        self.exchange()

    def can_send(self, number: int, ours: bool) -> bool:
        return (number, ours) not in self.ended and number not in self.over | self.tally.over

    def send(self, number: int, size: int, ours: bool) -> None:
        content = bytes([number & 0xFF]) * size
        if ours:
            self.ours.send_content(self.ours_by_id[number], content, False)
        else:
            size = min(size, self.theirs.local_flow_control_window(number))
            for at in range(0, size, self.theirs.max_outbound_frame_size):
                self.theirs.send_data(number, content[at : min(at + self.theirs.max_outbound_frame_size, size)])
        self.sent[number, ours] = self.sent.get((number, ours), 0) + size

    def end(self, number: int, ours: bool, *, with_trailers: bool) -> None:
        if ours and self.ours_by_id[number].send_window < 0 and not with_trailers:
            return  # RFC 9113 §6.9.1 allows an empty frame there, `h2` does not
        self.ended.add((number, ours))
        if ours:
            self.ours.send_trailers(self.ours_by_id[number], TRAILERS if with_trailers else [])
        elif with_trailers:
            self.theirs.send_headers(number, TRAILERS, end_stream=True)
        else:
            self.theirs.end_stream(number)

    def reset(self, number: int, ours: bool) -> None:
        self.over.add(number)
        if ours:
            self.ours.reset(self.ours_by_id[number], 8)
        else:
            self.theirs.reset_stream(number, 8)


@given(steps, cuts, st.booleans())
@settings(deadline=None)
def test_h2_and_the_core_understand_each_other(
    steps: list[tuple[str, int, int, bool]], cut: int, is_client: bool
) -> None:
    pair = Pair(is_client=is_client, cut=cut)
    pair.exchange()
    for step, which, size, ours in steps:
        number = pair.streams[which % len(pair.streams)] if pair.streams else 0
        if step == "open":
            pair.open()
        elif step == "window":
            pair.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size * 3})
        elif step == "ping":
            pair.theirs.ping(b"12345678")
        elif number and pair.can_send(number, ours):
            if step == "send":
                pair.send(number, size, ours)
            elif step in ("end", "trailers"):
                pair.end(number, ours, with_trailers=step == "trailers")
            elif step == "reset" and pair.can_send(number, not ours):
                pair.reset(number, ours)
        pair.exchange()
    # Whatever waits for a window gets one, so that all is delivered in the end.
    pair.theirs.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: (1 << 31) - 1 - (1 << 24)})
    pair.theirs.increment_flow_control_window(1 << 24)
    pair.exchange()
    for number in set(pair.streams) - pair.over - pair.tally.over:
        assert pair.received.get(number, 0) == pair.sent.get((number, True), 0)
        assert (number in pair.received_ends) is ((number, True) in pair.ended)
        if is_client or (number, True) not in pair.ended:  # a server drops what comes behind its response
            assert pair.tally.content.get(number, 0) == pair.sent.get((number, False), 0)
            assert (number in pair.tally.ended) is ((number, False) in pair.ended)
