"""A DNS server on loopback for tests: answers some names, and stays silent for others (RFC 1035). Does I/O in a thread."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TYPES = {1: 4, 28: 6}


class NameServer:
    """Answers A and AAAA queries.

    Args:
        names: the addresses of each name; others do not exist.
        silent: ends of names for which no answer is ever sent; ``.`` stands for all names.
        ttl_s: of every answer.
        host: the loopback address to listen on.
        port: 53 needs root.

    Attributes:
        asked: how many queries came, by name and record type.
        port: the bound port.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str]] | None = None,
        silent: Sequence[str] = (),
        *,
        ttl_s: int = 60,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.names = dict(names or {})
        self.silent = tuple(silent)
        self.ttl_s = ttl_s
        self.asked: Counter[tuple[str, int]] = Counter()
        self._came = threading.Condition()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((host, port))
        self.host, self.port = self._socket.getsockname()
        self._thread = threading.Thread(target=self._serve, name="name server", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.sendto(b"", (self.host, self.port))  # itself, for it may belong to another network namespace
        self._thread.join(10)
        self._socket.close()

    def count(self, name: str) -> int:
        """Returns how many queries there were for IPv4 addresses of a name."""
        with self._came:
            return self.asked[name, 1]

    def wait_for(self, name: str, timeout_s: float = 30) -> None:
        """Returns once somebody has asked for a name."""
        with self._came:
            assert self._came.wait_for(lambda: any(asked == name for asked, _ in self.asked), timeout_s)

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(4_096)
            if not query:
                return
            name, kind, end = _parse_question(query)
            with self._came:
                self.asked[name, kind] += 1
                self._came.notify_all()
            if any(suffix == "." or name.endswith(suffix) for suffix in self.silent):
                continue
            self._socket.sendto(self._answer(query, name, kind, end), sender)

    def _answer(self, query: bytes, name: str, kind: int, end: int) -> bytes:
        found = [
            ip_address(one).packed for one in self.names.get(name, ()) if ip_address(one).version == _TYPES.get(kind)
        ]
        code = 0 if name in self.names else 3
        head = query[:2] + struct.pack(">HHHHH", 0x8180 | code, 1, len(found), 0, 0)
        records = [struct.pack(">HHHIH", 0xC00C, kind, 1, self.ttl_s, len(one)) + one for one in found]
        return head + query[12:end] + b"".join(records)


def _parse_question(query: bytes) -> tuple[str, int, int]:
    """Returns the name, the record type, and where the question ends."""
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii").lower())
        at += 1 + query[at]
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3]), at + 5
