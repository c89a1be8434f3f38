"""Which process of this program listens at an address already. Does I/O: asks the address, and looks into Linux's /proc.

`run` starts this as a program of its own: by then it has given up what root needs to see the sockets of others.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from proxy.config.addresses import parse_listen_address
from proxy.policy import probe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from proxy.config.addresses import ListenAddress

_PROC: Final = Path("/proc")
_ASK_S: Final = 1.0
_ANSWER_BYTES: Final = 16_384
# proc(5): state of a listening socket in /proc/net/tcp.
_LISTEN: Final = "0A"
# The admin site answers the second, which is a request.
_QUESTIONS: Final = (probe.QUESTION, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")


@dataclass(frozen=True, slots=True)
class Running:
    """A process that runs `apim-auth-proxy run`.

    Attributes:
        number: its process id.
        config: the configuration that its command line names; empty where it names none.
    """

    number: int
    config: str

    def __str__(self) -> str:
        """Words for a message."""
        config = f"configuration {self.config}" if self.config else "its command line names no configuration"
        return f"process {self.number}, {config}"


def describe_neighbour(address: str) -> str | None:
    """Return which proxy of ours listens at an address; None where none is known to."""
    listener = parse_listen_address(address)
    if listener.path is not None:
        return None
    found = [Running(number, _named_config(number, words)) for number, words in _runs()]
    holders = _holders(listener.port)
    certain = [each for each in found if each.number in holders]
    if certain:
        return str(certain[0])
    if not _says_so(listener):
        return None
    # Of a hardened process of this very user the kernel shows no sockets.
    return str(found[0]) if len(found) == 1 else "its process is not visible from here"


def _runs() -> Iterator[tuple[int, list[str]]]:
    """Yield the processes of this machine that run this program's `run`, but for the one that asks."""
    for place in _PROC.glob("[0-9]*/cmdline"):
        number = int(place.parent.name)
        with contextlib.suppress(OSError):
            words = place.read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
            if number != os.getppid() and _is_run(words):
                yield number, words


def _is_run(words: Sequence[str]) -> bool:
    names = [Path(word).name for word in words[:2]]
    is_ours = "apim-auth-proxy" in names or ("-m" in words and words[words.index("-m") + 1 :][:1] == ["proxy"])
    return is_ours and "run" in words


def _named_config(number: int, words: Sequence[str]) -> str:
    """Return the file that a command line names, absolute where the process' directory can be seen; never another word of it."""
    name = next((word.partition("=")[2] for word in words if word.startswith("--config=")), "")
    if "--config" in words:
        name = "".join(words[words.index("--config") + 1 :][:1])
    if not name or name == "-" or Path(name).is_absolute():
        return "from standard input" if name == "-" else name
    try:
        return str((_PROC / str(number) / "cwd").readlink() / name)
    except OSError:
        return name


def _holders(port: int) -> set[int]:
    """Return the processes that have a listening socket of a port, with their parents and grandparents, as far as this user sees.

    A relay process is its template's child, which is the proxy's.
    """
    sockets = set(_listening(port))
    numbers = set()
    for descriptor in _PROC.glob("[0-9]*/fd/*") if sockets else ():
        with contextlib.suppress(OSError):
            if str(descriptor.readlink()) in sockets:
                numbers.add(int(descriptor.parts[2]))
    parents = {_parent(number) for number in numbers}
    return numbers | parents | {_parent(number) for number in parents if number}


def _parent(number: int) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int((_PROC / str(number) / "status").read_text(encoding="utf-8").partition("PPid:")[2].split()[0])
    return 0


def _listening(port: int) -> Iterator[str]:
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / "net" / name).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                    yield f"socket:[{fields[9]}]"


def _says_so(address: ListenAddress) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # compared, not bound
    return any(_answers(host, address.port, question) for question in _QUESTIONS)


def _answers(host: str, port: int, question: bytes) -> bool:
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_ASK_S) as connection:
        connection.sendall(question)
        while len(answer) < _ANSWER_BYTES and (block := connection.recv(4_096)):
            answer += block
    return b"apim-auth-proxy" in answer.lower()


if __name__ == "__main__":
    sys.stdout.write(describe_neighbour(sys.argv[1]) or "")
