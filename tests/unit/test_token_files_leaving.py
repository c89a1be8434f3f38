"""Token files that a configuration no longer names lose their tokens, whenever the proxy stops."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

import pytest

from proxy.config.settings import TokenFileFormat, TokenFileSettings
from proxy.identity.access_token import AccessToken, create_access_token
from proxy.token_service.token_files import TokenFile, TokenFiles

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.identity.source import TokenSource

VALUE = "eyJ0b2tlbg"


class OneToken:
    """A source that has one token."""

    def __init__(self) -> None:
        self._token = create_access_token(
            VALUE, requested_at_mono=time.monotonic(), expires_in_s=3600, refresh_in_s=None, jitter=0
        )

    def peek(self, usable_at_mono: float) -> AccessToken | None:  # noqa: ARG002  # the seam's signature
        return self._token

    def keep_fresh(self) -> None:
        """It is fresh."""


class HangingHaproxy:
    """A runtime socket that answers until it is told to hang."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        self.asked.set()
        await self.answers.wait()
        writer.close()


def token_file(path: Path, kind: TokenFileFormat, haproxy_socket: Path | None = None) -> TokenFile:
    settings = TokenFileSettings(
        path=path, format=kind, credential="c", scope="s", resource=None, haproxy_socket=haproxy_socket
    )
    return TokenFile(settings, cast("TokenSource", OneToken()))


def holding(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if path.is_file() and VALUE in path.read_text()}


@pytest.mark.asyncio
async def test_a_stop_during_a_reload_takes_every_token_away(tmp_path: Path) -> None:
    haproxy = HangingHaproxy()
    server = await asyncio.start_unix_server(haproxy.serve, tmp_path / "haproxy.sock")
    async with server:
        files = TokenFiles()
        await files.use(
            [
                token_file(tmp_path / "a.map", TokenFileFormat.HAPROXY_MAP, tmp_path / "haproxy.sock"),
                token_file(tmp_path / "b.txt", TokenFileFormat.PLAIN),
            ]
        )
        async with asyncio.timeout(30):
            while not all(file.writes for file in files.files):  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0.01)  # a file is there before HAProxy has been told
        assert holding(tmp_path) == {"a.map", "b.txt"}
        haproxy.answers.clear()
        haproxy.asked.clear()
        reload = asyncio.create_task(files.use([]))
        async with asyncio.timeout(30):
            await haproxy.asked.wait()
        reload.cancel()  # as SIGTERM does, with the first file half done and the second not begun
        await asyncio.wait({reload})
        assert holding(tmp_path) == {"b.txt"}
        haproxy.answers.set()
        await files.close()
        assert holding(tmp_path) == set()
