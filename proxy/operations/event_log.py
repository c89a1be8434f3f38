"""What the program says beside the access log: `logging` without blocking, one line or one JSON object an event. Does I/O.

Invariants: the event loop only puts events into a bounded queue, a thread writes them; nothing in a message can pass for a line of
its own or steer a terminal; what looks like a token, an assertion, a password or a private key is not written, wherever it came
from. The last is a net under the rule that no message holds one, not a licence to break it.
"""

from __future__ import annotations

import json
import logging
import queue
import re
import sys
import threading
import time
from logging.handlers import QueueHandler, QueueListener
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

_QUEUED: Final = 10_000
_COLOURS: Final = {"WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31m"}
_RESET: Final = "\x1b[0m"

_PRIVATE_KEY = re.compile(r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(?:-----END \1PRIVATE KEY-----|\Z)", re.DOTALL)
# A JOSE header begins with {" and so with eyJ: access tokens and client assertions (RFC 7515 §7.1).
_JWT = re.compile(r"eyJ[\w-]{8,}(?:\.[\w-]*){0,4}", re.ASCII)
_CREDENTIALS = re.compile(r"\b(bearer|basic)(\s+)(?=\S*[\d+/=._~-])[\w.~+/=-]{8,}", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(
    r"""\b(client_assertion|client_secret|access_token|refresh_token|assertion|password|ocp-apim-subscription-key)"""
    r"""(["']?\s*[=:]\s*["']?)[^\s"'&,;}]+""",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """Return the text with everything that looks like a secret replaced."""
    text = _PRIVATE_KEY.sub("[private key]", text)
    text = _JWT.sub("[token]", text)
    text = _CREDENTIALS.sub(r"\1\2[redacted]", text)
    return _PARAMETER.sub(r"\1\2[redacted]", text)


def escape_controls(text: str) -> str:
    r"""Return the text with control and formatting characters as ``\x1b`` or ``\u202e``; line feeds and tabs stay."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text)


class TextFormatter(logging.Formatter):
    """Lines for people; lines after the first are indented, so that none of them passes for an event.

    Args:
        terminal: local time of day and colour, instead of the UTC date.
    """

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        second = int(record.created)
        if self._terminal:
            clock = time.strftime("%H:%M:%S", time.localtime(second))
        else:
            clock = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        message = escape_controls(redact(super().format(record))).replace("\n", "\n    ")
        level = f"{record.levelname:<7}"
        if self._terminal and record.levelname in _COLOURS:
            level = f"{_COLOURS[record.levelname]}{level}{_RESET}"
        return f"{clock}  {level}  {message}"


class JsonFormatter(logging.Formatter):
    """Lines of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        second = int(record.created)
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return json.dumps(
            {
                "time": f"{clock}.{int((record.created - second) * 1000):03d}Z",
                "level": record.levelname.lower(),
                "logger": record.name,
                "message": redact(super().format(record)),
            }
        )


class _Queueing(QueueHandler):
    """Puts events into the queue, and counts those that find it full."""

    def __init__(self, events: queue.Queue[logging.LogRecord]) -> None:
        super().__init__(events)
        self._events = events
        self.dropped = 0

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self._events.put_nowait(record)
        except queue.Full:
            self.dropped += 1


class _Writing(logging.StreamHandler[TextIO]):
    """Writes events; where that fails there is nobody left to tell."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 -- `logging`'s own names
        return


class _Listener(QueueListener):
    def __init__(self, events: queue.Queue[logging.LogRecord], handler: logging.Handler) -> None:
        super().__init__(events, handler)
        self._events = events

    def enqueue_sentinel(self) -> None:
        """Wait for room, rather than fail as the ordinary one does on a full queue."""
        super_sentinel: Callable[[], None] = super().enqueue_sentinel
        while True:
            try:
                super_sentinel()
            except queue.Full:
                time.sleep(0.01)
            else:
                return


class EventLog:
    """`logging` of the whole process, to standard error; from construction to `close`.

    Args:
        level: the lowest level that is written.
        name: ``auto`` (text on a terminal, JSON otherwise), ``text`` or ``json``.
        stream: in place of standard error.
        queued: events that may wait.
    """

    def __init__(
        self, *, level: int = logging.INFO, name: str = "auto", stream: TextIO | None = None, queued: int = _QUEUED
    ) -> None:
        stream = sys.stderr if stream is None else stream
        events: queue.Queue[logging.LogRecord] = queue.Queue(queued)
        handler = _Writing(stream)
        terminal = stream.isatty()
        as_text = name == "text" or (name == "auto" and terminal)
        handler.setFormatter(TextFormatter(terminal=terminal) if as_text else JsonFormatter())
        self._queueing = _Queueing(events)
        self._listener = _Listener(events, handler)
        self._listener.start()
        root = logging.getLogger()
        self._level_before = root.level
        root.addHandler(self._queueing)
        root.setLevel(level)
        logging.captureWarnings(capture=True)

    @property
    def dropped(self) -> int:
        """Events that found the queue full."""
        return self._queueing.dropped

    def close(self, *, patience_s: float = 2.0) -> None:
        """Write what is queued and end the thread.

        Args:
            patience_s: after this long, output that blocks is left alone and the process may end.
        """
        logging.captureWarnings(capture=False)
        root = logging.getLogger()
        root.removeHandler(self._queueing)
        root.setLevel(self._level_before)
        # `stop` waits for the thread, however long that takes.
        stopping = threading.Thread(target=self._listener.stop, name="event-log-stop", daemon=True)
        stopping.start()
        stopping.join(patience_s)
