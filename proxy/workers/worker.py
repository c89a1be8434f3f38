"""A relay process: gets its configuration, tokens and leaves over a socket pair, and serves. Forked from `template`. Does I/O."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from typing import TYPE_CHECKING, Final

from proxy.config.routed_hosts import routed_hosts
from proxy.config.validation import restore
from proxy.errors import ConfigurationError
from proxy.event_loop import run
from proxy.operations.event_log import EventLog
from proxy.operations.snapshot import format_snapshot
from proxy.relay_server import RelayServer
from proxy.workers.channel import Channel
from proxy.workers.contexts import RemoteContexts
from proxy.workers.messages import (
    TO_RELAY,
    AnnounceEnd,
    Answered,
    Begin,
    CAChanged,
    Drain,
    Failed,
    Figures,
    Leaf,
    Reload,
    Started,
    Token,
    ToRelay,
)
from proxy.workers.tokens import RemoteSources

if TYPE_CHECKING:
    import socket

_FIGURES_S: Final = 0.5
# As many as the page shows; the access log has them all.
_RECORDS: Final = 100


class Worker:
    """One relay process, from its first message to its end.

    Args:
        events: the process's event log.
    """

    def __init__(self, events: EventLog) -> None:
        self._events = events
        self._channel: Channel[ToRelay] = Channel(TO_RELAY, self._on_message, self._on_closed)
        self._sources = RemoteSources(self._channel.send)
        self._contexts: RemoteContexts | None = None
        self._begin: asyncio.Future[Begin] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._front: RelayServer | None = None
        self._wake = asyncio.Event()
        self._reload: Reload | None = None
        self._seen = 0

    async def serve(self, end: socket.socket) -> None:
        """Serve until control says to drain, or is gone.

        Raises:
            ConfigurationError: the listeners cannot be opened.
        """
        await self._channel.open(end)
        begin = await self._begin
        settings = restore(begin.settings)
        contexts = self._contexts = RemoteContexts(self._channel.send, routed_hosts(settings))
        front = self._front = RelayServer(settings, self._sources, contexts.context_for, contexts.fetch)
        await front.start(begin.ports)
        gc.freeze()  # as `run` does
        self._channel.send(Started())
        while not self._stop.is_set():
            await self._go_over(front, contexts)
            self._report(front)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _FIGURES_S)
            self._wake.clear()
        await front.stop()
        self._report(front)
        self._channel.close()
        await asyncio.sleep(0)  # it closes in the loop's next turn

    def stop(self) -> None:
        """Begins to drain."""
        self._stop.set()
        self._wake.set()

    async def _go_over(self, front: RelayServer, contexts: RemoteContexts) -> None:
        """Use another configuration, if one has come. Control has judged it; should it fail here, another process begins with it.

        Raises:
            ConfigurationError: it cannot be used in this process.
        """
        message, self._reload = self._reload, None
        if message is not None:
            settings = restore(message.settings)
            plan = front.plan(settings, self._sources)
            await front.open(plan)
            contexts.use(routed_hosts(settings))
            front.use(plan)

    def _report(self, front: RelayServer) -> None:
        self._seen, records = front.access_log.tail(self._seen)
        snapshot = format_snapshot(front.snapshot(events_dropped=self._events.dropped)).decode()
        self._channel.send(Figures(snapshot=snapshot, records=tuple(records[-_RECORDS:])))

    def _on_message(self, message: ToRelay) -> None:
        match message:
            case Begin():
                self._sources.number(message.sources)  # tokens may follow at once
                self._begin.set_result(message)
            case Reload():
                self._sources.number(message.sources)
                self._reload = message
                self._wake.set()
            case Token():
                self._sources.take_token(message)
            case Answered():
                self._sources.answer(message.request)
            case Failed():
                self._sources.fail(message)
            case Leaf():
                if self._contexts is not None:
                    self._contexts.take(message)
            case CAChanged():
                if self._contexts is not None:
                    self._contexts.forget()
            case AnnounceEnd():
                self._announce_end()
            case Drain():
                self.stop()

    def _announce_end(self) -> None:
        if self._front is not None:
            self._front.announce_end()

    def _on_closed(self) -> None:
        """Without control there will be no more tokens: what is in flight may finish."""
        self._sources.abandon()
        self.stop()
        if not self._begin.done():
            self._begin.cancel()


def run_worker(end: socket.socket) -> None:
    """Serve as a relay process until control says to drain, or is gone.

    Args:
        end: of the socket pair to control.
    """
    run(_serve(end))


async def _serve(end: socket.socket) -> None:
    events = EventLog()
    worker = Worker(events)
    end.setblocking(False)
    try:
        await worker.serve(end)
    except ConfigurationError as error:
        sys.stderr.write(f"apim-auth-proxy: {error}\n")
        sys.exit(2)
    finally:
        events.close()
