"""Runs the real curl, and keeps what it was answered byte for byte. Does I/O."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.end_to_end.programs import environment, run_program

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Answer:
    """What one run of curl got.

    Attributes:
        exit_status: of curl itself; 0 where it got a response, whatever its status.
        complaint: what curl said on stderr.
        head: status line and field lines as received, without CRLF; of the last response where there were several.
        content: as received, or decoded where curl was asked to.
        report: what ``--write-out '%{json}'`` says.
    """

    exit_status: int
    complaint: str
    head: tuple[str, ...]
    content: bytes
    report: Mapping[str, object]

    @property
    def status(self) -> int:
        """The status code; 0 without a response."""
        return int(self.head[0].split(" ")[1]) if self.head else 0

    @property
    def unchanging(self) -> tuple[tuple[str, ...], bytes]:
        """All that has to be the same when the same request is sent again: everything but Date."""
        return tuple(line for line in self.head if not line.startswith("Date:")), self.content

    def fields(self, name: str) -> list[str]:
        """Returns the values of all fields with a name, in order."""
        prefix = f"{name.lower()}:"
        return [line[len(prefix) :].strip() for line in self.head[1:] if line.lower().startswith(prefix)]

    @property
    def problem(self) -> dict[str, object]:
        """The problem details of an answer in the proxy's own name (RFC 9457)."""
        assert self.fields("Content-Type") == ["application/problem+json"], (self.head, self.content, self.complaint)
        details: dict[str, object] = json.loads(self.content)
        assert details["status"] == self.status
        assert self.fields("Proxy-Status"), "an answer of the proxy's own has Proxy-Status (RFC 9209)"
        return details


class Curl:
    """The curl on this machine.

    Args:
        copy: a file to which every answer in the proxy's own name is added.
    """

    def __init__(self, copy: Path) -> None:
        self._copy = copy

    def __call__(self, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None) -> Answer:
        """Makes one request; the arguments are curl's."""
        with tempfile.TemporaryDirectory() as name:
            heads, content = Path(name, "heads"), Path(name, "content")
            ours = ["--silent", "--show-error", "--suppress-connect-headers", "--dump-header", str(heads)]
            done = run_program(
                ["curl", *ours, "--output", str(content), "--write-out", "%{json}", *arguments],
                stdin=stdin,
                environ=environment(**environ or {}),
            )
            blocks = heads.read_bytes().decode("latin-1").split("\r\n\r\n") if heads.exists() else []
            answer = Answer(
                done.status,
                done.stderr,
                tuple(blocks[-2].split("\r\n")) if len(blocks) > 1 else (),
                # For --head, curl prints the heads in place of the content that there is none of.
                content.read_bytes() if content.exists() and "--head" not in arguments else b"",
                json.loads(done.stdout or b"{}"),
            )
        if answer.fields("Proxy-Status"):
            with self._copy.open("ab") as copy:
                copy.write("\n".join(answer.head).encode("latin-1") + b"\n" + answer.content + b"\n")
        return answer
