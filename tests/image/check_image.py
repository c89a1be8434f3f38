"""Builds the container image and calls an API through it: read-only, unprivileged, without a shell. Exit 0 if all of it held.

The sandbox, the container and curl share a loopback interface that nothing else on the machine is on, so the image's own
ports are free, and it is certain that nothing outside took part.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

from tests.image.build import IMAGE, ROOT, build, buildah, choose_base
from tests.image.container import Container, ImageSettings, parse_image_settings, running

if TYPE_CHECKING:
    from collections.abc import Iterator

_PROXY: Final = "http://127.0.0.1:8080"
_START_S: Final = 30.0


def main() -> None:
    """Builds, then runs itself again on a loopback interface of its own for the rest."""
    if sys.argv[1:2] == ["call"]:
        call(Path(sys.argv[2]))
        return
    if os.geteuid() != 0:
        sys.exit("The image is mounted and run as another user, so this needs root: sudo make image-test")
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)
        build(choose_base(), scratch)
        (scratch / "image.json").write_text(buildah("inspect", "--type=image", IMAGE))
        container = buildah("from", "--pull-never", IMAGE)
        try:
            (scratch / "root").symlink_to(buildah("mount", container))
            again = [sys.executable, "-m", "tests.image.check_image", "call", directory]
            sys.exit(subprocess.run(["unshare", "--net", "--mount", *again], cwd=ROOT).returncode)
        finally:
            buildah("rm", container)
            buildah("rmi", IMAGE)
            # What earlier builds of the same tag left without a name.
            buildah("rmi", "--prune")


def call(scratch: Path) -> None:
    """Runs the image in `scratch` and shows what holds."""
    _bring_up_loopback()
    _hide_hybrid_cgroups()
    image = parse_image_settings((scratch / "image.json").read_text())
    root = (scratch / "root").resolve()
    with _sandbox(scratch / "sandbox") as sandbox:
        mounts = {
            "/etc/apim-auth-proxy": (_write_configuration(scratch, image.user), "ro"),
            "/state": (_owned_directory(scratch / "state", image.user), "rw"),
        }
        bundle = scratch / "bundle"
        bundle.mkdir()
        with running(root, image, bundle, mounts) as container:
            _wait_until_ready(container)
            _show_that_it_is_confined(container, image)
            _show_the_main_job(container, sandbox, scratch / "ca.pem")
            _show("the health check passes", container.run(*image.health).returncode == 0)
            _show("SIGTERM ends it with exit code 0", container.stop() == 0)


def _show(what: str, holds: bool) -> None:
    print(f"  {'held' if holds else 'FAILED'}  {what}", flush=True)
    if not holds:
        sys.exit(1)


def _show_that_it_is_confined(container: Container, image: ImageSettings) -> None:
    process = Path("/proc") / str(container.pid)
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines() if ":\t" in line)
    _show("it runs as an unprivileged user", status["Uid"].split() == [str(image.user[0])] * 4 and image.user[0] != 0)
    _show("it has no capabilities", int(status["CapEff"], 16) == 0 and int(status["CapBnd"], 16) == 0)
    root = [line.split() for line in (process / "mountinfo").read_text().splitlines() if line.split()[4] == "/"]
    _show("its file system is read-only", "ro" in root[0][5].split(","))
    write = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
    _show("and nothing in it can be written to", container.run("python", "-c", write, "/opt/file").returncode != 0)
    compiled = "import proxy.relay.head as head; assert not head.__file__.endswith('.py')"
    _show("its relay is compiled", container.run("python", "-c", compiled).returncode == 0)
    _show("it has no shell", container.run("sh", "-c", "true").returncode != 0)


def _show_the_main_job(container: Container, sandbox: dict[str, str], ca_file: Path) -> None:
    direct = ("--noproxy", "*", "--cacert", sandbox["ca_file"])
    key = ("--header", f"Ocp-Apim-Subscription-Key: {sandbox['subscription_key']}")
    status, content = _curl(*direct, *key, f"{sandbox['api_url']}/orders")
    _show("a call without a token gets 401 from the gateway", status == 401 and "Access token is missing" in content)

    host = sandbox["api_alias"].removeprefix("https://")
    status, content = _curl("--proxy", _PROXY, f"http://{host}/orders")
    _show("the same call through the container gets 200", status == 200)
    _show("and reached the API with a token", json.loads(content)["token"]["present"] is True)

    export = container.run("apim-auth-proxy", "ca", "export", "--config", "/etc/apim-auth-proxy/config.yaml")
    ca_file.write_bytes(export.stdout)
    status, _ = _curl("--proxy", _PROXY, "--cacert", str(ca_file), f"https://{host}/orders")
    _show("an https URL gets 200, trusting the CA that `ca export` prints", status == 200)


def _curl(*arguments: str) -> tuple[int, str]:
    """Returns status and content of a response; status 0 where there was none."""
    command = ["curl", "--silent", "--max-time", "20", "--write-out", "\n%{http_code}", *arguments]
    output = subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout
    content, _, status = output.rpartition("\n")
    return int(status), content


def _write_configuration(scratch: Path, user: tuple[int, int]) -> Path:
    """Copies what the sandbox wrote to where the container may read it, with the image's ports and state directory."""
    directory = _owned_directory(scratch / "config", user)
    configuration = yaml.safe_load((scratch / "sandbox/config.yaml").read_text())
    configuration["listeners"] = [{"address": _PROXY.removeprefix("http://"), "mode": "forward"}]
    del configuration["admin"], configuration["state_directory"]
    (directory / "config.yaml").write_text(yaml.safe_dump(configuration))
    for name in ("clientapp.pem", "ca.pem"):
        shutil.copy(scratch / "sandbox" / name, directory)
    for path in directory.iterdir():
        os.chown(path, *user)
    return directory


def _owned_directory(path: Path, user: tuple[int, int]) -> Path:
    path.mkdir(mode=0o700)
    os.chown(path, *user)
    return path


@contextmanager
def _sandbox(directory: Path) -> Iterator[dict[str, str]]:
    """Runs the sandbox of the checkout and gives what it says about itself."""
    command = [sys.executable, "-m", "proxy", "sandbox", "--directory", str(directory)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "sandbox ready":
            sys.exit("The sandbox did not start.")
        yield json.loads((directory / "sandbox.json").read_text())
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(container: Container) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and container.process.poll() is None:
        if _curl("--noproxy", "*", "http://127.0.0.1:9901/readyz")[0] == 200:
            return
        time.sleep(0.1)
    sys.exit("The container did not become ready.")


def _bring_up_loopback() -> None:
    """A new network namespace has a loopback interface that is down; SIOCSIFFLAGS (netdevice(7)) brings it up."""
    get_flags, set_flags, up = 0x8913, 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        name, flags = struct.unpack("16sh", fcntl.ioctl(control, get_flags, struct.pack("16sh", b"lo", 0)))
        fcntl.ioctl(control, set_flags, struct.pack("16sh", name, flags | up))


def _hide_hybrid_cgroups() -> None:
    """Crun refuses a machine with both versions of cgroups, even when told to leave them alone; so it sees neither."""
    if Path("/sys/fs/cgroup/unified").exists():
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"], check=True)


if __name__ == "__main__":
    main()
