"""What Linux's own files say about names: /etc/hosts, /etc/nsswitch.conf, /etc/resolv.conf. Reads them; the rest is pure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# systemd-resolved listens here, and knows by itself which name server a name belongs to.
_RESOLVED: Final = frozenset({"127.0.0.53", "127.0.0.54"})


class WatchedFile:
    """A small file, read again when it has changed.

    A look at its age costs a few microseconds, and also works where the file is a mount, as in containers: watching the directory,
    as c-ares does, shows nothing there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._fingerprint()
        self.text = self._read()

    def changed(self) -> bool:
        """Return whether it has changed since the last call, and read it again then."""
        seen = self._fingerprint()
        if seen == self._seen:
            return False
        self._seen = seen
        self.text = self._read()
        return True

    def _read(self) -> str:
        try:
            return self._path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""

    def _fingerprint(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_mtime_ns, found.st_size)


def find_in_hosts(text: str, name: str) -> tuple[str, ...]:
    """Return the addresses that a hosts file gives a name, in the file's order.

    c-ares reads the file, too, but gives a name the addresses of every line that shares another name with its own.

    Args:
        text: of the file, see hosts(5).
        name: in lower case.
    """
    found = []
    for line in text.splitlines() if name in text.lower() else ():
        words = line.partition("#")[0].split()
        if any(word.lower() == name for word in words[1:]) and _is_address(words[0]):
            found.append(words[0])
    return tuple(dict.fromkeys(found))


def list_sources(nsswitch: str, resolv: str) -> list[str]:
    """Return where this system looks host names up, in that order.

    Args:
        nsswitch: /etc/nsswitch.conf; empty where there is none, as with musl.
        resolv: /etc/resolv.conf. Where it names systemd-resolved, `resolve` and `dns` are the same.
    """
    lines = [line.partition("#")[0].split() for line in nsswitch.splitlines()]
    words = next((line[1:] for line in lines if line and line[0] == "hosts:"), ["files", "dns"])
    sources = [word for word in words if word[0].isalpha()]  # not what is to happen then: [NOTFOUND=return]
    servers = {line[1] for line in map(str.split, resolv.splitlines()) if len(line) > 1 and line[0] == "nameserver"}
    if servers and servers <= _RESOLVED:
        sources = ["dns" if source == "resolve" else source for source in sources]
    return list(dict.fromkeys(sources))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
