"""Network namespaces of Linux, for tests of what the kernel, the hosts file or a capability decides. Runs programs; needs root.

Programs run in one with a hosts file and a resolv.conf of their own, and as a user without any capability; sockets of the test
process itself are opened there by a thread.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import threading
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from tests.other_user import USER, can_change_user, open_way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

T = TypeVar("T")

# Daemons and their like live where an ordinary user's PATH does not lead.
_PATH: Final = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_CLONE_NEWNET: Final = 0x40000000  # setns(2)


def _may_make_them() -> bool:
    if not can_change_user() or shutil.which("ip", path=_PATH) is None:
        return False
    return subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0


needs_namespaces: Final = pytest.mark.skipif(
    not _may_make_them() and "CI" not in os.environ, reason="takes root, iproute2, and leave to make network namespaces"
)
needs_nftables: Final = pytest.mark.skipif(
    (shutil.which("nft", path=_PATH) is None or not _may_make_them()) and "CI" not in os.environ,
    reason="takes root, iproute2, nftables, and leave to make network namespaces",
)


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, and what programs in it read of names.

    Attributes:
        name: as ip-netns(8) knows it.
        files: path of a file that is laid over one of the machine's, by the latter's path.
    """

    name: str
    files: dict[str, Path]

    def command(self, *arguments: str | Path, owns: Path | None = None) -> list[str]:
        """Return the command that runs a program here.

        Args:
            arguments: the program and its own.
            owns: a directory that another user gets, as whom the program runs, without capabilities; None: it is run by root.
        """
        lines = ["set -e"]
        if owns is not None:
            lines.append(f"chown -R {USER}:{USER} {shlex.quote(str(owns))}")
            lines += open_way()
        lines += [f"mount --bind {shlex.quote(str(file))} {path}" for path, file in self.files.items()]
        drop = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--bounding-set=-all"]
        dropped = shlex.join([*drop, "--inh-caps=-all", "--no-new-privs"]) if owns is not None else ""
        lines.append(f'exec {dropped} "$0" "$@"')
        return ["ip", "netns", "exec", self.name, "sh", "-c", "\n".join(lines), *map(str, arguments)]

    def run(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run a program of the system's here as root, to its end, and return what it printed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *map(str, arguments)], input=stdin, capture_output=True, text=True
        )
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout

    def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns whose sockets belong here, wherever they are used afterwards."""
        results: list[T] = []

        def work() -> None:
            with open(f"/run/netns/{self.name}", "rb") as file:  # noqa: PTH123  # a descriptor is what setns takes
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            results.append(function())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return results[0]

    def ip(self, *arguments: str) -> None:
        """Run ip(8) here."""
        subprocess.run(["ip", "-netns", self.name, *arguments], check=True)

    def allow_low_ports(self) -> None:
        """Let every user listen below port 1024, as the pod's safe sysctl does."""
        self.run("sh", "-c", "echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start")


@contextmanager
def made_namespace(purpose: str = "") -> Iterator[Namespace]:
    """Make a namespace with a loopback interface; whatever happens, nothing of it is left."""
    name = f"aap-{uuid.uuid4().hex[:8]}{purpose}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        made = Namespace(name, {})
        made.ip("link", "set", "lo", "up")
        yield made
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def connect(one: Namespace, other: Namespace, addresses: Sequence[tuple[str, str]], link: str = "eth0") -> None:
    """Join two namespaces by a cable.

    Args:
        one, other: the ends.
        addresses: with prefix lengths, of each family one pair: at this end, at the other.
        link: the interfaces' name.
    """
    one.ip("link", "add", link, "type", "veth", "peer", "name", link, "netns", other.name)
    for index, end in enumerate((one, other)):
        for pair in addresses:
            nodad = ["nodad"] if ":" in pair[index] else []  # nobody else is there, and an address is wanted at once
            end.ip("address", "add", pair[index], "dev", link, *nodad)
        end.ip("link", "set", link, "up")
