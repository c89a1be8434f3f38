"""Tokens kept up to date in files, for gateways that read them there. Reads and writes files; runs on the event loop.

Invariants: a file is replaced as a whole, and nobody but its owner can read it at any moment; a token that can no longer be sent is
in no file; none is left when the proxy has stopped; nothing that somebody else wrote is replaced.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import os
import stat
import time
from typing import TYPE_CHECKING, Final

from proxy.config.settings import TokenFileFormat
from proxy.errors import ConfigurationError
from proxy.identity.credential import Target
from proxy.tasks import keep_going
from proxy.token_service.file_formats import format_absence, format_entry, format_token, is_ours
from proxy.token_service.haproxy import MapNotChanged, set_entry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from proxy.config.settings import Settings, TokenFileSettings
    from proxy.identity.access_token import AccessToken
    from proxy.identity.source import TokenSource
    from proxy.identity.sources import TokenSources

logger = logging.getLogger("proxy.token_files")

# Between two looks at the tokens. A token is taken away this much before it can no longer be sent, so that it never is.
_LOOK_S: Final = 0.25
_MARGIN_S: Final = 2 * _LOOK_S
# Between two lines on one file that cannot be written, and two attempts.
_COMPLAIN_S: Final = 60.0
_RETRY_S: Final = 1.0
_LARGEST_BYTES: Final = 1 << 20


class TokenFile:
    """One file.

    Args:
        settings: what is configured.
        source: of its token.

    Attributes:
        writes: how often a token was put there.
        failures: how often that could not be done.
        is_present: whether there is a token now.
    """

    def __init__(self, settings: TokenFileSettings, source: TokenSource) -> None:
        self.settings = settings
        self.source = source
        self.writes = 0
        self.failures = 0
        self.is_present = False
        self._shown: AccessToken | None = None
        # Of an earlier configuration, to be left until this one's token comes: until when, by both clocks.
        self._left_until: tuple[float, float] | None = None
        self._is_settled = False
        self._retry_at_mono = -math.inf
        self._complain_at_mono = -math.inf

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.settings.path

    def check(self) -> None:
        """Look whether what is there may be replaced.

        Raises:
            ConfigurationError: it is somebody else's, or cannot be read.
        """
        try:
            is_large = self.path.stat().st_size > _LARGEST_BYTES
            content = None if is_large else self.path.read_text(encoding="ascii")
        except FileNotFoundError:
            return
        except (OSError, ValueError):
            content = None
        if content is None or not is_ours(self.settings.format, content) or not self._has_our_marks():
            raise ConfigurationError(
                f"{self.path} (token_files) already exists, and the proxy did not write it. Move it away, or name another file."
            )

    def _has_our_marks(self) -> bool:
        """Return whether a file that does not say whose it is has the owner, mode and whole seconds that `_put` gives one."""
        if self.settings.format is not TokenFileFormat.PLAIN:
            return True
        found = self.path.lstat()
        is_private = (
            stat.S_ISREG(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o600 and found.st_uid == os.geteuid()
        )
        return is_private and found.st_mtime_ns % 10**9 == 0

    def follow(self, earlier: TokenFile, now_mono: float) -> None:
        """Leave what an earlier configuration has put there until there is a token of this one, or that one ends."""
        if earlier._shown is not None:
            usable_s = earlier._shown.usable_until_mono - _MARGIN_S - now_mono
            self._left_until = now_mono + usable_s, time.time() + usable_s

    async def look(self, now_mono: float) -> None:
        """Bring the file up to date where it is not."""
        if now_mono < self._retry_at_mono:
            return
        token = self.source.peek(now_mono + _MARGIN_S)
        if token is self._shown and self._is_settled:
            return
        left = self._left_until
        if token is None and left is not None and now_mono < left[0] and time.time() < left[1]:
            return
        self._left_until = None
        try:
            self._put(token, now_mono)  # short, and where tokens belong there is no disk behind it
            await self._tell_haproxy(token, now_mono)
        except (OSError, MapNotChanged) as error:
            self.failures += 1
            self._is_settled = False
            self._retry_at_mono = now_mono + _RETRY_S
            self._complain(now_mono, error)
            return
        if self._shown is not None and token is None:
            reason = self.source.statistics().failure_detail or "It could not be renewed in time."
            logger.error("%s: the token ends and is taken away, since there is no other: %s", self.path, reason)
        self._shown, self._is_settled, self.is_present = token, True, token is not None
        self.writes += token is not None

    async def take_away(self) -> None:
        """Remove the token, as when the proxy stops or the configuration names this file no more."""
        self._shown, self.is_present = None, False
        try:
            self._put(None, 0.0)
            await self._tell_haproxy(None, 0.0)
        except MapNotChanged as error:
            logger.warning("%s: %s; what it has of the map says itself when it ends", self.path, error)
        except OSError as error:
            logger.error("%s cannot be removed: %s. Remove it: it holds an access token.", self.path, error.strerror)  # noqa: TRY400

    def _put(self, token: AccessToken | None, now_mono: float) -> None:
        """Write the file, or what says that there is no token.

        Raises:
            OSError: it cannot be written.
        """
        kind, name = self.settings.format, self.path.stem
        ends_at = 0 if token is None else self._ends_at(token, now_mono)
        content = format_absence(kind, name) if token is None else format_token(kind, name, token.value, ends_at)
        if content is None:
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
            return
        new = self.path.with_name(f".{self.path.name}.new")
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="ascii") as stream:
                stream.write(content)
            if kind is TokenFileFormat.PLAIN:
                os.utime(new, (ends_at, ends_at))
            new.replace(self.path)
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise

    async def _tell_haproxy(self, token: AccessToken | None, now_mono: float) -> None:
        socket = self.settings.haproxy_socket
        if socket is not None:
            value = None if token is None else format_entry(token.value, self._ends_at(token, now_mono))
            await set_entry(socket, self.path, self.path.stem, value)

    def _ends_at(self, token: AccessToken, now_mono: float) -> int:
        return math.floor(time.time() + token.usable_until_mono - now_mono)

    def _complain(self, now_mono: float, error: OSError | MapNotChanged) -> None:
        if now_mono < self._complain_at_mono:
            return
        self._complain_at_mono = now_mono + _COMPLAIN_S
        reason = str(error) if isinstance(error, MapNotChanged) else f"the file cannot be written: {error.strerror}"
        logger.error("%s: %s. It is tried again every second.", self.path, reason)


class TokenFiles:
    """All token files of a proxy.

    Args:
        clock: monotonic seconds, the one of the token sources.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.files: list[TokenFile] = []
        self._leaving: list[TokenFile] = []
        self._tasks: dict[TokenFile, asyncio.Task[None]] = {}

    def plan(self, settings: Settings, tokens: TokenSources) -> list[TokenFile]:
        """Return the files of a configuration; what has not changed stays the same.

        Raises:
            ConfigurationError: one of them is somebody else's.
        """
        planned = []
        known = {(file.settings, id(file.source)): file for file in self.files}
        paths = {file.path for file in self.files}
        for each in settings.token_files:
            source = tokens.source_for(each.credential, Target(scope=each.scope, resource=each.resource))
            file = known.get((each, id(source))) or TokenFile(each, source)
            if each.path not in paths:
                file.check()
            planned.append(file)
        return planned

    async def use(self, planned: list[TokenFile]) -> None:
        """Go over to other files; those that are no longer there lose their tokens."""
        before, self.files = self.files, planned
        self._leaving += before
        successors = {_place(file): file for file in planned}
        for file in before:
            successor = successors.get(_place(file))
            if successor is file:
                continue
            await self._end(file)
            if successor is None:
                await file.take_away()
            else:
                successor.follow(file, self._clock())
        self._leaving.clear()
        for file in planned:
            if file not in self._tasks:
                file.source.keep_fresh()
                work = keep_going(functools.partial(self._keep_up_to_date, file), f"keeping {file.path} up to date")
                self._tasks[file] = asyncio.create_task(work, name=f"token file {file.path}")

    async def close(self) -> None:
        """Take all tokens away."""
        files, self.files = dict.fromkeys([*self._leaving, *self.files]), []
        for file in files:
            await self._end(file)
            await file.take_away()

    async def _keep_up_to_date(self, file: TokenFile) -> None:
        """Look at one file again and again; each has a task of its own, so that a HAProxy that hangs delays no other."""
        while True:
            await file.look(self._clock())
            await asyncio.sleep(_LOOK_S)

    async def _end(self, file: TokenFile) -> None:
        task = self._tasks.pop(file, None)
        if task is not None:
            task.cancel()
            await asyncio.wait({task})


def _place(file: TokenFile) -> tuple[Path, TokenFileFormat, Path | None]:
    return file.path, file.settings.format, file.settings.haproxy_socket
