"""What stands in a token file, and when it changes; by a clock that is an argument."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, cast

import pytest
import yaml

from proxy.config.settings import TokenFileFormat, TokenFileSettings
from proxy.errors import ConfigurationError
from proxy.identity.access_token import create_access_token
from proxy.token_service.file_formats import format_absence, format_token, is_ours
from proxy.token_service.token_files import TokenFile

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.identity.access_token import AccessToken
    from proxy.identity.source import TokenSource


class Source:
    """A token source that has what a test says, for as long as that may be sent."""

    failure_detail = "The platform said no."

    def __init__(self) -> None:
        self.token: AccessToken | None = None

    def peek(self, now_mono: float) -> AccessToken | None:
        token = self.token
        return token if token is not None and now_mono < token.usable_until_mono else None

    def statistics(self) -> Source:
        return self


def token(value: str, at_mono: float, life_s: float = 100.0) -> AccessToken:
    return create_access_token(value, requested_at_mono=at_mono, expires_in_s=life_s, refresh_in_s=None, jitter=0)


def file_in(directory: Path, source: Source) -> TokenFile:
    settings = TokenFileSettings(
        path=directory / "orders", format=TokenFileFormat.PLAIN, credential="c", haproxy_socket=None
    )
    return TokenFile(settings, cast("TokenSource", source))


@pytest.mark.asyncio
async def test_a_file_follows_its_token(tmp_path: Path) -> None:
    source = Source()
    file = file_in(tmp_path, source)
    file.path.write_text("left-by-a-killed-one")
    await file.look(0.0)
    assert not file.path.exists()
    source.token = token("one", 0.0)
    await file.look(1.0)
    assert file.path.read_text() == "one"
    inode = file.path.stat().st_ino
    await file.look(2.0)
    assert file.path.stat().st_ino == inode, "nothing is written where nothing has changed"
    source.token = token("two", 50.0)
    await file.look(51.0)
    assert file.path.read_text() == "two"
    # A token of 100 s is put on no request in its last five.
    await file.look(144.0)
    assert file.path.read_text() == "two"
    await file.look(144.6)
    assert not file.path.exists(), "before it may no longer be sent, not after"
    assert not file.is_present
    source.token = token("three", 150.0)
    await file.look(150.1)
    assert file.path.read_text() == "three"
    assert file.writes == 3


@pytest.mark.asyncio
async def test_a_new_credential_leaves_what_there_is_until_its_own_token_comes(tmp_path: Path) -> None:
    before, after = Source(), Source()
    old, new = file_in(tmp_path, before), file_in(tmp_path, after)
    before.token = token("old", 0.0)
    await old.look(1.0)
    new.follow(old, 2.0)
    await new.look(2.0)
    assert old.path.read_text() == "old"
    after.token = token("new", 3.0)
    await new.look(3.1)
    assert old.path.read_text() == "new"

    # Without one, the old one goes when it ends.
    third = file_in(tmp_path, Source())
    third.follow(new, 4.0)
    await third.look(4.0)
    assert old.path.read_text() == "new"
    await third.look(97.6)
    assert not old.path.exists()


@pytest.mark.asyncio
async def test_a_file_that_cannot_be_written_is_tried_again_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source()
    source.token = token("one", 0.0)
    directory = tmp_path / "later"
    file = file_in(directory, source)
    for now_mono in (0.0, 0.5, 1.1, 2.2):
        await file.look(now_mono)
    assert file.failures == 3
    assert len(caplog.records) == 1
    assert "cannot be written" in caplog.text
    assert "one" not in caplog.text.replace("one of", "")
    directory.mkdir()
    await file.look(3.3)
    assert file.path.read_text() == "one"


@pytest.mark.parametrize("kind", TokenFileFormat)
def test_what_is_written_is_known_again_and_a_strangers_file_is_not(kind: TokenFileFormat) -> None:
    assert is_ours(kind, format_token(kind, "orders", "a.b-c_d", 1_800_000_000))
    absent = format_absence(kind, "orders")
    assert absent is None or is_ours(kind, absent)
    assert not is_ours(kind, "listeners:\n  - address: 127.0.0.1:8080\n")
    assert not is_ours(kind, "-----BEGIN PRIVATE KEY-----\n")


@pytest.mark.asyncio
async def test_a_strangers_file_of_one_line_is_refused_and_one_of_ours_is_not(tmp_path: Path) -> None:
    """A plain token file says nothing of whose it is; a password without a line end looks just like it."""
    source = Source()
    file = file_in(tmp_path, source)
    file.path.write_text("hunter2")
    file.path.chmod(0o600)
    os.utime(file.path, ns=(1_700_000_000_123_456_789, 1_700_000_000_123_456_789))
    with pytest.raises(ConfigurationError, match="the proxy did not write it"):
        file.check()
    source.token = token("one", 0.0)
    await file.look(1.0)
    file.check()
    file.path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="the proxy did not write it"):
        file.check()


@pytest.mark.asyncio
async def test_a_write_that_fails_leaves_no_token_beside_the_file(tmp_path: Path) -> None:
    source = Source()
    file = file_in(tmp_path, source)
    file.path.mkdir()  # nothing can be moved there
    source.token = token("one", 0.0)
    await file.look(1.0)
    assert file.failures == 1
    assert os.listdir(tmp_path) == ["orders"]  # noqa: PTH208  # names alone


def test_no_token_gets_out_of_its_place() -> None:
    """A token is opaque: one with quotes and line feeds of JSON in it stays one value."""
    odd = 'a"}}}},#:;\\{{now}}{{{'
    content = format_token(TokenFileFormat.TRAEFIK, "orders", odd, 1_800_000_000)
    found = yaml.safe_load(content)
    assert found["http"]["middlewares"]["orders"]["headers"]["customRequestHeaders"] == {
        "Authorization": f"Bearer {odd}"
    }
    # Traefik reads the file as a template, and must not find an action in the token.
    assert re.findall(r"\{\{.*?\}\}", content) == ["{{ if lt now.Unix 1800000000 }}", "{{ end }}"]
