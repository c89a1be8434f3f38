"""The process that relay processes are forked from, so that what they import is in memory once. Does I/O.

    control ──── one byte and one end of a socket pair ────►  template ── fork ──►  relay process
            ◄─── `Forked`, `NotForked`, `Ended`  ───────────

It is started anew and given nothing, so no key can be in it or in what is forked from it. It runs no thread and no event loop, and
ends when control does; its children then find their own socket pair closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import select
import signal
import socket
import sys
from collections import deque
from typing import Final

from proxy.hardening import harden_process, own_program
from proxy.workers.channel import Channel
from proxy.workers.messages import TO_FORKING, Ended, Forked, NotForked, ToForking, format_frame

_CHANNEL_VARIABLE: Final = "APIM_AUTH_PROXY_CHANNEL"
_FORK: Final = b"f"
# Of a process whose end nobody could be asked for.
UNSEEN: Final = 256
"""In place of the exit status of a process whose parent had ended before: nobody could wait for it."""
# How long the template may take to end; it has nothing to finish, so one that takes longer is stopped, or in a debugger.
_END_S: Final = 2.0


class ForkedProcess:
    """A relay process, from its fork to its end.

    Attributes:
        pid: its process id.
        returncode: its exit status, or the negative number of the signal that ended it; None while it runs.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._is_orphan = self._is_silent = False

    async def wait(self) -> int:
        """Return the status once it has ended."""
        await self._ended.wait()
        return UNSEEN if self.returncode is None else self.returncode

    def kill(self) -> None:
        """End it at once."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def take_end(self, status: int) -> None:
        """Note that it has ended."""
        if self.returncode is None:
            self.returncode = status
            self._ended.set()

    def orphan(self) -> None:
        """Note that nobody will tell of its end: from now on, its closed channel does."""
        self._is_orphan = True
        self._judge()

    def fall_silent(self) -> None:
        """Note that its channel is closed."""
        self._is_silent = True
        self._judge()

    def _judge(self) -> None:
        if self._is_orphan and self._is_silent:
            self.take_end(UNSEEN)


class Template:
    """The template as control sees it: started when a relay process is first asked for, and anew where it has ended."""

    def __init__(self) -> None:
        self._channel: Channel[ToForking] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._end: socket.socket | None = None
        self._asked: deque[asyncio.Future[ForkedProcess]] = deque()
        self._forked: dict[int, ForkedProcess] = {}
        self._starting = asyncio.Lock()

    async def fork(self, end: socket.socket) -> ForkedProcess:
        """Return a new relay process.

        Args:
            end: of a socket pair, for the new process; closing it here is the caller's.

        Raises:
            OSError: the system lets us have no process.
        """
        async with self._starting:
            if self._end is None:
                await self._start()
            assert self._end is not None  # noqa: S101  # started just now
            forked: asyncio.Future[ForkedProcess] = asyncio.get_running_loop().create_future()
            socket.send_fds(self._end, [_FORK], [end.fileno()])
            self._asked.append(forked)
        return await forked

    async def close(self) -> None:
        """End the template; its children end by themselves."""
        self._forget()
        if self._process is None:
            return
        try:
            async with asyncio.timeout(_END_S):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *own_program("proxy.workers.template"),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    env={**os.environ, _CHANNEL_VARIABLE: str(theirs.fileno())},
                    start_new_session=True,  # a terminal's Ctrl-C is for control, which passes it on as a drain
                )
            ours.setblocking(False)
            self._end = ours.dup()  # what sends descriptors; the channel reads
            self._channel = Channel(TO_FORKING, self._on_message, self._forget)
            await self._channel.open(ours)
        except BaseException:
            ours.close()
            self._forget()
            raise

    def _on_message(self, message: ToForking) -> None:
        match message:
            case Forked():
                process = self._forked[message.pid] = ForkedProcess(message.pid)
                self._answer(process)
            case NotForked():
                self._answer(OSError(message.number, os.strerror(message.number)))
            case Ended() if message.pid in self._forked:
                self._forked.pop(message.pid).take_end(message.status)

    def _answer(self, answer: ForkedProcess | OSError) -> None:
        asked = self._asked.popleft()
        if asked.cancelled():
            return  # a process that nobody waits for ends by its channel, which is closed
        if isinstance(answer, OSError):
            asked.set_exception(answer)
        else:
            asked.set_result(answer)

    def _forget(self) -> None:
        """Give the process up; those that were forked from it go on."""
        end, self._end = self._end, None
        channel, self._channel = self._channel, None
        if end is not None:
            end.close()
        if channel is not None:
            channel.close()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():  # whoever asked may have given up, as a drain does
                asked.set_exception(ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD)))
        while self._forked:
            self._forked.popitem()[1].orphan()


def await_fork(control: socket.socket) -> socket.socket:
    """Fork at each call from control; return in each child, with its end of its socket pair. Exits when control has gone."""
    # Signals are for control. A service manager, or whoever signals the whole group, sends them to us and to the children as well:
    # control then ends the children by their channels, when and as the configuration says, and us after them.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, waking = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
    while True:
        readable, _, _ = select.select([control, woken], [], [])
        if woken in readable:
            woken.recv(4096)
            _report_ended(control)
        if control not in readable:
            continue
        data, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            signal.set_wakeup_fd(-1)
            woken.close()
            waking.close()
            sys.exit()
        if not descriptors:  # there was no room for it here
            control.sendall(format_frame(NotForked(number=errno.EMFILE)))
            continue
        end = socket.socket(fileno=descriptors[0])
        try:
            pid = os.fork()
        except OSError as error:
            control.sendall(format_frame(NotForked(number=error.errno or 0)))
        else:
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for inherited in (control, woken, waking):
                    inherited.close()
                return end
            control.sendall(format_frame(Forked(pid=pid)))
        end.close()


def _report_ended(control: socket.socket) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            control.sendall(format_frame(Ended(pid=pid, status=os.waitstatus_to_exitcode(status))))


def main() -> None:
    """Import what relay processes need, and become one of them in each fork."""
    gc.disable()
    harden_process()
    from proxy.workers.worker import run_worker  # noqa: PLC0415  # nothing is made before the collector is off

    gc.freeze()  # or the first collection in each relay process would write to, and so copy, every page
    with socket.socket(fileno=int(os.environ.pop(_CHANNEL_VARIABLE))) as control:
        try:
            end = await_fork(control)
        except OSError:
            sys.exit()  # control has gone while it was being told
    gc.enable()
    run_worker(end)


if __name__ == "__main__":
    main()
