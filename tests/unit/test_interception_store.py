"""The CA on disk: created once, kept, issued anew with its reason, archived, rotated, and closed to other users."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from proxy.errors import ConfigurationError
from proxy.interception.store import cut_over, load, load_next, load_or_create, rotate, trusted_pem

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOSTS = ["contoso.azure-api.net"]
MORE_HOSTS = [*HOSTS, "fabrikam.azure-api.net"]

posix_only = pytest.mark.skipif(os.name != "posix", reason="file modes are a POSIX matter")


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_ca_is_created_once_and_then_kept(tmp_path: Path) -> None:
    directory = tmp_path / "deep" / "state"
    assert load(directory) is None
    created = load_or_create(directory, HOSTS, NOW)
    again = load_or_create(directory, HOSTS, NOW + timedelta(days=700))
    assert again.fingerprint == created.fingerprint
    assert again.reason == "created: clients must trust it"
    assert again.replaces == ""
    assert _names(directory) == {"ca.key", "ca.pem", "ca.lock"}
    assert (directory / "ca.pem").read_bytes() == created.anchor_pem() == trusted_pem(directory)


@posix_only
def test_only_the_owner_gets_at_the_key(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        load_or_create(tmp_path / "state", HOSTS, NOW)
    finally:
        os.umask(previous)
    assert _mode(tmp_path / "state") == 0o700
    assert _mode(tmp_path / "state" / "ca.key") == 0o600


@posix_only
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644])
def test_a_key_open_to_others_is_refused_with_the_fix(tmp_path: Path, mode: int) -> None:
    load_or_create(tmp_path / "state", HOSTS, NOW)
    key = tmp_path / "state" / "ca.key"
    key.chmod(mode)
    with pytest.raises(ConfigurationError) as caught:
        load_or_create(tmp_path / "state", HOSTS, NOW)
    assert f"chmod 600 {key}" in caught.value.detail


@posix_only
def test_a_directory_open_to_others_is_refused_with_the_fix(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(ConfigurationError) as caught:
        load_or_create(directory, HOSTS, NOW)
    assert f"chmod 700 {directory}" in caught.value.detail
    assert _names(directory) == set()
    directory.chmod(0o700)
    load_or_create(directory, HOSTS, NOW)
    directory.chmod(0o750)
    with pytest.raises(ConfigurationError):
        load(directory)


def test_a_new_route_issues_a_new_ca_and_archives_what_clients_trusted(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    old = load_or_create(directory, HOSTS, NOW)
    new = load_or_create(directory, MORE_HOSTS, NOW + timedelta(days=1))
    assert new.fingerprint != old.fingerprint
    assert new.replaces == old.fingerprint
    kept = load(directory)
    assert kept is not None
    assert kept.reason == "re-issued because route fabrikam.azure-api.net was added: clients must trust the new one"
    archive = directory / f"ca-20260302-{old.fingerprint.replace(':', '')[:8].lower()}.pem"
    assert archive.read_bytes() == old.anchor_pem()
    assert (directory / "ca.pem").read_bytes() == new.anchor_pem()


def test_a_route_that_went_away_changes_nothing(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state", MORE_HOSTS, NOW)
    assert load_or_create(tmp_path / "state", HOSTS, NOW).fingerprint == first.fingerprint


def test_a_ca_about_to_end_is_issued_anew(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state", HOSTS, NOW)
    second = load_or_create(tmp_path / "state", HOSTS, first.not_after - timedelta(days=6))
    assert second.replaces == first.fingerprint
    assert second.not_after > first.not_after


def test_a_lost_or_altered_copy_for_clients_is_written_again(tmp_path: Path) -> None:
    ca = load_or_create(tmp_path / "state", HOSTS, NOW)
    copy = tmp_path / "state" / "ca.pem"
    copy.write_text("something else")
    assert load_or_create(tmp_path / "state", HOSTS, NOW).fingerprint == ca.fingerprint
    assert copy.read_bytes() == ca.anchor_pem()
    copy.unlink()
    load_or_create(tmp_path / "state", HOSTS, NOW)
    assert copy.read_bytes() == ca.anchor_pem()


def test_a_damaged_ca_is_named_and_never_overwritten(tmp_path: Path) -> None:
    load_or_create(tmp_path / "state", HOSTS, NOW)
    key = tmp_path / "state" / "ca.key"
    damaged = key.read_bytes()[:200]
    key.write_bytes(damaged)
    with pytest.raises(ConfigurationError) as caught:
        load_or_create(tmp_path / "state", HOSTS, NOW)
    assert str(key) in caught.value.detail
    assert key.read_bytes() == damaged


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigurationError, match="state_directory"):
        load_or_create(tmp_path / "state", HOSTS, NOW)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """A name longer than any file system takes, which stops root as well."""
    directory = tmp_path / ("x" * 300)
    with pytest.raises(ConfigurationError, match="state_directory"):
        load_or_create(directory, HOSTS, NOW)


def test_a_failed_write_leaves_the_old_ca_and_no_rubbish(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    old = load_or_create(directory, HOSTS, NOW)
    short_fingerprint = old.fingerprint.replace(":", "")[:8].lower()
    (directory / f"ca-20260301-{short_fingerprint}.pem").mkdir()  # the archive cannot take this place
    before = _names(directory)
    with pytest.raises(ConfigurationError):
        load_or_create(directory, MORE_HOSTS, NOW)
    assert _names(directory) == before
    kept = load(directory)
    assert kept is not None
    assert kept.fingerprint == old.fingerprint


def test_processes_that_start_together_agree_on_one_ca(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, datetime\n"
        "from proxy.interception.store import load_or_create\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "ca = load_or_create(pathlib.Path(sys.argv[1]), ['a.example'], datetime.datetime.now(datetime.UTC))\n"
        "print(ca.fingerprint)\n"
    )
    processes: list[subprocess.Popen[str]] = []
    try:
        for _ in range(4):
            command = [sys.executable, "-c", script, str(tmp_path / "state")]
            processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        fingerprints = {process.communicate(timeout=30)[0].strip() for process in processes}
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    kept = load(tmp_path / "state")
    assert kept is not None
    assert fingerprints == {kept.fingerprint}
    assert _names(tmp_path / "state") == {"ca.key", "ca.pem", "ca.lock"}


def test_a_rotation_has_clients_trust_both_until_the_new_one_takes_over(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    old = load_or_create(directory, HOSTS, NOW)
    prepared = rotate(directory, HOSTS, NOW)
    assert rotate(directory, HOSTS, NOW).fingerprint == prepared.fingerprint
    assert load_or_create(directory, HOSTS, NOW).fingerprint == old.fingerprint
    assert trusted_pem(directory) == old.anchor_pem() + prepared.anchor_pem()

    assert cut_over(directory, NOW).fingerprint == prepared.fingerprint
    assert load_or_create(directory, HOSTS, NOW).fingerprint == prepared.fingerprint
    assert load_next(directory) is None
    assert trusted_pem(directory) == prepared.anchor_pem()
    assert prepared.replaces == old.fingerprint
    with pytest.raises(ConfigurationError):
        cut_over(directory, NOW)


def test_a_prepared_ca_takes_over_where_the_old_one_no_longer_serves(tmp_path: Path) -> None:
    """Clients trust it already, so a third CA would break them for nothing."""
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    prepared = rotate(directory, MORE_HOSTS, NOW)
    assert load_or_create(directory, MORE_HOSTS, NOW).fingerprint == prepared.fingerprint
    assert load_next(directory) is None


def test_a_prepared_ca_that_does_not_serve_either_is_dropped(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    prepared = rotate(directory, HOSTS, NOW)
    new = load_or_create(directory, MORE_HOSTS, NOW)
    assert new.fingerprint != prepared.fingerprint
    assert load_next(directory) is None


def test_a_take_over_stopped_half_way_is_over(tmp_path: Path) -> None:
    """The key has taken its place, the prepared copy is still there: it must not count as a next one."""
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    prepared = rotate(directory, HOSTS, NOW)
    (directory / "ca.key").write_bytes((directory / "ca-next.key").read_bytes())
    assert load_next(directory) is None
    assert rotate(directory, HOSTS, NOW).fingerprint != prepared.fingerprint


def test_there_is_nothing_to_rotate_or_export_before_the_first_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        rotate(tmp_path / "state", HOSTS, NOW)
    with pytest.raises(ConfigurationError):
        trusted_pem(tmp_path / "state")
