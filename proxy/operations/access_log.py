"""The access log: one line an exchange, written by a thread of its own. Does I/O, never on the event loop.

The relay leaves a record; that is all the event loop pays. The writer thread takes what has come five times a second, formats it,
and writes it in one go. It works in short bursts, because whoever formats holds the interpreter lock that the event loop needs.

Invariants: `observe` neither blocks nor raises; the queue is bounded, and what it cannot take is counted and the log says so;
nothing that goes wrong with the output reaches the relay.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxy.operations.log_lines import JsonFormat, LineFormat, TextFormat
from proxy.operations.log_output import LogOutput
from proxy.operations.own_errors import ErrorTally
from proxy.operations.usage import UsageTally

if TYPE_CHECKING:
    from proxy.config.settings import AccessLogSettings, TracingSettings
    from proxy.operations.own_errors import ErrorCount
    from proxy.operations.tracing import Tracing
    from proxy.operations.usage import Usage
    from proxy.relay.record import ExchangeRecord

logger = logging.getLogger("proxy.operations")

_FLUSH_S: Final = 0.2
# With the longest target kept this is under 100 MB, and over two seconds of exchanges at any rate one process reaches.
_QUEUED: Final = 50_000
_TARGET_BYTES: Final = 1_024
# Lines formatted with the interpreter lock held, about a tenth of a millisecond, and the pause in which the loop can take it.
_BURST: Final = 64
_PAUSE_S: Final = 0.00005
_RECENT: Final = 200


@dataclass(frozen=True, slots=True)
class AccessLogStatistics:
    """A snapshot for metrics.

    Attributes:
        observed: exchanges taken from the queue so far.
        dropped: exchanges that found the queue full.
        lost: lines that could not be written.
    """

    observed: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class TraceStatistics:
    """A snapshot for metrics; see `proxy.operations.tracing.Tracing`."""

    exported: int = 0
    lost: int = 0
    dropped: int = 0


class AccessLog:
    """The access log of one process; its thread runs from construction to `close`.

    Args:
        settings: where to, and in which format. Where they disable the log, only the newest records are kept.
        descriptor: what stands for standard error.
        queued: records that may wait.
        tracing: where the same exchanges are sent as spans, if anywhere.

    Raises:
        ConfigurationError: the file cannot be opened.
    """

    def __init__(
        self,
        settings: AccessLogSettings,
        *,
        descriptor: int = 2,
        queued: int = _QUEUED,
        tracing: TracingSettings | None = None,
    ) -> None:
        self._output = LogOutput(settings.file, descriptor) if settings.enabled else None
        self._format = create_format(settings.format, is_terminal=self._output is not None and self._output.is_terminal)
        self._queue: deque[ExchangeRecord] = deque()
        self._queued = queued
        self._dropped = 0
        self._dropped_told = 0
        self._observed = 0
        self._recent: deque[ExchangeRecord] = deque(maxlen=_RECENT)
        self._errors = ErrorTally()
        self._usage = UsageTally()
        self._memory_lock = threading.Lock()
        self._reopen = False
        endpoint = None if tracing is None else tracing.endpoint
        self._tracing = None if endpoint is None else _start_tracing(endpoint)
        self._stopping = threading.Event()
        # A daemon: output that blocks for ever must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="access-log", daemon=True)
        self._thread.start()

    def observe(self, record: ExchangeRecord) -> None:
        """Take note of a finished exchange. For the event loop: appends, and that is all."""
        if len(self._queue) >= self._queued:
            self._dropped += 1
            return
        if len(record.target) > _TARGET_BYTES:
            record = record._replace(target=record.target[:_TARGET_BYTES] + b"...")
        self._queue.append(record)

    def recent(self) -> list[ExchangeRecord]:
        """Return the newest exchanges, the oldest of them first; up to a fifth of a second late."""
        return self.tail(0)[1]

    def tail(self, after: int) -> tuple[int, list[ExchangeRecord]]:
        """Return what has come since, as far as it is remembered, and where to go on.

        Args:
            after: what the last call returned first; 0 for everything remembered.
        """
        with self._memory_lock:
            new = min(self._observed - after, len(self._recent))
            return self._observed, list(self._recent)[-new:] if new > 0 else []

    def errors(self) -> list[ErrorCount]:
        """Return the kinds of errors that this proxy answered with, the one that came last at the end."""
        with self._memory_lock:
            return self._errors.counts()

    def usage(self) -> Usage:
        """Return how long each route's exchanges take, why they fail, and who uses which identity."""
        with self._memory_lock:
            return self._usage.snapshot()

    def statistics(self) -> AccessLogStatistics:
        """Return a snapshot."""
        return AccessLogStatistics(self._observed, self._dropped, self._output.lost if self._output is not None else 0)

    def trace_statistics(self) -> TraceStatistics:
        """Return a snapshot of the tracing; all zeros without any."""
        tracing = self._tracing
        if tracing is None:
            return TraceStatistics()
        return TraceStatistics(tracing.exported, tracing.lost, tracing.dropped)

    def reopen(self) -> None:
        """Has the file opened anew before the next line, for programs that rotate logs by a signal."""
        self._reopen = True

    def close(self, *, patience_s: float = 5.0) -> None:
        """Write what is queued and end the thread, and the tracing's behind it.

        Args:
            patience_s: after this long, output that blocks is left alone and the process may end.
        """
        self._stopping.set()
        self._thread.join(patience_s)
        if self._tracing is not None:
            self._tracing.close()

    def _run(self) -> None:
        while not self._stopping.wait(_FLUSH_S):
            self._flush_safely()
        self._flush_safely()
        if self._output is not None:
            self._output.close()

    def _flush_safely(self) -> None:
        try:
            self._flush()
        except Exception as error:  # noqa: BLE001 -- the top of a thread: a fault here must not end the log for good
            logger.error("The access log failed: %s", type(error).__name__)  # noqa: TRY400

    def _flush(self) -> None:
        output = self._output
        if output is not None:
            reopen, self._reopen = self._reopen, False
            output.follow(reopen=reopen)
        # As many as there are now: at a steady rate the queue would never be seen empty.
        waiting = len(self._queue)
        lines: list[str] = []
        while waiting > 0:
            burst = [self._queue.popleft() for _ in range(min(waiting, _BURST))]
            waiting -= len(burst)
            self._remember(burst)
            if self._tracing is not None:
                self._tracing.observe(burst)
            if output is not None:
                lines.append(self._format.format(burst))
            if waiting and not self._stopping.is_set():
                time.sleep(_PAUSE_S)
        dropped = self._dropped - self._dropped_told
        if dropped:
            self._dropped_told += dropped
            lines.append(self._format.format_loss(time.time(), dropped))
        if lines and output is not None:
            content = "".join(lines).encode("ascii")
            output.write(content, content.count(b"\n"))

    def _remember(self, records: list[ExchangeRecord]) -> None:
        with self._memory_lock:
            self._observed += len(records)
            self._recent.extend(records)
            self._errors.add(records)
            self._usage.add(records)


def _start_tracing(endpoint: str) -> Tracing:
    from proxy.operations.tracing import Tracing  # noqa: PLC0415  # an extra, and a quarter of a second

    return Tracing(endpoint)


def create_format(name: str, *, is_terminal: bool) -> LineFormat:
    """Return the format that ``text``, ``json`` or ``auto`` stands for: ``auto`` is text on a terminal only."""
    if name == "text" or (name == "auto" and is_terminal):
        return TextFormat(terminal=is_terminal, colour=is_terminal)
    return JsonFormat()
