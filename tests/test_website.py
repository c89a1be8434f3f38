"""The pages that are made of the code: everything there is stands in them, and links that lead out of docs/ lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.recording import PICTURE, parse_line
from website.__main__ import make_pages
from website.commands import format_commands
from website.files import turn_links
from website.keys import format_keys
from website.listing import list_commands, list_keys
from website.since import UNRELEASED, list_names, releases, since

ROOT: Final = Path(__file__).parent.parent
COMMANDS: Final = format_commands()
KEYS: Final = format_keys()


@pytest.mark.parametrize("name", [name for name, _ in list_commands()])
def test_each_command_has_a_section_with_all_of_its_options(name: str) -> None:
    section = COMMANDS.split(f"\n## `{name}`\n")[1].split("\n## ")[0]
    command = dict(list_commands())[name]
    everywhere = section + COMMANDS.split("## Options instead of a file")[1]
    assert [
        option
        for parameter in command.params
        for option in parameter.opts
        if option not in everywhere and option[0] == "-"
    ] == []


@pytest.mark.parametrize("key", list_keys())
def test_each_key_has_a_row_with_a_meaning(key: str) -> None:
    if re.search(r"[.\[]", key):
        row = re.search(rf"^\| `{re.escape(key)}` \| (.+) \|$", KEYS, re.MULTILINE)
        assert row is not None
        assert row[1].split(" | ")[-1].strip(), f"config.example.yaml says nothing about {key}"
    else:
        assert f"\n## `{key}`\n" in KEYS


def test_a_link_out_of_the_documents_leads_to_a_page_that_is_made() -> None:
    pages = make_pages()
    assert "files/deploy/systemd.md" in pages
    assert "ExecStart=" in pages["files/deploy/systemd.md"]
    assert "(../../files/deploy/systemd.md)" in pages["how-to/places/systemd.md"]


@pytest.mark.parametrize(
    ("uri", "text", "turned"),
    [
        ("a.md", "[x](b.md#c)", "[x](b.md#c)"),
        ("a.md", "[x](../deploy/systemd)", "[x](files/deploy/systemd.md)"),
        ("how-to/a.md", "[x](../../CHANGELOG.md#y)", "[x](../files/CHANGELOG.md#y)"),
        ("files/CHANGELOG.md", "[x](docs/sandbox.md)", "[x](../sandbox.md)"),
        ("a.md", "[`x`](../tests/wire)", "`x`"),
        ("a.md", "[x](https://example.com)", "[x](https://example.com)"),
        ("a.md", "```yaml values\n[x](../deploy/systemd)\n```", "```yaml\n[x](../deploy/systemd)\n```"),
    ],
)
def test_links_are_turned(uri: str, text: str, turned: str) -> None:
    assert turn_links(uri, text) == turned


def test_the_recording_shows_the_demo_as_it_is() -> None:
    """Run `make recording` after a change of the demo's text."""
    scenes = (ROOT / "proxy/cli/demo/scenes.py").read_text(encoding="utf-8")
    titles = re.findall(r"\.scene\(\s*\"([^\"{]+)", scenes)
    picture = PICTURE.read_text(encoding="utf-8")
    assert len(titles) > 5
    assert [title for title in titles if title not in picture] == []
    assert len(picture) < 40_000


def test_the_look_of_a_line_is_read_from_its_sequences() -> None:
    assert parse_line("\x1b[1m\x1b[32mok\x1b[0m and") == [(0, "ok", "b g"), (2, " and", "")]


def test_what_a_release_had_is_known() -> None:
    assert since("listeners[].address") == since("ca rotate --cut-over") == "0.1.0"
    assert since("listeners[].authorize") != "0.1.0"
    assert since("no.such.key") == UNRELEASED


def test_what_a_release_had_is_still_there() -> None:
    """Until 1.0 something may go: then its name goes from website/since, and the changelog says so."""
    assert sorted(set(releases()) - set(list_names())) == []
