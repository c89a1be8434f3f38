"""Records `apim-auth-proxy demo` in a real terminal, as the animated picture of the README. Starts a process, writes one file.

Run as `python -m tests.recording`; writes docs/images/demo.svg. Everything is in the one file: no script, no font of its own.
It moves by CSS, which GitHub lets pictures have. Who asks for less motion, or whose viewer moves nothing, sees the first screen.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import termios
from html import escape
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.end_to_end.programs import COMMAND, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PICTURE: Final = ROOT / "docs" / "images" / "demo.svg"
PROMPT: Final = "\x1b[32m$\x1b[0m \x1b[1mapim-auth-proxy demo\x1b[0m"
LABEL: Final = "A terminal runs apim-auth-proxy demo: the API answers 401 without the proxy and 200 through it"
COLUMNS: Final = 80
ROWS: Final = 24
CHARACTER: Final = 8.4
LINE: Final = 18
PADDING: Final = 16
BAR: Final = 28
# How long a paragraph stands before the next one comes: long enough to read it, and the last one longer.
LOOK_S: Final = 1.0
LOOK_A_LINE_S: Final = 0.16
LOOK_LAST_S: Final = 5.0
_SGR: Final = re.compile(r"\x1b\[([\d;]*)m")
_CLASSES: Final = {"1": "b", "2": "d", "31": "r", "32": "g", "33": "y", "34": "u", "35": "m", "36": "c"}
_STYLE: Final = """\
text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;fill:#d6deeb;white-space:pre}
.b{font-weight:700}.d{fill:#8895a7}.r{fill:#ff8080}.g{fill:#7fd88f}.y{fill:#e6c36b}.u{fill:#82aaff}.m{fill:#c792ea}.c{fill:#7fdbca}
#k{transform:translateY(HEIGHTpx)}#t,#k{animation:TOTALs step-end infinite}#t{animation-name:t}#k{animation-name:k}
@media (prefers-reduced-motion:reduce){#t,#k{animation:none}#k{display:none}}"""


class Span(NamedTuple):
    """Characters of one look, and the column where they begin."""

    column: int
    text: str
    classes: str


def record(arguments: Sequence[str]) -> str:
    """Runs a program in a terminal of its own; returns what it prints there."""
    child, terminal = pty.fork()
    if child == 0:
        os.execve(arguments[0], [*arguments], environment(TERM="xterm-256color", COLUMNS=str(COLUMNS)))  # noqa: S606  # by path
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    pieces: list[bytes] = []
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # Linux ends a terminal that nobody else has open with EIO
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    if status != 0:
        raise SystemExit(f"The program failed:\n{b''.join(pieces).decode(errors='replace')}")
    return b"".join(pieces).decode().replace("\r\n", "\n")


def parse_line(line: str) -> list[Span]:
    """Splits a line where its look changes; columns are counted without the sequences that change it."""
    spans: list[Span] = []
    look: set[str] = set()
    column = 0
    for index, piece in enumerate(_SGR.split(line)):
        if index % 2:
            codes = piece.split(";") if piece else ["0"]
            if "0" in codes:
                look = set()
            look |= {_CLASSES[code] for code in codes if code in _CLASSES}
        elif piece:
            if piece.strip():
                spans.append(Span(column, piece, " ".join(sorted(look))))
            column += len(piece)
    return spans


def beats(lines: Sequence[str]) -> list[int]:
    """Returns the numbers of lines that are there after each paragraph."""
    ends = [number for number, line in enumerate(lines, 1) if not line.strip()]
    return sorted({1, *ends, len(lines)})


def format_picture(output: str) -> str:
    """Returns the picture of a session: the prompt with the command, and what it printed."""
    lines = [PROMPT, *output.rstrip("\n").split("\n")]
    ends = beats(lines)
    pauses = [LOOK_S + LOOK_A_LINE_S * (end - before) for before, end in zip([0, *ends], ends, strict=False)]
    pauses[-1] = LOOK_LAST_S
    total = sum(pauses)
    width, height = round(COLUMNS * CHARACTER) + 2 * PADDING, ROWS * LINE + 2 * PADDING
    frames_of_text, frames_of_cover = [], []
    elapsed = 0.0
    for end, pause in zip(ends, pauses, strict=True):
        share = f"{100 * elapsed / total:.2f}%"
        frames_of_text.append(f"{share}{{transform:translateY({-max(0, end - ROWS) * LINE}px)}}")
        frames_of_cover.append(f"{share}{{transform:translateY({end * LINE}px)}}")
        elapsed += pause
    keyframes = f"@keyframes t{{{''.join(frames_of_text)}}}@keyframes k{{{''.join(frames_of_cover)}}}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height + BAR}" role="img" aria-label="{LABEL}">',
            f"<style>{_STYLE.replace('TOTAL', f'{total:.1f}').replace('HEIGHT', str(ROWS * LINE))}{keyframes}</style>",
            f'<rect width="{width}" height="{height + BAR}" rx="8" fill="#0b1625"/>',
            *(
                f'<circle cx="{20 + 18 * n}" cy="16" r="5.5" fill="{c}"/>'
                for n, c in enumerate(("#ff5f57", "#febc2e", "#28c840"))
            ),
            f'<svg x="{PADDING}" y="{BAR + PADDING}" width="{width - PADDING}" height="{ROWS * LINE}"><g id="t">',
            *_format_lines(lines),
            f'<rect id="k" width="{width}" height="{(len(lines) + ROWS) * LINE}" fill="#0b1625"/></g></svg></svg>',
            "",
        ]
    )


def _format_lines(lines: Sequence[str]) -> Iterator[str]:
    for number, line in enumerate(lines):
        for span in parse_line(line):
            place = (
                f'x="{span.column * CHARACTER:g}" y="{number * LINE + 13}" textLength="{len(span.text) * CHARACTER:g}"'
            )
            looks = f' class="{span.classes}"' if span.classes else ""
            yield f"<text {place}{looks}>{escape(span.text, quote=False)}</text>"


def main() -> None:
    """Records the demo."""
    PICTURE.write_text(format_picture(record([COMMAND, "demo"])), encoding="utf-8")


if __name__ == "__main__":
    main()
