"""Runs an image's file system as a container, as an engine with ``--read-only --user --cap-drop ALL`` does. Runs programs.

crun is the runtime below podman and others; here it is called directly, because an engine wants a daemon or a network.
The container shares the network of its caller and nothing else. Shells in the image are covered up, so that whatever
needs one fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

SHELLS: Final = ("bin/sh", "bin/dash", "bin/bash", "bin/busybox")
_STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What an image says about how it is run.

    Attributes:
        arguments: its entry point and command.
        environment: as ``NAME=value``.
        user: its numeric user and group.
        health: the command of its health check.
    """

    arguments: list[str]
    environment: list[str]
    user: tuple[int, int]
    health: list[str]


def parse_image_settings(inspected: str) -> ImageSettings:
    """Returns what ``buildah inspect`` says of an image in Docker's format."""
    config = json.loads(inspected)["Docker"]["config"]
    user, _, group = config["User"].partition(":")
    kind, *health = config["Healthcheck"]["Test"]
    assert kind == "CMD", "the health check needs a shell"
    return ImageSettings([*config["Entrypoint"], *config["Cmd"]], config["Env"], (int(user), int(group)), health)


@dataclass(frozen=True, slots=True)
class Container:
    """A running container.

    Attributes:
        name: what crun knows it by.
        user: whom it runs as.
        pid: of its one process, seen from outside.
        process: the crun that waits for it; it ends with the container's exit code.
    """

    name: str
    user: tuple[int, int]
    pid: int
    process: subprocess.Popen[bytes]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Runs a command inside, as the user of the container."""
        user = f"--user={self.user[0]}:{self.user[1]}"
        return subprocess.run(["crun", "exec", user, self.name, *arguments], capture_output=True)

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code."""
        subprocess.run(["crun", "kill", self.name, "TERM"], check=True)
        return self.process.wait(_STOP_S)


@contextmanager
def running(root: Path, image: ImageSettings, bundle: Path, mounts: dict[str, tuple[Path, str]]) -> Iterator[Container]:
    """Runs the image; whatever happens, nothing of it is left.

    Args:
        root: the image's file system.
        image: how it is run.
        bundle: an empty directory for crun's files.
        mounts: path inside → (path outside, ``ro`` or ``rw``).
    """
    name = f"image-test-{uuid.uuid4().hex[:12]}"
    (bundle / "config.json").write_text(json.dumps(_specification(root, image, mounts)))
    pid_file = bundle / "pid"
    command = ["crun", "--cgroup-manager=disabled", "run", "--bundle", str(bundle), f"--pid-file={pid_file}", name]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while not (pid_file.exists() and pid_file.read_text()):
            assert process.poll() is None, "the container did not start"
            os.sched_yield()
        yield Container(name, image.user, int(pid_file.read_text()), process)
    finally:
        subprocess.run(["crun", "delete", "--force", name], stderr=subprocess.DEVNULL)
        process.kill()
        process.wait()


def _specification(root: Path, image: ImageSettings, mounts: dict[str, tuple[Path, str]]) -> dict[str, object]:
    """The OCI runtime specification: https://github.com/opencontainers/runtime-spec, config.md."""
    nothing: list[str] = []
    bound = {
        "/etc/hosts": (Path("/etc/hosts"), "ro"),
        **{f"/{shell}": (Path("/dev/null"), "ro") for shell in SHELLS if (root / shell).exists()},
        **mounts,
    }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "args": image.arguments,
            "env": image.environment,
            "cwd": "/",
            "user": {"uid": image.user[0], "gid": image.user[1]},
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), nothing),
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64k"]},
            *(
                {"destination": inside, "type": "bind", "source": str(outside), "options": ["bind", mode, "nosuid"]}
                for inside, (outside, mode) in bound.items()
            ),
        ],
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
    }
