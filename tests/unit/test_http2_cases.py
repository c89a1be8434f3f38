"""The core, as a server, in all that h2spec asks, at once and byte by byte."""

from __future__ import annotations

from typing import Final

import pytest

from proxy.relay.http2.connection import Connection
from proxy.relay.http2.receiver import Terms
from tests.http2_cases import CASES, Case
from tests.http2_peer import Answering, Frame, read_frames, take_all


class Server(Answering):
    """Answers HEAD without content."""

    def answer(self, stream: object) -> None:
        stream_id = stream.id  # type: ignore[attr-defined]
        self.content = b"" if self.requests[stream_id].method == b"HEAD" else b"hello"
        super().answer(stream)  # type: ignore[arg-type]


def run(case: Case, step: int | None) -> list[Frame]:
    server = Server()
    server.connection = Connection(server, Terms(), False)
    wire = take_all(server.connection)
    sent = case.preface + b"".join(piece for piece in case.sends if isinstance(piece, bytes))
    for at in range(0, len(sent), step or len(sent)):
        server.connection.receive(sent[at : at + (step or len(sent))], 0.0)
        wire += take_all(server.connection)
    return read_frames(wire)


def test_there_are_as_many_cases_as_h2spec_has() -> None:
    assert len(CASES) == 146
    assert len({case.name for case in CASES}) == 146


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_server_does_what_the_rfc_says(case: Case) -> None:
    frames = run(case, None)
    assert case.outcome.holds(frames), frames


SHORT: Final = [case for case in CASES if sum(len(piece) for piece in case.sends if isinstance(piece, bytes)) < 1_000]


@pytest.mark.parametrize("case", SHORT, ids=lambda case: case.name)
def test_it_does_the_same_whatever_way_the_bytes_are_cut(case: Case) -> None:
    assert [run(case, step) for step in (1, 2, 7)] == [run(case, None)] * 3
