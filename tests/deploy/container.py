"""Runs the proxy of this checkout as a container under crun, as a pod or a compose file says. Runs programs; needs root.

What stands for the image is this machine's own /usr and Python, read-only; its entry point is `python -m proxy`. So a test takes
seconds, and what it shows is that users, modes, mounts and limits of a rendered file let the proxy work. That the image itself
works is shown by tests/image.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tests.deploy.programs import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PATIENCE_S: Final = 60.0
# The image's (Dockerfile).
IMAGE_ENVIRONMENT: Final = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "XDG_STATE_HOME": "/state"}
_DEFAULT_CAPABILITIES: Final = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_NET_BIND_SERVICE", "CAP_SETUID"]


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or file of this machine, and where it is inside."""

    outside: Path
    inside: str
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class Settings:
    """How a container is run.

    Attributes:
        arguments: of the image's entry point.
        network: a named network namespace (ip-netns(8)); None for the caller's own.
        program: runs in the place of the image's entry point, as another image has it.
        capabilities: added to those that are left.
    """

    arguments: list[str]
    mounts: list[Mount]
    user: tuple[int, int]
    groups: list[int] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    is_read_only: bool = False
    drops_capabilities: bool = False
    may_gain_privileges: bool = True
    network: str | None = None
    program: str | None = None
    capabilities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """A container, its output in `log`."""

    process: subprocess.Popen[bytes]
    name: str
    user: tuple[int, int]
    log: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the proxy's command inside, beside what runs already."""
        user = f"--user={self.user[0]}:{self.user[1]}"
        command = [*_CRUN, "exec", user, self.name, sys.executable, "-m", "proxy", *arguments]
        return subprocess.run(command, capture_output=True, text=True)

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        subprocess.run([*_CRUN, "kill", self.name, "TERM"], check=True)
        return self.process.wait(_PATIENCE_S)


# crun refuses a machine with both versions of cgroups, even when told to leave them alone; so it sees neither.
_CRUN: Final = [
    *("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /sys/fs/cgroup && exec "$0" "$@"'),
    *("crun", "--cgroup-manager=disabled"),
]


def wait_until(condition: Callable[[], bool], describe: Callable[[], str]) -> None:
    """Wait until a condition holds, and fail with a description where it does not come to hold."""
    give_up_at = time.monotonic() + _PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_at, describe()
        time.sleep(0.05)


def run_once(settings: Settings, scratch: Path) -> subprocess.CompletedProcess[str]:
    """Run a container to its end."""
    bundle = _write_bundle(settings, scratch)
    command = [*_CRUN, "run", "--bundle", str(bundle), bundle.name]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@contextmanager
def running(settings: Settings, scratch: Path) -> Iterator[Container]:
    """Run a container; whatever happens, nothing of it is left."""
    bundle = _write_bundle(settings, scratch)
    log = bundle / "log"
    with log.open("wb") as output:
        command = [*_CRUN, "run", "--bundle", str(bundle), bundle.name]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Container(process, bundle.name, settings.user, log)
    finally:
        subprocess.run([*_CRUN, "delete", "--force", bundle.name], stderr=subprocess.DEVNULL)
        process.wait()


@contextmanager
def running_with_podman(settings: Settings, scratch: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a container by podman with crun, as a node's container engine would; yield podman, which passes signals on.

    Its own cgroup file system is mounted in a namespace of its own, because containers of tests have none that it can write to.
    """
    root = _write_bundle(settings, scratch) / "root"
    state = Path(tempfile.mkdtemp(prefix="podman-"))  # podman takes 50 characters and no more
    here = f"umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec {shlex.join(_podman(settings, root, state))}"
    with (scratch / "podman.log").open("wb") as output:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", here], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.terminate()
        process.wait(_PATIENCE_S)
        shutil.rmtree(state, ignore_errors=True)


def _podman(settings: Settings, root: Path, state: Path) -> list[str]:
    own = [Path("/usr"), Path("/etc/ssl"), Path(sys.base_prefix), ROOT]
    mounts = [Mount(path, str(path), is_read_only=True) for path in dict.fromkeys(own)] + settings.mounts
    command = ["podman", "--root", f"{state}/storage", "--runroot", f"{state}/run", "--storage-driver", "vfs"]
    command += ["--cgroup-manager", "cgroupfs", "--runtime", "crun", "run", "--rm", "--cgroups", "disabled"]
    # What podman would raise, this process may not.
    command += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--network", "host"]
    command += ["--user", f"{settings.user[0]}:{settings.user[1]}"]
    command += [word for group in settings.groups for word in ("--group-add", str(group))]
    if settings.is_read_only:
        command += ["--read-only", "--read-only-tmpfs=false"]
    if settings.drops_capabilities:
        command += ["--cap-drop", "ALL"]
    if not settings.may_gain_privileges:
        command += ["--security-opt", "no-new-privileges"]
    for name, value in (IMAGE_ENVIRONMENT | settings.environment).items():
        command += ["--env", f"{name}={value}"]
    for mount in mounts:
        command += ["--volume", f"{mount.outside}:{mount.inside}:{'ro' if mount.is_read_only else 'rw'}"]
    return [*command, "--rootfs", str(root), sys.executable, "-m", "proxy", *settings.arguments]


def _write_bundle(settings: Settings, scratch: Path) -> Path:
    bundle = scratch / f"deploy-test-{uuid.uuid4().hex[:12]}"
    root = bundle / "root"
    root.mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (root / name).symlink_to(f"usr/{name}")
    (bundle / "config.json").write_text(json.dumps(_specification(settings, root)))
    return bundle


def _specification(settings: Settings, root: Path) -> dict[str, object]:
    """The OCI runtime specification: https://github.com/opencontainers/runtime-spec, config.md."""
    kept: list[str] = [*([] if settings.drops_capabilities else _DEFAULT_CAPABILITIES), *settings.capabilities]
    own = [Path("/usr"), Path("/etc/hosts"), Path("/etc/ssl"), Path(sys.base_prefix), ROOT]
    mounts = [Mount(path, str(path), is_read_only=True) for path in own] + settings.mounts
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
    if settings.network is not None:
        namespaces.append({"type": "network", "path": f"/run/netns/{settings.network}"})
    environment = IMAGE_ENVIRONMENT | settings.environment
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": [
                *([settings.program] if settings.program else [sys.executable, "-m", "proxy"]),
                *settings.arguments,
            ],
            "env": [f"{name}={value}" for name, value in environment.items()],
            "cwd": "/",
            "user": {"uid": settings.user[0], "gid": settings.user[1], "additionalGids": settings.groups},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), kept),
            "noNewPrivileges": not settings.may_gain_privileges,
        },
        "root": {"path": str(root), "readonly": settings.is_read_only},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            *(
                {
                    "destination": mount.inside,
                    "type": "bind",
                    "source": str(mount.outside),
                    "options": ["rbind", "nosuid", "ro" if mount.is_read_only else "rw"],
                }
                for mount in mounts
            ),
        ],
        "linux": {"namespaces": namespaces},
    }


def is_root() -> bool:
    return os.geteuid() == 0
