"""Certificates as they change: noticed, checked, put to use, or refused with one word."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from proxy.errors import ConfigurationError
from proxy.identity.rotation import ExpiryWarnings, RotationWatch, Watched, expiry_threshold
from proxy.keys.fingerprint import read_fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from proxy.identity.proof.interface import Proof

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)


class Stage:
    """One watched pair; the content ``bad`` is one that cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / "clientapp.pem"
        self.file.write_text("one")
        self.used: list[str] = []
        files = (self.file,)
        self.watch = RotationWatch([Watched("client", files, self._load, self._use, read_fingerprint(files))])
        self.loaded = ""

    def write(self, content: str) -> None:
        replacement = self.file.with_suffix(".new")
        replacement.write_text(content)
        replacement.replace(self.file)

    def _load(self) -> Sequence[Proof]:
        self.loaded = self.file.read_text()
        if self.loaded.startswith("bad"):
            raise ConfigurationError(f"{self.loaded}: it does not fit.")
        return []

    def _use(self, proofs: Sequence[Proof]) -> None:
        assert proofs == []
        self.used.append(self.loaded)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


@pytest.mark.asyncio
async def test_what_has_not_changed_is_not_loaded(stage: Stage) -> None:
    await stage.watch.poll()
    await stage.watch.poll()

    assert stage.loaded == ""


@pytest.mark.asyncio
async def test_a_new_pair_is_used_once(stage: Stage) -> None:
    stage.write("two")
    await stage.watch.poll()
    await stage.watch.poll()

    assert stage.used == ["two"]


@pytest.mark.asyncio
async def test_a_patient_watch_lets_others_go_first(stage: Stage) -> None:
    """Token requests before upstreams, where tokens are bound to the certificate."""
    files = (stage.file,)
    watched = Watched("route", files, stage._load, stage._use, read_fingerprint(files), patience=2)
    watch = RotationWatch([watched])
    stage.write("two")
    for used in ([], [], ["two"], ["two"]):
        await watch.poll()
        assert stage.used == used
    stage.write("three")
    await watch.reload()
    assert stage.used == ["two", "three"]


@pytest.mark.asyncio
async def test_a_new_pair_that_two_look_at_at_a_time_is_used_once(stage: Stage) -> None:
    stage.write("two")
    await asyncio.gather(stage.watch.poll(), stage.watch.poll())

    assert stage.used == ["two"]


@pytest.mark.asyncio
async def test_a_file_rewritten_in_place_is_noticed(stage: Stage) -> None:
    stage.file.write_text("six")
    os.utime(stage.file, ns=(1, 1))
    await stage.watch.poll()

    assert stage.used == ["six"]


@pytest.mark.asyncio
async def test_a_mounted_link_that_is_switched_is_noticed(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    stage_directory = tmp_path / "data"
    stage_directory.symlink_to("old")
    stage = Stage(stage_directory)
    (tmp_path / "new" / "clientapp.pem").write_text("two")
    switched = tmp_path / "switched"
    switched.symlink_to("new")
    switched.replace(stage_directory)

    await stage.watch.poll()

    assert stage.used == ["two"]


@pytest.mark.asyncio
async def test_a_bad_pair_is_reported_once_and_changes_nothing(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.write("bad one")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            await stage.watch.poll()

    assert stage.used == []
    assert [record.message for record in caplog.records] == [
        "credential client: the new files are not used, the old ones stay. bad one: it does not fit."
    ]


@pytest.mark.asyncio
async def test_half_a_pair_on_its_way_is_not_reported(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.write("bad half")
    await stage.watch.poll()
    stage.write("whole")
    await stage.watch.poll()

    assert stage.used == ["whole"]
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.asyncio
async def test_a_pair_put_right_is_used(stage: Stage) -> None:
    stage.write("bad")
    await stage.watch.poll()
    await stage.watch.poll()
    stage.write("good")
    await stage.watch.poll()

    assert stage.used == ["good"]


@pytest.mark.asyncio
async def test_a_reload_loads_what_has_not_changed_too(stage: Stage) -> None:
    await stage.watch.reload()

    assert stage.used == ["one"]


def test_a_missing_file_has_a_fingerprint_too(stage: Stage) -> None:
    before = read_fingerprint([stage.file])
    stage.file.unlink()

    assert read_fingerprint([stage.file]) == (None,)
    assert before != (None,)


@pytest.mark.parametrize(
    ("days", "threshold"),
    [
        (365, None),
        (30.1, None),
        (30, 30),
        (14.5, 30),
        (14, 14),
        (7.1, 14),
        (7, 7),
        (1.1, 7),
        (1, 1),
        (0.1, 1),
        (0, 0),
        (-5, 0),
    ],
)
def test_the_thresholds_are_30_14_7_1_and_the_end(days: float, threshold: int | None) -> None:
    assert expiry_threshold(timedelta(days=days)) == threshold


def test_each_threshold_is_warned_of_once() -> None:
    warnings = ExpiryWarnings()
    end = NOW + timedelta(days=40)
    said = []
    for hour in range(42 * 24):
        said += [(hour // 24, text) for text in warnings.check({"certificate AB": end}, NOW + timedelta(hours=hour))]

    assert [day for day, _ in said] == [10, 26, 33, 39, 40]
    assert "certificate AB expires on 2026-07-11 12:00 UTC" in said[0][1]
    assert "certificate AB expired on" in said[-1][1]


def test_a_new_certificate_has_warnings_of_its_own() -> None:
    warnings = ExpiryWarnings()
    warnings.check({"old": NOW + timedelta(days=5)}, NOW)

    assert len(warnings.check({"new": NOW + timedelta(days=5)}, NOW)) == 1
