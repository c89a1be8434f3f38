"""An exchange as one line: JSON for programs, text for a terminal. Does no I/O.

Invariants: a line holds exactly one line feed, its last character, and only printable ASCII before it (and, for a colour
terminal, our own colour codes), whatever clients and upstreams send; JSON lines are valid JSON with always the same keys.

The JSON formatter runs once an exchange on the same processor as the relay, hence one f-string and no `json.dumps`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from proxy.relay.record import ExchangeRecord

# More different names than this in one log are unusual; longer ones are not remembered, so that memory stays bounded.
_REMEMBERED: Final = 1_024
_REMEMBERED_CHARACTERS: Final = 1_024
# In hundredths of a millisecond: 200 ms.
_REMEMBERED_DURATIONS: Final = 20_000

# The fields whose texts are remembered, in the order of a line.
_RECURRING: Final = (
    "client",
    "mode",
    "method",
    "authority",
    "route",
    "reused",
    "outcome",
    "code",
    "client_name",
    "credential",
    "proof",
    "http_version",
    "upstream_http_version",
)
# Of these a line for people says nothing: nearly all exchanges have them.
_PLAIN_VERSIONS: Final = ("", "1.1")
_THOUSANDTHS: Final = tuple(f"{number:03d}" for number in range(1_000))
_VISIBLE: Final = bytes(byte for byte in range(0x21, 0x7F) if byte not in b"\\")
# What stands in a JSON string as it is.
_PLAIN: Final = _VISIBLE.replace(b'"', b"")

_RESET: Final = "\x1b[0m"
_DIM: Final = "\x1b[2m"
_COLOURS: Final = {2: "\x1b[32m", 3: "\x1b[36m", 4: "\x1b[33m", 5: "\x1b[31m", 0: "\x1b[35m"}


class LineFormat(Protocol):
    """Turns records into lines."""

    def format(self, records: Iterable[ExchangeRecord]) -> str:
        """Return one line an exchange, each with its line feed."""
        ...

    def format_loss(self, at: float, count: int) -> str:
        """Return the line that says how many exchanges have no line; `at` in Unix seconds."""
        ...


def escape(raw: bytes) -> str:
    r"""Return bytes as printable ASCII: all else, the space and the backslash become ``\xHH``, as in nginx's logs."""
    if not raw.translate(None, _VISIBLE):
        return raw.decode("ascii")
    return "".join(chr(byte) if byte in _VISIBLE else f"\\x{byte:02X}" for byte in raw)


def escape_text(text: str) -> str:
    """Return text as printable ASCII, spaces kept, everything else as `escape` does it to its UTF-8 bytes."""
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return escape(text.encode("utf-8", "surrogatepass")).replace("\\x20", " ")


def quote(text: str) -> str:
    """Return printable ASCII as a JSON string, and nothing as ``null``."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if text else "null"


class _Durations(dict[int, str]):
    """Milliseconds as text, by hundredths of a millisecond."""

    def __missing__(self, hundredths: int) -> str:
        text = f"{hundredths / 100:.2f}"
        if hundredths < _REMEMBERED_DURATIONS:
            self[hundredths] = text
        return text


def _to_json(value: str | bytes | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return quote(escape(value) if isinstance(value, bytes) else escape_text(value))


class JsonFormat:
    """Lines of JSON (JSON Lines): UTC times with milliseconds, ``null`` for what is not there.

    Most of a line is the same from one exchange to the next: client, method, authority, route, credential. So the texts of
    what recurs are looked up, once a line, and only path, sizes and times are formatted.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str | bytes | bool, ...], tuple[str, str, str]] = {}
        self._durations = _Durations()
        self._second = -1
        self._second_text = ""

    def format(self, records: Iterable[ExchangeRecord]) -> str:
        """See `LineFormat`."""
        known, durations = self._known, self._durations
        lines = []
        for record in records:
            (
                ended_at, client, mode, method, authority, target, status, received_bytes, sent_bytes, duration_s, upstream_s,
                route, token_age_s, reused, outcome, code, client_name, credential, proof, _, name_s,
                http_version, upstream_http_version,
            ) = record  # fmt: skip
            second = int(ended_at)
            if second != self._second:
                self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
                self._second = second
            recurring = (
                client, mode, method, authority, route, reused, outcome, code, client_name, credential, proof,
                http_version, upstream_http_version,
            )  # fmt: skip
            start, middle, end = known.get(recurring) or self._remember(recurring)
            path = (
                f'"{target.decode("ascii")}"'
                if target and not target.translate(None, _PLAIN)
                else quote(escape(target))
            )
            lines.append(
                f'{{"time":"{self._second_text}{_THOUSANDTHS[int((ended_at - second) * 1000)]}Z",{start},"path":{path},'
                f'"status":{status or "null"},"received_bytes":{received_bytes},"sent_bytes":{sent_bytes},'
                f'"duration_ms":{durations[int(duration_s * 1e5)]},'
                f'"upstream_ms":{"null" if upstream_s is None else durations[int(upstream_s * 1e5)]},'
                f'"name_ms":{"null" if name_s is None else durations[int(name_s * 1e5)]},'
                f'{middle},"token_age_s":{"null" if token_age_s is None else int(token_age_s)},{end}}}\n'
            )
        return "".join(lines)

    def _remember(self, recurring: tuple[str | bytes | bool, ...]) -> tuple[str, str, str]:
        """Return the texts before the path, behind the times, and behind the token's age; keep them, unless they are long."""
        fields = [f'"{name}":{_to_json(value)}' for name, value in zip(_RECURRING, recurring, strict=True)]
        texts = ",".join(fields[:4]), fields[4], ",".join(fields[5:])
        if sum(map(len, texts)) <= _REMEMBERED_CHARACTERS:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[recurring] = texts
        return texts

    def format_loss(self, at: float, count: int) -> str:
        """See `LineFormat`."""
        second = int(at)
        clock = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
        return f'{{"time":"{clock}{int((at - second) * 1000):03d}Z","event":"lines_dropped","count":{count}}}\n'


class TextFormat:
    """Aligned lines for people: local time of day on a terminal, UTC with the date elsewhere.

    Args:
        terminal: whether the lines go to one.
        colour: whether they may hold colour codes.
    """

    def __init__(self, *, terminal: bool, colour: bool) -> None:
        self._terminal = terminal
        self._colour = colour

    def format(self, records: Iterable[ExchangeRecord]) -> str:
        """See `LineFormat`."""
        return "".join(map(self._line, records))

    def format_loss(self, at: float, count: int) -> str:
        """See `LineFormat`."""
        return f"{self._clock(at)}  {count} exchanges are missing here: they came faster than they could be written\n"

    def _line(self, record: ExchangeRecord) -> str:
        status = f"{record.status:3d}" if record.status else "---"
        if self._colour:
            status = f"{_COLOURS.get(record.status // 100, '')}{status}{_RESET}"
        what = f"{escape(record.method) or '-':<7} {escape_text(record.authority) or '-'}{escape(record.target)}"
        details = "  ".join(_details(record))
        if self._colour:
            details = f"{_DIM}{details}{_RESET}"
        return f"{self._clock(record.ended_at)}  {status}  {_milliseconds(record.duration_s):>11}  {what}  {details}\n"

    def _clock(self, at: float) -> str:
        second = int(at)
        milliseconds = int((at - second) * 1000)
        if self._terminal:
            return f"{time.strftime('%H:%M:%S', time.localtime(second))}.{milliseconds:03d}"
        return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(second))}.{milliseconds:03d}Z"


def _details(record: ExchangeRecord) -> list[str]:
    details = []
    if record.outcome != "ok":
        details.append(escape_text(f"{record.outcome} {record.code}".rstrip()))
    if record.received_bytes:
        details.append(f"sent up {_bytes(record.received_bytes)}")
    details.append(_bytes(record.sent_bytes))
    if record.name_s is not None:
        details.append(f"name {_milliseconds(record.name_s)}")
    if record.upstream_s is not None:
        details.append(f"upstream {_milliseconds(record.upstream_s)}")
    if record.token_age_s is not None:
        details.append(f"token {record.token_age_s:.0f} s old")
    if record.http_version not in _PLAIN_VERSIONS or record.upstream_http_version not in _PLAIN_VERSIONS:
        upstream = f" to HTTP/{record.upstream_http_version}" if record.upstream_http_version else ""
        details.append(f"HTTP/{record.http_version}{upstream}")
    if record.reused:
        details.append("reused")
    if record.route and record.route != record.authority.rpartition(":")[0]:
        details.append(f"route {escape_text(record.route)}")
    who = f"{escape_text(record.client_name)} at " if record.client_name else ""
    details.append(f"{escape_text(record.mode)} {who}{escape_text(record.client)}")
    return details


def _milliseconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 10 else f"{seconds * 1000:.1f} ms"


def _bytes(count: int) -> str:
    if count < 1_000:
        return f"{count} B"
    size = float(count)
    for unit in ("kB", "MB", "GB"):
        size /= 1_000
        if size < 999.95:
            return f"{size:.1f} {unit}"
    return f"{size / 1_000:.1f} TB"
