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
from proxy.interception.names import parse_name
from proxy.interception.store import cut_over, drop, load, load_or_create, rotate, trusted_pem
from proxy.interception.succession import DROP_AFTER, PREPARE_BEFORE

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.interception.authority import InterceptionCA
    from proxy.interception.succession import Succession

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
    again = load_or_create(directory, HOSTS, created.not_after - PREPARE_BEFORE - timedelta(days=1))
    assert again.current.fingerprint == created.current.fingerprint
    assert again.current.reason == "created: clients must trust it"
    assert again.current.replaces == ""
    assert _names(directory) == {"ca.key", "ca.pem", "ca.lock"}
    assert (directory / "ca.pem").read_bytes() == created.current.anchor_pem() == trusted_pem(directory)


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


def _signer(found: Succession, host: str, now: datetime = NOW) -> InterceptionCA:
    issuer = found.choose(parse_name(host), now).issuer
    return next(ca for ca in (found.current, *found.prepared) if issuer in ca.issuers)


def test_a_new_route_gets_a_ca_beside_the_one_that_clients_trust(tmp_path: Path) -> None:
    """Who uses what was routed before has nothing to do; who uses the new route trusts the export once more."""
    directory = tmp_path / "state"
    old = load_or_create(directory, HOSTS, NOW).current
    found = load_or_create(directory, MORE_HOSTS, NOW + timedelta(days=1))
    assert found.current.fingerprint == old.fingerprint
    (new,) = found.prepared
    assert new.replaces == old.fingerprint
    assert new.reason == (
        "prepared because route fabrikam.azure-api.net was added: clients must trust it to use what was added"
    )
    assert _signer(found, HOSTS[0]) is found.current
    assert _signer(found, "fabrikam.azure-api.net") is new
    assert found.not_yet_trusted(MORE_HOSTS) == ("fabrikam.azure-api.net",)
    assert (directory / "ca.pem").read_bytes() == old.anchor_pem() + new.anchor_pem() == trusted_pem(directory)
    again = load(directory)
    assert again is not None
    assert again.identity == found.identity


def test_each_further_route_leaves_alone_what_works_already(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    second = load_or_create(directory, MORE_HOSTS, NOW)
    third = load_or_create(directory, [*MORE_HOSTS, "tailspin.example"], NOW)
    assert third.trusted_pem().startswith(second.trusted_pem())
    assert [_signer(third, host).fingerprint for host in MORE_HOSTS] == [
        _signer(second, host).fingerprint for host in MORE_HOSTS
    ]
    assert _signer(third, "tailspin.example") is third.prepared[1]
    after = cut_over(directory, NOW)
    assert after.current.fingerprint == third.prepared[1].fingerprint
    assert after.prepared == ()
    assert not after.current.constraints.missing([*MORE_HOSTS, "tailspin.example"])
    assert not list(directory.glob("ca-next*"))


def test_a_route_that_went_away_changes_nothing(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state", MORE_HOSTS, NOW)
    assert load_or_create(tmp_path / "state", HOSTS, NOW).identity == first.identity


def test_the_next_ca_is_prepared_a_month_before_the_end_and_takes_over_a_week_before(tmp_path: Path) -> None:
    """Without anybody doing anything: a client that reads the export now and then never notices."""
    directory = tmp_path / "state"
    first = load_or_create(directory, HOSTS, NOW).current
    early = load_or_create(directory, HOSTS, first.not_after - timedelta(days=30))
    assert early.current.fingerprint == first.fingerprint
    assert len(early.prepared) == 1
    late = load_or_create(directory, HOSTS, first.not_after - timedelta(days=7))
    assert late.current.fingerprint == early.prepared[0].fingerprint
    assert late.prepared == ()


def test_a_ca_about_to_end_that_nobody_has_seen_to_is_replaced_at_once(tmp_path: Path) -> None:
    first = load_or_create(tmp_path / "state", HOSTS, NOW).current
    second = load_or_create(tmp_path / "state", HOSTS, first.not_after - timedelta(days=6)).current
    assert second.replaces == first.fingerprint
    assert second.not_after > first.not_after
    assert f"{first.not_after:%Y-%m-%d}" in second.reason
    archive = tmp_path / "state" / f"ca-20280223-{first.fingerprint.replace(':', '')[:8].lower()}.pem"
    assert archive.read_bytes() == first.anchor_pem()


def test_a_lost_or_altered_copy_for_clients_is_written_again(tmp_path: Path) -> None:
    ca = load_or_create(tmp_path / "state", HOSTS, NOW).current
    copy = tmp_path / "state" / "ca.pem"
    copy.write_text("something else")
    assert load_or_create(tmp_path / "state", HOSTS, NOW).current.fingerprint == ca.fingerprint
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
    (directory / "ca-next.key").mkdir()  # the next one cannot take this place
    with pytest.raises(ConfigurationError):
        load_or_create(directory, MORE_HOSTS, NOW)
    (directory / "ca-next.key").rmdir()
    assert _names(directory) == {"ca.key", "ca.pem", "ca.lock"}
    kept = load(directory)
    assert kept is not None
    assert kept.identity == old.identity


def test_processes_that_start_together_agree_on_one_ca(tmp_path: Path) -> None:
    script = (
        "import sys, pathlib, datetime\n"
        "from proxy.interception.store import load_or_create\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "ca = load_or_create(pathlib.Path(sys.argv[1]), ['a.example'], datetime.datetime.now(datetime.UTC))\n"
        "print(ca.current.fingerprint)\n"
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
        fingerprints = {process.communicate(timeout=120)[0].strip() for process in processes}
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    kept = load(tmp_path / "state")
    assert kept is not None
    assert fingerprints == {kept.current.fingerprint}
    assert _names(tmp_path / "state") == {"ca.key", "ca.pem", "ca.lock"}


def test_a_rotation_has_clients_trust_both_until_the_old_one_is_not_needed(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    old = load_or_create(directory, HOSTS, NOW).current
    (prepared,) = rotate(directory, HOSTS, NOW).prepared
    assert rotate(directory, HOSTS, NOW).newest.fingerprint == prepared.fingerprint
    found = load_or_create(directory, HOSTS, NOW)
    assert _signer(found, HOSTS[0]).fingerprint == old.fingerprint
    assert found.cut_over_from == NOW + timedelta(days=7)
    assert (directory / "ca.pem").read_bytes() == trusted_pem(directory) == old.anchor_pem() + prepared.anchor_pem()

    assert cut_over(directory, NOW).current.fingerprint == prepared.fingerprint
    found = load_or_create(directory, HOSTS, NOW)
    assert _signer(found, HOSTS[0]).fingerprint == prepared.fingerprint
    assert prepared.replaces == old.fingerprint
    assert (directory / "ca.pem").read_bytes() == trusted_pem(directory) == prepared.anchor_pem() + old.anchor_pem()
    keys = b"".join(path.read_bytes() for path in directory.glob("*.key"))
    assert keys.count(b"BEGIN PRIVATE KEY") == 1, "the key of the old one is gone"
    with pytest.raises(ConfigurationError):
        cut_over(directory, NOW)

    load_or_create(directory, HOSTS, NOW + DROP_AFTER - timedelta(seconds=1))
    assert trusted_pem(directory) == prepared.anchor_pem() + old.anchor_pem()
    load_or_create(directory, HOSTS, NOW + DROP_AFTER)
    assert (directory / "ca.pem").read_bytes() == trusted_pem(directory) == prepared.anchor_pem()


def test_the_old_one_is_dropped_at_once_where_that_is_asked(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    rotate(directory, HOSTS, NOW)
    new = cut_over(directory, NOW).current
    assert drop(directory).previous == ()
    assert (directory / "ca.pem").read_bytes() == trusted_pem(directory) == new.anchor_pem()


def test_a_prepared_ca_that_does_not_serve_is_followed_by_one_that_does(tmp_path: Path) -> None:
    """What clients were told to trust stays trusted."""
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    prepared = rotate(directory, HOSTS, NOW).newest
    found = rotate(directory, MORE_HOSTS, NOW)
    assert [ca.fingerprint for ca in found.prepared] == [prepared.fingerprint, found.newest.fingerprint]


def test_a_take_over_stopped_half_way_is_over(tmp_path: Path) -> None:
    """The key has taken its place, the prepared copies are still there: they must not count as next ones."""
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    rotate(directory, HOSTS, NOW)
    prepared = rotate(directory, MORE_HOSTS, NOW).newest
    (directory / "ca.key").write_bytes((directory / "ca-next-2.key").read_bytes())
    found = load(directory)
    assert found is not None
    assert (found.current.fingerprint, found.prepared) == (prepared.fingerprint, ())
    again = rotate(directory, MORE_HOSTS, NOW)
    assert again.newest.fingerprint != prepared.fingerprint
    assert len(again.prepared) == 1
    assert not (directory / "ca-next-2.key").exists()


def test_a_damaged_list_of_relieved_ones_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "state"
    load_or_create(directory, HOSTS, NOW)
    rotate(directory, HOSTS, NOW)
    cut_over(directory, NOW)
    path = directory / "ca-previous.pem"
    path.write_bytes(path.read_bytes().replace(b"Until: 2026", b"Until: soon"))
    with pytest.raises(ConfigurationError, match=r"ca-previous\.pem is damaged"):
        load(directory)


def test_there_is_nothing_to_rotate_or_export_before_the_first_start(tmp_path: Path) -> None:
    for ask in (lambda: rotate(tmp_path / "state", HOSTS, NOW), lambda: trusted_pem(tmp_path / "state")):
        with pytest.raises(ConfigurationError):
            ask()
