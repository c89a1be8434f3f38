"""The surroundings in which the product keeps its promises, and the tests that each can make fail. Looks for interpreters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]

PURE: Final = ("tests/unit", "tests/property", "tests/regression")
WIRE: Final = ("tests/wire", "tests/sandbox", "tests/security/test_boundary.py", "tests/security/test_limits.py")


def _end_to_end(*names: str) -> tuple[str, ...]:
    return tuple(f"tests/end_to_end/test_{name}.py" for name in names)


# The command's whole life, from its first line of configuration to its end, through real clients.
COMMANDS: Final = _end_to_end(
    "ca_rotation", "cli_cert", "cli_check", "curl", "drain", "errors", "reload", "start_and_stop", "token_cache", "token_life",
    "workers",
)  # fmt: skip
# What writes: state, keys, tokens, logs.
WRITING: Final = _end_to_end(
    "ca_rotation", "cli_ca", "cli_cert", "mounted_secrets", "reload", "start_and_stop", "token_files"
)

_SHELL: Final = ("sh", "-euc")


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Attributes:
        name: what `make matrix WORDS=…` chooses it by.
        what: how it is made, for the table.
        tests: what it can make fail.
        environ: variables that differ.
        within: a command that runs the command given after it, in these surroundings.
        python: an interpreter that an environment is made of; empty: the one that runs the matrix.
        needs_root: whether namespaces are made.
    """

    name: str
    what: str
    tests: Sequence[str]
    environ: Mapping[str, str] = field(default_factory=dict)
    within: Sequence[str] = ()
    python: str = ""
    needs_root: bool = False


def _namespaced(kinds: Sequence[str], prepare: str) -> tuple[str, ...]:
    return ("unshare", *kinds, *_SHELL, f'{prepare}\nexec "$@"', "sh")


SETTINGS: Final = (
    Setting(
        "asyncio",
        "the commands on asyncio's own event loop, as where uvloop is not installed",
        COMMANDS,
        {"PYTHONPATH": str(HERE / "without_uvloop")},
    ),
    Setting("dev-mode", "`PYTHONDEVMODE=1`", (*PURE, *WIRE, *COMMANDS), {"PYTHONDEVMODE": "1"}),
    Setting("warnings", "`PYTHONWARNINGS=error`, in each process", COMMANDS, {"PYTHONWARNINGS": "error"}),
    Setting(
        "descriptors",
        "`ulimit -n 256`",
        (*WIRE, *COMMANDS, "tests/end_to_end/test_descriptors.py"),
        within=(*_SHELL, 'ulimit -n 256\nexec "$@"', "sh"),
    ),
    Setting(
        "slow-disk",
        "each `fsync` takes 300 ms, each `rename` and `unlink` 50 ms (strace delays them)",
        WRITING,
        within=(
            "strace",
            "--follow-forks",
            "--seccomp-bpf",
            "--quiet=all",
            "--output=/dev/null",
            "--trace=fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat",
            "--inject=fsync,fdatasync:delay_exit=300000",
            "--inject=rename,renameat,renameat2,unlink,unlinkat:delay_exit=50000",
        ),
    ),
    Setting(
        "full-disk",
        "what is written lies on a file system without room",
        ("tests/end_to_end/test_full_disk.py", "tests/unit/test_operations_event_log.py"),
        needs_root=True,
    ),
    Setting(
        "read-only",
        "the checkout is mounted read-only",
        (*PURE, *COMMANDS),
        within=_namespaced(["--mount"], f"mount --bind -o ro '{ROOT}' '{ROOT}'\ncd '{ROOT}'"),
        needs_root=True,
    ),
    Setting(
        "no-ipv6",
        "a network namespace whose kernel has IPv6 turned off",
        (*PURE, *WIRE, *COMMANDS),
        within=_namespaced(
            ["--net"],
            "ip link set lo up\nfor each in all default lo; do echo 1 >/proc/sys/net/ipv6/conf/$each/disable_ipv6; done",
        ),
        needs_root=True,
    ),
    Setting(
        "time-zone",
        "`TZ=Australia/Lord_Howe`: summer time of half an hour",
        (*PURE, "tests/sandbox", *COMMANDS),
        {"TZ": "Australia/Lord_Howe"},
    ),
    Setting(
        "ascii",
        "`LC_ALL=C LANG=C`, without Python's own turn to UTF-8",
        (*PURE, *COMMANDS),
        {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ),
)


_ASKED: Final = """
import json, platform, sys
print(json.dumps([platform.python_implementation(), platform.python_version(), sys.version_info >= (3, 11)]))
"""


def interpreters() -> Iterator[Setting]:
    """Yield a row for each CPython from 3.11 on that this machine has, one for a version."""
    names = ["/usr/bin/python3", *(f"python3.{minor}" for minor in range(11, 20))]
    found = [Path(where) for name in names if (where := shutil.which(name))]
    found += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions").glob("3.*/bin/python3"))
    versions: dict[str, str] = {}
    for path in found:
        done = subprocess.run([path, "-c", _ASKED], capture_output=True, text=True)
        if done.returncode == 0:
            kind, version, is_new = json.loads(done.stdout)
            if kind == "CPython" and is_new:
                versions.setdefault(version, str(path))
    for version, python in sorted(versions.items()):
        yield Setting(f"python-{version}", f"CPython {version}", (*PURE, *WIRE, *COMMANDS), python=python)
