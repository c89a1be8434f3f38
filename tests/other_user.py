"""Runs the product's command as a user who owns nothing, in a mount namespace of its own. Needs root, and Linux. Runs programs.

The interpreter and the sources often lie where no other user gets to, such as below /root. The namespace lays an empty directory
over what is closed, and puts there what the command needs; the machine itself stays as it is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

USER: Final = 65532
PATIENCE_S: Final = 60.0
ROOT: Final = Path(__file__).resolve().parents[1]


def can_change_user() -> bool:
    """Whether this machine lets us; it is tried, because containers forbid some of it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return False
    return (
        subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0
    )


needs_another_user: Final = pytest.mark.skipif(
    not can_change_user(), reason="takes root, and leave to mount in a namespace of one's own"
)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that every user gets to; pytest's own are for one user alone."""
    path = Path(tempfile.mkdtemp(prefix="apim-auth-proxy-test-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def run_as_other_user(
    arguments: Sequence[str | Path],
    directory: Path,
    *,
    mounts: Sequence[str] = (),
    is_closed: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end.

    Args:
        arguments: the program and its arguments.
        directory: its working directory, and its HOME.
        mounts: shell commands that mount something in the namespace before.
        is_closed: the directory is one that the user could not have entered.
    """
    drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    # The second shell starts without capabilities; what it cannot run, no other user could.
    enter = f"cd {shlex.quote(str(directory))}"
    run = f"exec {shlex.join([str(argument) for argument in arguments])}"
    inner = run if is_closed else f"{enter} && {run}"
    command = shlex.join([*drop, "sh", "-c", inner])
    script = "\n".join(["set -e", *open_way(), *mounts, *([enter] if is_closed else []), f"exec {command}"])
    return subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )


def open_way() -> Iterator[str]:
    """Yield the commands that make the interpreter and the sources reachable."""
    needed = {Path(sys.base_prefix).resolve(), Path(sys.prefix).absolute(), ROOT}
    for number, closed in enumerate(sorted({found for path in needed if (found := _closed_parent(path)) is not None})):
        inside = sorted(path for path in needed if path.is_relative_to(closed))
        yield "mount -t tmpfs -o mode=755 none /mnt"
        for index, path in enumerate(inside):
            yield f"mkdir /mnt/{number}-{index}; mount --bind {shlex.quote(str(path))} /mnt/{number}-{index}"
        yield f"mount -t tmpfs -o mode=755 none {shlex.quote(str(closed))}"
        for index, path in enumerate(inside):
            yield f"mkdir -p {shlex.quote(str(path))}; mount --bind /mnt/{number}-{index} {shlex.quote(str(path))}"


def _closed_parent(path: Path) -> Path | None:
    """The topmost directory on the way to a path that others may not pass; None where all of them may."""
    for parent in reversed([path, *path.parents]):
        if not parent.stat().st_mode & stat.S_IXOTH:
            return parent
    return None
