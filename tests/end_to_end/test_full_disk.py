"""On a disk without room: what is wrong is said, nothing is left half written, and what runs goes on with what it has."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.end_to_end.programs import (
    COMMAND,
    Place,
    ProxyProgram,
    configuration,
    environment,
    run_program,
    write_configuration,
)
from tests.other_user import needs_another_user

if TYPE_CHECKING:
    from pathlib import Path

    from tests.end_to_end.curl import Curl

# It mounts, as those tests do.
pytestmark = needs_another_user

_PAGE = 4096
KNOWN = ["--tenant-id", "11111111-1111-1111-1111-111111111111", "--host", "contoso.azure-api.net"]


def on_small_disk(disk: Path, *, pages: int, prepare: str = "") -> list[str]:
    """The command that runs another one on a file system of so many pages, in a mount namespace that ends with it.

    Args:
        disk: where it is mounted; the working directory.
        pages: of 4 KiB, one of which is taken.
        prepare: a shell command that is run before.
    """
    disk.mkdir(exist_ok=True)
    script = (
        f'mount -t tmpfs -o size={pages * _PAGE},mode=700 none "$1"; cd "$1"\n'
        f"head -c {_PAGE} /dev/zero >taken\n{prepare}\n"
        'shift; exec "$@"'
    )
    return ["unshare", "--mount", "sh", "-euc", script, "sh", str(disk)]


def run_on_small_disk(disk: Path, *arguments: str | Path, pages: int, prepare: str = "") -> tuple[int, str, list[str]]:
    """Returns the status, what was said, and the names of what was left."""
    listed = [*on_small_disk(disk, pages=pages, prepare=prepare), "sh", "-c"]
    script = '"$@"; status=$?; echo; echo LEFT; ls -A; exit $status'
    done = run_program([*listed, script, "sh", *arguments])
    said, _, left = done.stdout.decode().rpartition("\nLEFT\n")
    assert "Traceback" not in done.stderr
    return done.status, said + done.stderr, sorted(set(left.split()) - {"taken"})


@pytest.mark.parametrize("pages", [1, 2], ids=["no room at all", "room for the key alone"])
@pytest.mark.parametrize("words", [["cert", "new"], ["init", *KNOWN]], ids=["cert new", "init"])
def test_nothing_is_left_of_a_pair_that_could_not_be_written(tmp_path: Path, words: list[str], pages: int) -> None:
    """A key of half its length, or without its certificate, would stand in the way of the next attempt."""
    status, said, left = run_on_small_disk(tmp_path / "disk", COMMAND, *words, pages=pages)
    assert status == 1
    assert "No space left on device" in said
    assert left == []


@pytest.mark.parametrize("free", [0, 1], ids=["no room at all", "room for the key alone"])
def test_a_pair_that_cannot_be_replaced_stays(tmp_path: Path, free: int) -> None:
    """The key that works must not make way for one whose certificate could not be written."""
    disk = tmp_path / "disk"
    prepare = f"'{COMMAND}' cert new >/dev/null"
    script = f"sha256sum client*; '{COMMAND}' cert new --force; echo status $?; sha256sum client*; ls -A"
    done = run_program([*on_small_disk(disk, pages=3 + free, prepare=prepare), "sh", "-c", script])
    before, _, after = done.stdout.decode().partition("status 1\n")
    assert after, done
    assert "No space left on device" in done.stderr
    assert len(before.splitlines()) == 2
    assert after.startswith(before)
    assert not [name for name in after.removeprefix(before).split() if name.startswith(".")]


@pytest.mark.parametrize("pages", [1, 2], ids=["no room at all", "room for the key alone"])
def test_no_half_ca_is_left_and_the_start_says_why(place: Place, tmp_path: Path, pages: int) -> None:
    disk = tmp_path / "disk"
    config = write_configuration(configuration(place, state_directory=str(disk / "state")), tmp_path)
    status, said, left = run_on_small_disk(disk, COMMAND, "run", "--config", config, pages=pages)
    assert status == 2
    assert "No space left on device. The interception CA lives there, in state_directory" in said
    assert "Make room" in said
    assert left == ["state"]


def test_a_ca_that_cannot_be_replaced_stays(place: Place, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    config = write_configuration(configuration(place, state_directory=str(disk / "state")), tmp_path)
    fill = f"'{COMMAND}' ca export --config '{config}' >/dev/null; cat /dev/zero >filler 2>/dev/null || true"
    script = (
        f"sha256sum state/*; '{COMMAND}' ca rotate --config '{config}'; echo status $?; sha256sum state/*; ls -A state"
    )
    done = subprocess.run(
        [*on_small_disk(disk, pages=12, prepare=fill), "sh", "-c", script],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    before, _, after = done.stdout.partition("status 2\n")
    assert after, done
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(before.splitlines()) >= 2
    assert after.startswith(before)
    assert not [name for name in after.removeprefix(before).split() if name.startswith(".")]


def test_requests_go_on_when_the_access_log_cannot_be_written(
    place: Place, tmp_path: Path, evidence: Path, curl: Curl
) -> None:
    disk, directory = tmp_path / "disk", tmp_path / "proxy"
    settings = configuration(place, access_log={"file": str(disk / "access.log")})
    with ProxyProgram(
        settings, directory, evidence, "proxy-full-disk", environ=environment(), wrapper=on_small_disk(disk, pages=1)
    ) as proxy:
        for _ in range(3):
            assert curl("--proxy", proxy.forward, f"http://{place.alias_host}/orders").status == 200
        proxy.wait_for_line("the disk is full; make room")
        assert proxy.stop() == 0
        assert sum("the disk is full" in line for line in proxy.lines) == 1
