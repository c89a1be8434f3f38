"""Sends every smuggling case through a mode of the proxy to a real upstream and says what became of it. Does I/O.

``python -m tests.security.smuggling`` runs all of it and writes the table in docs/smuggling.md.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from tests.ports import free_port
from tests.security.boundary import HOST, Boundary, running
from tests.security.smuggling_cases import Case, cases
from tests.wire.rig import TOKEN, Peer, Trust

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Mode = Literal["forward", "connect", "reverse"]
MODES: Final[tuple[Mode, ...]] = ("forward", "connect", "reverse")
UPSTREAMS: Final = ("nginx", "node")
DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs" / "smuggling.md"
NODE_PROGRAM: Final = Path(__file__).with_name("smuggling_upstream.js")

# How many answers a case waits for, 0 for one a request, and how long: some requests never end, and are never refused either.
_AWAITED: Final = {"passed": (0, 10.0), "open": (0, 0.4), "refused": (1, 0.4)}
_REQUEST_LINE: Final = re.compile(r"[^ ]+ [^ ]+ HTTP/1\.1")

NGINX: Final = """
{user} daemon off; worker_processes 1; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  log_format seen escape=json '{{"line":"$request","method":"$request_method","target":"$request_uri","host":"$http_host",'
    '"status":$status,"authorization":["$http_authorization"],"content":"$request_body"}}';
  access_log off; keepalive_requests 100000;
  client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi; merge_slashes off;
  server {{
    listen 127.0.0.1:{port} ssl; ssl_certificate {pem}; ssl_certificate_key {pem};
    client_body_in_single_buffer on; client_body_buffer_size 128k; access_log {directory}/seen.log seen;
    location / {{ proxy_pass http://unix:{directory}/behind.sock:; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
  server {{ listen unix:{directory}/behind.sock; location / {{ return 200 ok; }} }}
}}
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that an upstream believes to have received.

    Attributes:
        complete: whether it arrived whole.
        is_malformed: whether the upstream could make nothing of it.
    """

    method: str
    target: str
    host: str
    authorization: tuple[str, ...]
    content: bytes
    complete: bool
    is_malformed: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one case.

    Attributes:
        contents: what each request that passes has to have as its content.
        status: of the first answer; 0 where there was none.
        seen: what the upstream wrote down under the case's own targets.
        smuggled: whether it saw the request that must never be one.
    """

    case: Case
    contents: tuple[bytes, ...]
    status: int
    seen: tuple[Seen, ...]
    smuggled: bool

    @property
    def whole(self) -> tuple[Seen, ...]:
        """The requests that arrived whole."""
        return tuple(one for one in self.seen if one.complete)

    def word(self) -> str:
        """For the table."""
        if self.smuggled:
            return "SMUGGLED"
        if self.whole:
            return "one request" if len(self.whole) == 1 else f"{len(self.whole)} requests"
        return f"refused ({self.status})" if self.status else "closed"

    def fault(self) -> str:
        """Why this must not be; empty where all is well."""
        case = self.case
        if self.smuggled:
            return "the upstream saw the smuggled request"
        if any(one.is_malformed for one in self.seen):
            return "the upstream could not read what it got"
        if case.fate == "refused" and self.whole:
            return f"passed on, and should have been refused: {self.whole}"
        if case.fate == "passed" and not self.whole:
            return f"refused with {self.status}, and is sound"
        if case.fate == "refused" and not 400 <= self.status <= 599:
            return f"not refused: {self.status}"
        if self.whole and tuple(one.content for one in self.whole) != self.contents:
            return f"the upstream read other contents: {[one.content for one in self.whole]}"
        for one in self.whole:
            if one.host != HOST or one.authorization != (f"Bearer {TOKEN}",):
                return f"the upstream read other fields: {one}"
        return ""


def smuggled_path(number: int) -> str:
    """Three characters, as long as the placeholder, another for each case."""
    return "/" + base64.urlsafe_b64encode(number.to_bytes(2, "big") + b"\0").decode()[1:3]


def fill(case: Case, number: int, mode: Mode) -> bytes:
    """The bytes to be sent."""
    prefix = f"http://{HOST}" if mode == "forward" else ""
    wire = case.wire
    for placeholder, text in (
        (b"{T}", f"{prefix}/case-{number}"),
        (b"{P}", f"/case-{number}"),
        (b"{N}", f"{prefix}/next-{number}"),
        (b"{E}", smuggled_path(number)),
    ):
        wire = wire.replace(placeholder, text.encode())
    return wire


async def connect(boundary: Boundary, trust: Trust, mode: Mode) -> Peer:
    """A connection on which requests can be sent in a mode."""
    peer = await boundary.connect(1 if mode == "reverse" else 0)
    if mode != "connect":
        return peer
    peer.send(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode())
    await peer.read_until()
    inner = Peer()
    secured = await asyncio.get_running_loop().start_tls(
        peer.transport, inner, trust.client_context, server_hostname=HOST
    )
    assert secured is not None
    inner.connection_made(secured)
    return inner


async def play(boundary: Boundary, trust: Trust, mode: Mode, numbered: Sequence[tuple[int, Case]]) -> dict[int, int]:
    """Sends all cases, each on a connection of its own with an innocent request behind it; returns the answers' statuses."""
    statuses = {}
    for number, case in numbered:
        peer = await connect(boundary, trust, mode)
        peer.send(fill(case, number, mode))
        # A client that leaves takes the requests back that have no answer yet.
        count, patience_s = _AWAITED[case.fate]
        with contextlib.suppress(AssertionError):
            await peer.until(functools.partial(_has_answers, count or len(case.contents)), patience_s)
        received = bytes(peer.received).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        statuses[number] = int(received[9:12]) if received.startswith(b"HTTP/1.1 ") else 0
        peer.transport.abort()
        probe = await connect(boundary, trust, mode)
        host = "localhost" if mode == "reverse" else HOST
        target = f"http://{HOST}/probe-{number}" if mode == "forward" else f"/probe-{number}"
        probe.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = await probe.read_to_end()
        assert answer.startswith(b"HTTP/1.1 200 "), f"after {case.family}, {case.name}: {answer!r}"
        assert answer.endswith(b"ok"), f"after {case.family}, {case.name}: {answer!r}"
    return statuses


def _has_answers(count: int, peer: Peer) -> bool:
    return peer.received.count(b"HTTP/1.1 ") - peer.received.count(b"HTTP/1.1 100") >= count or peer.lost


def judge(numbered: Sequence[tuple[int, Case]], statuses: dict[int, int], log: list[Seen]) -> list[Outcome]:
    """Sorts what the upstream wrote down by case."""
    outcomes = []
    targets: dict[str, list[Seen]] = {}
    for one in log:
        targets.setdefault(_own_target(one.target), []).append(one)
    for number, case in numbered:
        seen = targets.pop(f"/case-{number}", []) + targets.pop(f"/next-{number}", [])
        smuggled = bool(targets.pop(smuggled_path(number), []))
        (probe,) = targets.pop(f"/probe-{number}")
        assert (probe.method, probe.content, probe.complete) == ("GET", b"", True), probe
        contents = tuple(content.replace(b"{E}", smuggled_path(number).encode()) for content in case.contents)
        outcomes.append(Outcome(case, contents, statuses[number], tuple(seen), smuggled))
    assert not targets, f"requests that nobody sent: {targets}"
    return outcomes


def _own_target(target: str) -> str:
    """The part of a target by which a case knows its requests."""
    found = target.removeprefix("/")
    kind, dash, rest = found.partition("-")
    if dash and kind in ("case", "next", "probe"):
        digits = rest[: len(rest) - len(rest.lstrip("0123456789"))]
        return f"/{kind}-{digits}"
    return target


def run(trust: Trust, mode: Mode, upstream: str, some: Sequence[Case], directory: Path) -> list[Outcome]:
    """Plays cases through one mode in front of one upstream."""
    numbered = list(enumerate(some))

    async def talk(port: int) -> dict[int, int]:
        changes: dict[str, Any] = {
            "listeners": [
                {"address": "127.0.0.1:0"},
                {"address": "127.0.0.1:0", "mode": "reverse", "upstream": f"https://{HOST}"},
            ],
            "routes": [{"hosts": [HOST], "credential": "c", "scope": "s", "dial": f"127.0.0.1:{port}"}],
        }
        async with running(directory, trust, **changes) as boundary:
            return await play(boundary, trust, mode, numbered)

    with (nginx if upstream == "nginx" else node)(directory, trust) as (port, read_log):
        statuses = asyncio.run(talk(port))
        return judge(numbered, statuses, read_log())


@contextlib.contextmanager
def nginx(directory: Path, trust: Trust) -> Iterator[tuple[int, Callable[[], list[Seen]]]]:
    """nginx with a server behind it, so that it reads contents."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    assert program is not None, "nginx is not installed"
    pem = _certificate(directory, trust)
    port = free_port()
    user = "user root;" if os.geteuid() == 0 else ""  # else its worker is somebody who cannot read the directory
    file = directory / "nginx.conf"
    file.write_text(NGINX.format(user=user, directory=directory, port=port, pem=pem), encoding="utf-8")
    log = directory / "seen.log"

    def read_log() -> list[Seen]:
        lines = log.read_bytes().decode("latin-1").splitlines()
        # A connection without a request is the one by which the port was found to be open.
        return [_from_nginx(line) for line in map(json.loads, lines) if line["line"]]

    with _program(program, "-c", str(file), "-p", str(directory)) as process:
        _wait_for_port(port, process)
        yield port, read_log
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def node(directory: Path, trust: Trust) -> Iterator[tuple[int, Callable[[], list[Seen]]]]:
    """Node's own HTTP server."""
    program = shutil.which("node")
    assert program is not None, "node is not installed"
    log = directory / "seen.log"
    log.touch()

    def read_log() -> list[Seen]:
        return [_from_node(json.loads(line)) for line in log.read_text(encoding="utf-8").splitlines()]

    with _program(program, str(NODE_PROGRAM), str(_certificate(directory, trust)), str(log)) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline()), read_log


def _from_nginx(line: dict[str, Any]) -> Seen:
    # 400, 408 and 501 are nginx' own, 499 is a client that left: it did not get the request whole, or not one that it takes.
    _, _, target = line["line"].partition(" ")
    return Seen(
        line["method"],
        line["target"] or target.rpartition(" ")[0],
        line["host"],
        tuple(line["authorization"]),
        line["content"].encode("latin-1"),
        complete=line["status"] not in (400, 408, 499, 501),
        is_malformed=not _REQUEST_LINE.fullmatch(line["line"]),
    )


def _from_node(line: dict[str, Any]) -> Seen:
    if "malformed" in line:
        start = line["malformed"]  # of methods and targets that Node does not take, too
        is_malformed = not _REQUEST_LINE.fullmatch(start)
        target = start.partition(" ")[2].rpartition(" ")[0]
        return Seen("", target, "", (), b"", complete=False, is_malformed=is_malformed)
    authorization = tuple(line["authorization"])
    content = line["content"].encode("latin-1")
    return Seen(line["method"], line["target"], line.get("host", ""), authorization, content, line["complete"])


def _certificate(directory: Path, trust: Trust) -> Path:
    path = directory / "upstream.pem"
    trust.upstream_authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@contextlib.contextmanager
def _program(*command: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def _wait_for_port(port: int, process: subprocess.Popen[str]) -> None:
    for _ in range(500):
        with socket.socket() as probe:
            probe.settimeout(0.1)
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert process.poll() is None, "nginx ended"
        time.sleep(0.01)
    msg = "nginx does not listen"
    raise AssertionError(msg)


HEADING: Final = """\
# Request smuggling: what was tried, and what became of it

Every row is a request made to be read in two ways, sent through each mode of the proxy to nginx and to Node's HTTP server, with an
innocent request behind it on another connection. *refused* means that the upstream received no such request; *one request* that it
received exactly one, with the method, target, Host, token and content that the proxy had validated, and that the request behind it
got its own answer. Where the answers of the modes or the upstreams differ, all of them are given.

`tests/security/test_smuggling.py` runs the cases, which stand in `tests/security/smuggling_cases.py` with their sources, and fails
where this table is not what happens. `python -m tests.security.smuggling` writes it.

"""


def format_table(results: dict[tuple[Mode, str], list[Outcome]]) -> str:
    """The document."""
    every = list(results.values())
    families: dict[str, list[str]] = {}
    for row in zip(*every, strict=True):
        case = row[0].case
        words = list(dict.fromkeys(outcome.word() for outcome in row))
        families.setdefault(case.family, []).append(f"| {_cell(case.name)} | {', '.join(words)} |")
    refused = sum(all(not outcome.whole for outcome in row) for row in zip(*every, strict=True))
    count = len(every[0])
    parts = [
        HEADING,
        f"{count} cases, {count * len(results)} runs: {refused} cases are refused, {count - refused} pass as what they are.\n",
    ]
    for family, rows in families.items():
        parts.append(f"\n## {family}\n\n| case | outcome |\n|---|---|\n" + "\n".join(rows) + "\n")
    return "".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def read_table() -> dict[tuple[str, str], set[str]]:
    """What the document says became of each case: its family and name, and the words."""
    table = {}
    family = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            family = line.removeprefix("## ")
        elif line.startswith("| ") and not line.startswith("| case"):
            name, words = line.removeprefix("| ").removesuffix(" |").rsplit(" | ", 1)
            table[family, name] = set(words.split(", "))
    return table


def main() -> int:
    """Runs everything; returns the exit status."""
    trust = Trust.create()
    some = cases()
    results: dict[tuple[Mode, str], list[Outcome]] = {}
    faults = 0
    for upstream in UPSTREAMS:
        for mode in MODES:
            with tempfile.TemporaryDirectory() as directory:
                outcomes = results[mode, upstream] = run(trust, mode, upstream, some, Path(directory))
            for outcome in outcomes:
                if fault := outcome.fault():
                    faults += 1
                    sys.stderr.write(f"{upstream}, {mode}: {outcome.case.family}, {outcome.case.name}: {fault}\n")
    DOCUMENT.write_text(format_table(results), encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
