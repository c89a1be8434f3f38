from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from proxy.config.settings import AccessLogSettings
from proxy.errors import ConfigurationError
from proxy.operations.access_log import AccessLog
from proxy.operations.log_output import LogOutput
from proxy.operations.own_errors import is_own_error
from proxy.relay.record import ExchangeRecord

if TYPE_CHECKING:
    from collections.abc import Callable


def record(number: int = 1, **changes: Any) -> ExchangeRecord:
    plain = ExchangeRecord(
        ended_at=1_792_836_303.25,
        client="127.0.0.1",
        mode="forward",
        method=b"GET",
        authority="contoso.azure-api.net:443",
        target=b"/%d" % number,
        status=200,
        received_bytes=0,
        sent_bytes=1_234,
        duration_s=0.0123,
        upstream_s=0.0111,
        route="contoso.azure-api.net",
        token_age_s=35.7,
        reused=True,
        outcome="ok",
        code="",
    )
    return plain._replace(**changes)


def settings(file: Path | None, **others: Any) -> AccessLogSettings:
    return AccessLogSettings(file=file, **others)


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("ascii").splitlines()]


def paths_of(file: Path) -> list[str]:
    return [line["path"] for line in lines_of(file)]


def wait_until(reached: Callable[[], bool]) -> None:
    """Polls for what the writer thread does within its fifth of a second, unless the machine stalls."""
    give_up_at = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def test_each_exchange_gets_one_line_in_order(tmp_path: Path) -> None:
    log = AccessLog(settings(tmp_path / "access.log"))
    for number in range(1_000):
        log.observe(record(number))
    log.close()
    assert paths_of(tmp_path / "access.log") == [f"/{number}" for number in range(1_000)]


def test_lines_are_written_while_the_log_is_open(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(settings(file))
    log.observe(record(1))
    wait_until(lambda: file.stat().st_size > 0)
    log.observe(record(2))
    log.close()
    assert paths_of(file) == ["/1", "/2"]


def test_an_existing_file_is_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    file.write_text('{"path":"/old"}\n')
    log = AccessLog(settings(file))
    log.observe(record(1))
    log.close()
    assert paths_of(file) == ["/old", "/1"]


def test_standard_error_gets_json_when_it_is_no_terminal() -> None:
    read, write = os.pipe()
    log = AccessLog(settings(None), descriptor=write)
    log.observe(record(1))
    log.close()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert json.loads(pipe.read())["path"] == "/1"


def test_a_terminal_gets_text_with_colour() -> None:
    terminal, descriptor = os.openpty()
    try:
        log = AccessLog(settings(None), descriptor=descriptor)
        log.observe(record(1))
        log.close()
        assert b"\x1b[32m200\x1b[0m" in os.read(terminal, 4_096)
    finally:
        os.close(descriptor)
        os.close(terminal)


def test_text_in_a_file_has_no_colour(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(settings(file, format="text"))
    log.observe(record(1))
    log.close()
    assert "GET     contoso.azure-api.net:443/1" in file.read_text()
    assert "\x1b" not in file.read_text()


def test_what_the_queue_cannot_take_is_counted_and_said(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(settings(file), queued=10)
    taken = log.statistics().observed
    for number in range(10_000):
        log.observe(record(number))
    log.close()
    statistics = log.statistics()
    assert statistics.dropped > 0
    assert statistics.observed - taken + statistics.dropped == 10_000
    lines = lines_of(file)
    assert sum(line["count"] for line in lines if line.get("event") == "lines_dropped") == statistics.dropped
    assert sum("path" in line for line in lines) == statistics.observed


def test_a_reader_that_takes_nothing_does_not_hold_up_the_relay() -> None:
    """The pipe fills, the writer thread waits in its write; `observe` goes on, and memory stays bounded."""
    read, write = os.pipe()
    log = AccessLog(settings(None), descriptor=write, queued=500)
    for number in range(500):
        log.observe(record(number))
    wait_until(lambda: log.statistics().observed == 500)
    for number in range(5_000):
        log.observe(record(number))
    assert log.statistics().dropped >= 4_000
    with os.fdopen(read, "rb") as pipe:
        reader = threading.Thread(target=pipe.read)
        reader.start()
        log.close()
        os.close(write)
        reader.join()
    assert log.statistics().observed + log.statistics().dropped == 5_500


def test_closing_gives_up_on_a_reader_that_takes_nothing() -> None:
    others = set(threading.enumerate())
    read, write = os.pipe()
    log = AccessLog(settings(None), descriptor=write)
    for number in range(1_000):
        log.observe(record(number))
    log.close(patience_s=0.5)
    still_writing = [thread for thread in threading.enumerate() if thread.name == "access-log" and thread not in others]
    assert still_writing
    with os.fdopen(read, "rb") as pipe:
        reader = threading.Thread(target=pipe.read)
        reader.start()
        for thread in still_writing:
            thread.join()
        os.close(write)
        reader.join()


def test_a_long_target_is_cut_so_that_the_queue_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(settings(file))
    log.observe(record(target=b"/" + b"x" * 16_000))
    log.close()
    assert paths_of(file) == ["/" + "x" * 1_023 + "..."]


def test_a_file_that_was_moved_away_is_followed(tmp_path: Path) -> None:
    file, rotated = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(settings(file))
    log.observe(record(1))
    wait_until(lambda: file.stat().st_size > 0)
    file.rename(rotated)
    wait_until(file.exists)
    log.observe(record(2))
    log.close()
    assert paths_of(rotated) == ["/1"]
    assert paths_of(file) == ["/2"]


def test_a_directory_that_was_removed_does_not_end_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "log"
    directory.mkdir()
    file = directory / "access.log"
    log = AccessLog(settings(file))
    file.unlink()
    directory.rmdir()
    wait_until(lambda: "cannot be opened anew" in caplog.text)
    log.observe(record(1))
    directory.mkdir()
    wait_until(file.exists)
    log.observe(record(2))
    log.close()
    assert paths_of(file)[-1:] == ["/2"]
    assert caplog.text.count("cannot be opened anew") == 1


def test_a_signal_to_reopen_loses_no_line(tmp_path: Path) -> None:
    file = tmp_path / "access.log"
    log = AccessLog(settings(file))
    for number in range(5):
        log.observe(record(number))
        log.reopen()
        wait_until(lambda: log.statistics().observed == number + 1)  # noqa: B023 -- awaited within the round
    log.close()
    assert paths_of(file) == [f"/{number}" for number in range(5)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_counted_and_said_once(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    link = tmp_path / "access.log"
    link.symlink_to("/dev/full")
    log = AccessLog(settings(link))
    for number in range(3):
        log.observe(record(number))
    wait_until(lambda: log.statistics().lost == 3)
    log.observe(record(4))
    log.close()
    assert log.statistics().lost == 4
    assert caplog.text.count("the disk is full") == 1


def test_it_says_when_a_full_disk_has_room_again(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    link, room = tmp_path / "access.log", tmp_path / "room"
    link.symlink_to("/dev/full")
    caplog.set_level("INFO")
    log = AccessLog(settings(link))
    log.observe(record(1))
    wait_until(lambda: log.statistics().lost == 1)
    link.unlink()
    link.symlink_to(room)
    log.observe(record(2))
    log.close()
    assert paths_of(room) == ["/2"]
    assert "can be written again; 1 lines were lost" in caplog.text


def test_a_reader_that_has_gone_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    read, write = os.pipe()
    os.close(read)
    log = AccessLog(settings(None), descriptor=write)
    log.observe(record(1))
    log.close()
    os.close(write)
    assert log.statistics().lost == 1
    assert "the program that read it has ended" in caplog.text


def test_a_line_cut_short_is_ended_before_the_next() -> None:
    """A pipe that does not block takes as much as fits, like a disk with little room left."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    output = LogOutput(None, write)
    line = b"x" * 99 + b"\n"
    output.write(line * 1_000, 1_000)
    held = os.read(read, 1 << 20)
    assert not held.endswith(b"\n")
    assert output.lost == 1_000 - held.count(b"\n")
    output.write(b"whole\n", 1)
    assert os.read(read, 1 << 20) == b"\nwhole\n"
    output.write(b"next\n", 1)
    assert os.read(read, 1 << 20) == b"next\n"
    os.close(read)
    os.close(write)


@pytest.mark.parametrize(
    ("file", "reason"),
    [("missing/access.log", "directory does not exist"), (".", "it is a directory")],
)
def test_a_file_that_cannot_be_opened_is_the_operators_error(tmp_path: Path, file: str, reason: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        AccessLog(settings(tmp_path / file))
    assert reason in caught.value.detail
    assert str(tmp_path) in caught.value.detail
    assert "Errno" not in caught.value.detail


def test_an_error_without_words_of_ours_is_named_by_its_symbol(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="ENAMETOOLONG"):
        LogOutput(tmp_path / ("x" * 300))
    assert errno.ENAMETOOLONG


def test_the_newest_exchanges_and_own_errors_are_kept(tmp_path: Path) -> None:
    log = AccessLog(settings(tmp_path / "access.log"))
    for number in range(500):
        log.observe(record(number))
    log.observe(record(1_000, status=502, outcome="proxy_configuration_error", code="AADSTS700027"))
    log.observe(record(1_001, status=200, outcome="aborted_upstream"))
    log.close()
    assert [one.target for one in log.recent()] == [b"/%d" % number for number in [*range(302, 500), 1_000, 1_001]]
    (error,) = log.errors()
    assert (error.newest.target, error.newest.code, error.count) == (b"/1000", "AADSTS700027", 1)


def test_a_tail_goes_on_where_it_was() -> None:
    log = AccessLog(settings(None, enabled=False))
    log.observe(record(1))
    wait_until(lambda: log.statistics().observed == 1)
    position, first = log.tail(0)
    assert log.tail(position) == (position, [])
    log.observe(record(2))
    log.close()
    assert [one.target for one in first] == [b"/1"]
    assert [one.target for one in log.tail(position)[1]] == [b"/2"]


def test_a_disabled_log_writes_nothing_and_remembers() -> None:
    read, write = os.pipe()
    log = AccessLog(settings(None, enabled=False), descriptor=write)
    log.observe(record(1))
    log.close()
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        assert pipe.read() == b""
    assert len(log.recent()) == 1


@pytest.mark.parametrize(
    ("outcome", "own"),
    [("ok", False), ("aborted_client", False), ("aborted_timeout", False), ("http_response_timeout", True)],
)
def test_own_errors_are_told_from_what_upstreams_and_clients_did(outcome: str, own: bool) -> None:
    assert is_own_error(record(outcome=outcome)) is own
