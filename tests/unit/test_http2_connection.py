"""One connection without I/O: windows, turns, limits, ends, and both roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from proxy.relay.http2 import frames as f
from proxy.relay.http2.faults import (
    CANCEL,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
)
from proxy.relay.http2.receiver import Terms
from tests.http2_peer import (
    POST,
    REQUEST,
    RESPONSE,
    Answering,
    Recorder,
    block,
    connect,
    data,
    frame,
    headers,
    read_frames,
    reset,
    settings,
    take_all,
    window_update,
)

if TYPE_CHECKING:
    from proxy.relay.http2.connection import Connection

GET: Final = headers(1, REQUEST)
OPEN: Final = headers(1, POST, ends=False)
TRAILERS: Final = [(b"x-trailer", b"a")]


def serve(terms: Terms | None = None) -> tuple[Recorder, Connection]:
    recorder = Recorder()
    return recorder, connect(recorder, is_client=False, terms=terms)


def call(terms: Terms | None = None) -> tuple[Recorder, Connection]:
    recorder = Recorder()
    return recorder, connect(recorder, is_client=True, terms=terms)


def kinds(connection: Connection) -> list[tuple[int, int]]:
    return [(one.kind, one.stream_id) for one in read_frames(take_all(connection))]


# Messages


def test_a_request_with_content_and_trailers_is_told_piece_by_piece() -> None:
    recorder, connection = serve()
    connection.receive(OPEN + data(1, b"a") + data(1, b"") + data(1, b"b") + headers(1, TRAILERS), 0.0)
    assert recorder.events == [
        ("request", 1, b"POST", b"/", (), False),
        ("content", 1, b"a", False),
        ("content", 1, b"b", False),
        ("trailers", 1, tuple(TRAILERS)),
    ]
    connection.send_head(recorder.streams[1], RESPONSE, True)
    assert recorder.events[-1] == ("closed", 1)
    assert not connection.streams


def test_a_response_with_interim_ones_content_and_trailers_is_told_piece_by_piece() -> None:
    recorder, connection = call()
    stream = connection.open(False)
    connection.send_head(stream, REQUEST, True)
    assert kinds(connection) == [(f.HEADERS, 1)]
    interim = headers(1, [(b":status", b"103"), (b"link", b"</a>")], ends=False)
    connection.receive(interim + headers(1, RESPONSE, ends=False) + data(1, b"a") + headers(1, TRAILERS), 0.0)
    assert recorder.events == [
        ("interim", 1, 103, ((b"link", b"</a>"),)),
        ("response", 1, 200, (), False),
        ("content", 1, b"a", False),
        ("trailers", 1, tuple(TRAILERS)),
        ("closed", 1),
    ]


def test_a_response_that_ends_with_its_head_stays_one_frame() -> None:
    recorder, connection = serve()
    connection.receive(GET, 0.0)
    connection.send_head(recorder.streams[1], [*RESPONSE, (b"grpc-status", b"14")], True)
    (only,) = read_frames(take_all(connection))
    assert only.flags == f.END_STREAM | f.END_HEADERS


def test_trailers_follow_content_that_waits_for_a_window() -> None:
    recorder, connection = serve()
    connection.receive(settings((f.INITIAL_WINDOW_SIZE, 2)) + GET, 0.0)
    take_all(connection)
    stream = recorder.streams[1]
    connection.send_head(stream, RESPONSE, False)
    connection.send_content(stream, b"abc", False)
    connection.send_trailers(stream, TRAILERS)
    assert kinds(connection) == [(f.HEADERS, 1), (f.DATA, 1)]
    connection.receive(window_update(1, 1), 0.0)
    assert [(one.kind, one.flags) for one in read_frames(take_all(connection))] == [(f.DATA, 0), (f.HEADERS, 5)]
    assert recorder.events[-1] == ("closed", 1)


def test_a_long_head_continues() -> None:
    recorder, connection = serve()
    connection.receive(GET, 0.0)
    connection.send_head(recorder.streams[1], [*RESPONSE, (b"x", b"a" * 40_000)], True)
    assert kinds(connection) == [(f.HEADERS, 1), (f.CONTINUATION, 1), (f.CONTINUATION, 1)]


@pytest.mark.parametrize(
    ("status", "to_head", "content", "is_sound"),
    [
        pytest.param(b"200", True, b"", True, id="HEAD"),
        pytest.param(b"304", False, b"", True, id="304"),
        pytest.param(b"204", False, b"", True, id="204"),
        pytest.param(b"200", False, b"", False, id="too little"),
        pytest.param(b"200", False, b"12345", True, id="exact"),
        pytest.param(b"200", False, b"123456", False, id="too much"),
        pytest.param(b"200", True, b"12345", False, id="content for HEAD"),
        pytest.param(b"304", False, b"12345", False, id="content with 304"),
    ],
)
def test_a_responses_content_is_held_to_its_length(
    status: bytes, to_head: bool, content: bytes, is_sound: bool
) -> None:
    recorder, connection = call()
    connection.send_head(connection.open(to_head), REQUEST, True)
    head = headers(1, [(b":status", status), (b"content-length", b"5")], ends=False)
    connection.receive(head + (data(1, content) if content else b"") + data(1, b"", ends=True), 0.0)
    assert (recorder.events[-1] == ("reset", 1, PROTOCOL_ERROR, "malformed")) is not is_sound
    assert connection.fault is None


@pytest.mark.parametrize("end", [data(1, b"", ends=True), headers(1, TRAILERS)], ids=["data", "trailers"])
def test_too_little_content_ends_the_stream_and_no_other(end: bytes) -> None:
    recorder, connection = serve()
    declared = headers(1, [*POST, (b"content-length", b"5")], ends=False)
    connection.receive(declared + data(1, b"1234") + end + headers(3, REQUEST), 0.0)
    assert [event[:2] for event in recorder.events] == [("request", 1), ("content", 1), ("reset", 1), ("request", 3)]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(data(1, b"a"), id="content before the head"),
        pytest.param(headers(1, [(b":status", b"100")]), id="an interim response at the end"),
        pytest.param(headers(1, [(b":status", b"101")], ends=False), id="101"),
        pytest.param(headers(1, REQUEST), id="a request"),
        pytest.param(headers(1, [*RESPONSE, (b"transfer-encoding", b"chunked")]), id="chunked"),
    ],
)
def test_a_malformed_response_ends_its_stream(wire: bytes) -> None:
    recorder, connection = call()
    connection.send_head(connection.open(False), REQUEST, True)
    connection.receive(wire, 0.0)
    assert recorder.events == [("reset", 1, PROTOCOL_ERROR, "malformed")]
    assert connection.fault is None


# Windows


def test_a_streams_window_is_given_back_when_its_content_has_been_passed_on() -> None:
    recorder, connection = serve(Terms(stream_window=65_535, highest_stream_window=65_535))
    connection.receive(OPEN + data(1, bytes(16_384)) * 3, 0.0)
    assert kinds(connection) == []
    connection.credit(recorder.streams[1], 16_384)
    connection.credit(recorder.streams[1], 16_384)
    (update,) = read_frames(take_all(connection))
    assert (update.kind, update.stream_id, update.code) == (f.WINDOW_UPDATE, 1, 32_768)
    connection.receive(data(1, bytes(16_384)) * 2, 0.0)
    assert connection.fault is None
    assert recorder.events[-1] == ("content", 1, bytes(16_384), False)
    connection.receive(data(1, bytes(16_384)), 0.0)
    assert ("reset", 1, FLOW_CONTROL_ERROR, "flow_control") in recorder.events


def test_a_slow_reader_stalls_its_stream_and_no_other() -> None:
    window = 262_144
    recorder, connection = serve(Terms(stream_window=window, connection_window=window * 2))
    connection.receive(OPEN + data(1, bytes(16_384)) * 16, 0.0)
    assert (f.WINDOW_UPDATE, 1) not in kinds(connection)
    connection.receive(headers(3, POST, ends=False), 0.0)
    for _ in range(64):  # four times the connection's window
        connection.receive(data(3, bytes(16_384)), 0.0)
        connection.credit(recorder.streams[3], 16_384)
    assert connection.fault is None
    assert len(connection.streams) == 2


def test_a_window_grows_where_its_sender_uses_it_up() -> None:
    recorder, connection = call(Terms(stream_window=65_536, highest_stream_window=262_144))
    stream = connection.open(False)
    connection.send_head(stream, REQUEST, True)
    connection.receive(headers(1, RESPONSE, ends=False), 0.0)
    for _ in range(4):
        connection.receive(data(1, bytes(16_384)) * (stream.receive_window // 16_384), 0.0)
        connection.credit(stream, stream.window - stream.receive_window - stream.uncredited)
    assert stream.window == 262_144
    assert connection.fault is None
    assert recorder.events[-1][0] == "content"


def test_padding_counts_and_is_given_back() -> None:
    recorder, connection = serve(Terms(stream_window=65_535, highest_stream_window=65_535))
    padded = frame(f.DATA, f.PADDED, 1, b"\xff" + b"a" + bytes(255))
    connection.receive(OPEN + padded * 1_000, 0.0)
    assert connection.fault is None
    assert ("reset", 1, FLOW_CONTROL_ERROR, "flow_control") not in recorder.events
    assert sum(event[0] == "content" for event in recorder.events) == 1_000


def test_streams_take_turns() -> None:
    recorder, connection = serve()
    connection.receive(settings((f.INITIAL_WINDOW_SIZE, 1 << 20)) + GET + headers(3, REQUEST), 0.0)
    for number in (1, 3):
        connection.send_head(recorder.streams[number], RESPONSE, False)
        connection.send_content(recorder.streams[number], bytes(131_072), True)
    take_all(connection)  # all that the connection's window takes, of the first
    connection.receive(window_update(0, 1 << 20), 0.0)
    turns = [number for kind, number in kinds(connection) if kind == f.DATA]
    assert turns[:8] in ([1, 3] * 4, [3, 1] * 4)


def test_content_waits_while_the_transport_is_full_and_its_sender_is_told() -> None:
    recorder, connection = serve()
    connection.receive(settings((f.INITIAL_WINDOW_SIZE, 1 << 20)) + window_update(0, 1 << 20) + GET, 0.0)
    take_all(connection)
    stream = recorder.streams[1]
    connection.send_head(stream, RESPONSE, False)
    connection.is_held = True
    assert connection.send_content(stream, bytes(60_000), False)
    assert not connection.send_content(stream, bytes(60_000), False)
    connection.receive(frame(f.PING, 0, 0, bytes(8)), 0.0)
    assert kinds(connection) == [(f.HEADERS, 1), (f.PING, 0)]
    connection.is_held = False
    assert sum(len(one.payload) for one in read_frames(take_all(connection))) == 120_000
    assert recorder.events[-1] == ("writable", 1)


def test_an_end_without_content_needs_no_window() -> None:
    recorder, connection = serve()
    connection.receive(settings((f.INITIAL_WINDOW_SIZE, 0)) + GET, 0.0)
    take_all(connection)
    connection.send_head(recorder.streams[1], RESPONSE, False)
    connection.send_content(recorder.streams[1], b"", True)
    assert kinds(connection) == [(f.HEADERS, 1), (f.DATA, 1)]


# Ends


def test_a_cancelled_stream_keeps_its_place_until_it_is_released() -> None:
    recorder, connection = serve(Terms(streams=2))
    connection.receive(GET + reset(1) + headers(3, REQUEST) + reset(3), 0.0)
    assert not connection.streams
    connection.receive(headers(5, REQUEST), 0.0)
    assert [(one.kind, one.code) for one in read_frames(take_all(connection))] == [(f.RST_STREAM, REFUSED_STREAM)]
    for _ in range(2):
        connection.release(recorder.streams[1])
    connection.receive(headers(7, REQUEST), 0.0)
    assert connection.places == 2
    assert recorder.events[-1][:2] == ("request", 7)


def test_content_behind_a_complete_response_is_dropped_and_then_refused() -> None:
    recorder, connection = serve()
    connection.receive(OPEN, 0.0)
    connection.send_head(recorder.streams[1], [(b":status", b"413")], True)
    take_all(connection)
    recorder.events.clear()
    for _ in range(64):
        connection.receive(data(1, bytes(16_384)), 0.0)
    last = read_frames(take_all(connection))[-1]
    assert (last.kind, last.code) == (f.RST_STREAM, NO_ERROR)
    assert recorder.events == []
    connection.receive(data(1, bytes(16_384)), 0.0)  # still on its way
    assert kinds(connection) == []


def test_a_request_that_ends_behind_its_response_ends_in_peace() -> None:
    recorder, connection = serve()
    connection.receive(OPEN, 0.0)
    connection.send_head(recorder.streams[1], RESPONSE, True)
    take_all(connection)
    connection.receive(data(1, b"rest", ends=True), 0.0)
    assert recorder.events[-1] == ("closed", 1)
    assert kinds(connection) == []


def test_what_arrives_late_for_a_stream_of_ours_that_we_reset_is_read_and_ignored() -> None:
    recorder, connection = call()
    stream = connection.open(False)
    connection.send_head(stream, REQUEST, True)
    connection.reset(stream, CANCEL)
    take_all(connection)
    connection.receive(headers(1, RESPONSE, ends=False) + data(1, b"a", ends=True) + reset(1), 0.0)
    assert recorder.events == []
    assert connection.fault is None
    assert connection.send_content(stream, b"late", True)
    assert kinds(connection) == []


def test_goaway_leaves_what_was_not_processed_to_be_repeated() -> None:
    recorder, connection = call()
    streams = [connection.open(False) for _ in range(3)]
    for stream in streams:
        connection.send_head(stream, REQUEST, True)
    connection.receive(frame(f.GOAWAY, 0, 0, (3).to_bytes(4, "big") + bytes(4)), 0.0)
    assert recorder.events == [("reset", 5, REFUSED_STREAM, ""), ("goaway", 0)]
    assert [stream.is_unprocessed for stream in streams] == [False, False, True]
    assert not connection.can_open()
    connection.receive(headers(1, RESPONSE) + headers(3, RESPONSE), 0.0)
    assert recorder.events[-1] == ("closed", 3)


def test_a_refused_stream_can_be_repeated() -> None:
    _, connection = call()
    stream = connection.open(False)
    connection.send_head(stream, REQUEST, True)
    connection.receive(reset(1, REFUSED_STREAM), 0.0)
    assert stream.is_unprocessed
    assert connection.can_open()


def test_as_many_streams_are_opened_as_the_other_side_allows_at_the_time() -> None:
    recorder, connection = call()
    connection.receive(settings((f.MAX_CONCURRENT_STREAMS, 1)), 0.0)
    assert connection.can_open()
    connection.send_head(connection.open(False), REQUEST, True)
    assert not connection.can_open()
    connection.receive(settings((f.MAX_CONCURRENT_STREAMS, 0)) + headers(1, RESPONSE), 0.0)
    assert not connection.can_open()
    connection.receive(settings((f.MAX_CONCURRENT_STREAMS, 5)), 0.0)
    assert connection.can_open()
    assert ("settings",) in recorder.events


def test_leaving_in_two_steps_serves_what_is_on_its_way() -> None:
    recorder, connection = serve()
    connection.receive(GET, 0.0)
    connection.announce_end()
    connection.receive(headers(3, REQUEST), 0.0)
    connection.go_away()
    connection.receive(headers(5, REQUEST) + data(5, b""), 0.0)
    goaways = [
        int.from_bytes(one.payload[:4], "big") for one in read_frames(take_all(connection)) if one.kind == f.GOAWAY
    ]
    assert goaways == [(1 << 31) - 1, 3]
    assert [event[1] for event in recorder.events] == [1, 3]


# Limits


def fault_of(connection: Connection) -> tuple[int, str]:
    assert connection.fault is not None
    last = read_frames(take_all(connection))[-1]
    assert (last.kind, last.code) == (f.GOAWAY, connection.fault.code)
    return connection.fault.code, connection.fault.reason


def test_rapid_reset_ends_the_connection() -> None:
    recorder, connection = serve()
    for number in range(1, 2_400, 2):
        connection.receive(headers(number, REQUEST) + reset(number), 0.0)
        if number in recorder.streams:
            connection.release(recorder.streams[number])
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "flood_resets")
    assert len(recorder.requests) == 1_001


def test_resets_that_the_client_makes_us_send_count_as_well() -> None:
    recorder, connection = serve()
    for number in range(1, 2_400, 2):
        connection.receive(headers(number, POST, ends=False) + window_update(number, 0), 0.0)
        if number in recorder.streams:
            connection.release(recorder.streams[number])
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "flood_resets")


def test_resets_that_are_spread_over_time_are_borne() -> None:
    recorder, connection = serve()
    for number in range(1, 6_000, 2):
        connection.receive(headers(number, REQUEST) + reset(number), number / 60)
        connection.release(recorder.streams[number])
    assert connection.fault is None


def test_a_block_in_too_many_pieces_ends_the_connection() -> None:
    _, connection = serve()
    whole = block(REQUEST)
    connection.receive(frame(f.HEADERS, 0, 1, whole), 0.0)
    connection.receive(frame(f.CONTINUATION, 0, 1, b"\x82") * 9, 0.0)
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "flood_continuation")


def test_an_empty_continuation_ends_the_connection() -> None:
    _, connection = serve()
    connection.receive(frame(f.HEADERS, 0, 1, block(REQUEST)) + frame(f.CONTINUATION, 0, 1), 0.0)
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "flood_continuation")


def test_settings_with_too_many_entries_end_the_connection() -> None:
    _, connection = serve()
    connection.receive(settings(*[(0xFF, 1)] * 33), 0.0)
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "flood_settings")


@pytest.mark.parametrize(
    "one",
    [
        frame(f.PING, 0, 0, bytes(8)),
        settings(),
        frame(f.PRIORITY, 0, 3, bytes(5)),
        data(1, b""),
        frame(0xFA, 0, 0, bytes(100)),
        window_update(0, 1),
    ],
    ids=["PING", "SETTINGS", "PRIORITY", "empty DATA", "unknown", "WINDOW_UPDATE"],
)
def test_frames_that_carry_nothing_end_the_connection(one: bytes) -> None:
    _, connection = serve()
    connection.receive(OPEN, 0.0)
    many = one * (100_000 // len(one))
    for _ in range(90):
        connection.receive(many, 0.0)
        take_all(connection)
        if connection.fault is not None:
            break
    assert connection.fault is not None
    assert connection.fault.reason == "flood_overhead"


def test_a_ping_with_each_call_is_no_flood() -> None:
    server = Answering()
    connection = connect(server, is_client=False)
    for number in range(1, 2_001, 2):
        connection.receive(headers(number, REQUEST) + frame(f.PING, 0, 0, bytes(8)), 0.0)
    assert connection.fault is None


def test_too_many_fields_are_answered_and_the_table_stays_right() -> None:
    server = Answering()
    connection = connect(server, is_client=False, terms=Terms(field_count=10))
    many = [(b"x-%d" % number, b"a") for number in range(20)]
    connection.receive(headers(1, [*REQUEST, *many]) + headers(3, REQUEST), 0.0)
    assert [event[:2] for event in server.events if event[0] != "closed"] == [("oversize", 1), ("request", 3)]
    sent = kinds(connection)
    assert sent == [(f.HEADERS, 1), (f.HEADERS, 3), (f.DATA, 3)]
    assert connection.places == 0


def test_one_byte_references_to_a_large_entry_end_the_connection() -> None:
    recorder, connection = serve()
    bomb = b"\x40\x01a\x7f\x81\x1e" + b"x" * 3_968 + b"\xbe" * 12_000
    connection.receive(frame(f.HEADERS, f.END_HEADERS, 1, block(REQUEST) + bomb), 0.0)
    assert fault_of(connection) == (ENHANCE_YOUR_CALM, "fields")
    assert recorder.events == []


def test_a_response_with_too_many_fields_ends_its_stream() -> None:
    recorder, connection = call(Terms(field_count=5))
    connection.send_head(connection.open(False), REQUEST, True)
    connection.receive(headers(1, RESPONSE + [(b"x-%d" % number, b"a") for number in range(20)]), 0.0)
    assert recorder.events == [("reset", 1, ENHANCE_YOUR_CALM, "fields")]


def test_nothing_is_read_behind_a_fault() -> None:
    recorder, connection = serve()
    connection.receive(data(0, b"") + GET, 0.0)
    connection.receive(GET, 0.0)
    assert fault_of(connection) == (PROTOCOL_ERROR, "framing")
    assert recorder.events == []


def test_a_server_that_pushes_or_opens_streams_ends_its_connection() -> None:
    for wire in (
        frame(f.PUSH_PROMISE, f.END_HEADERS, 1, bytes(4) + b"\x82"),
        headers(2, RESPONSE),
        headers(3, RESPONSE),
    ):
        _, connection = call()
        connection.send_head(connection.open(False), REQUEST, True)
        connection.receive(wire, 0.0)
        assert fault_of(connection) == (PROTOCOL_ERROR, "framing")


def test_data_on_a_stream_that_a_client_has_ended_is_refused_once() -> None:
    _, connection = serve()
    connection.receive(GET + data(1, b"a") + data(1, b"b"), 0.0)
    assert [(one.kind, one.code) for one in read_frames(take_all(connection))] == [(f.RST_STREAM, STREAM_CLOSED)]


def test_only_so_many_ends_are_remembered() -> None:
    server = Answering()
    connection = connect(server, is_client=False)
    for number in range(1, 4_001, 2):
        connection.receive(headers(number, REQUEST), 0.0)
        take_all(connection)
        connection.receive(window_update(0, 100), 0.0)
    assert len(connection._closed) <= 512
    assert connection.fault is None
