"""The built site, as `make docs` leaves it in build/site: everything there is can be found in it, and it needs no other server."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import pytest

from proxy.cli import group
from proxy.explanations.codes import CODES
from proxy.explanations.statuses import STATUSES
from proxy.operations import metrics
from website.listing import list_commands, list_keys

if TYPE_CHECKING:
    from collections.abc import Iterable

SITE: Final = Path(__file__).parents[2] / "build" / "site"
PAGES: Final = sorted(SITE.rglob("*.html"))


def read(page: str) -> str:
    return (SITE / page).read_text(encoding="utf-8")


def missing(names: Iterable[str], page: str) -> list[str]:
    """Return those of ``names`` that do not stand in a page as a word by themselves, written as code."""
    written = (
        html.unescape(re.sub(r"<[^>]+>", "", one)) for one in re.findall(r"<code[^>]*>(.*?)</code>", page, re.DOTALL)
    )
    words = {word for one in written for word in re.findall(r"[\w.\[\]*{}-]+", one)}
    return sorted(name for name in names if name not in words)


def without_rows(page: str, name: str) -> str:
    """Return a page without the rows and headings that name something."""
    named = rf"<code[^>]*>{re.escape(name)}</code>"
    return re.sub(rf"<(tr|h\d)\b(?:(?!</\1>).)*?{named}.*?</\1>", "", page, flags=re.DOTALL)


def test_what_is_missing_is_found() -> None:
    page = (
        '<h2 id="x"><code>rates</code></h2><td><code>rate_limit</code></td><td>rate, <a><code>a.b[].c</code></a></td>'
    )
    assert missing(["rates", "rate", "rate_limit", "a.b[].c", "b"], page) == ["b", "rate"]
    assert missing(["503", "ok"], without_rows(read("troubleshooting.html"), "ok")) == ["ok"]


def test_every_command_has_a_heading() -> None:
    text = (SITE / "reference/commands.html").read_text(encoding="utf-8")
    assert [name for name, _ in list_commands() if f'id="{name.replace(" ", "-")}"' not in text] == []
    assert {name.split()[0] for name, _ in list_commands()} == set(group.list_commands(click.Context(group)))


def test_every_key_is_in_the_reference() -> None:
    assert missing(list_keys(), read("reference/configuration.html")) == []


def test_every_code_and_status_is_in_the_troubleshooting_page() -> None:
    assert missing((*CODES, *STATUSES), read("troubleshooting.html")) == []


def test_every_metric_is_in_the_metrics_page() -> None:
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    named = {name for name, _, _ in (*metrics._COUNTERS, *metrics._GAUGES)}
    names = {f"{metrics.PREFIX}{name}" for name in named | set(re.findall(r"\{PREFIX\}(\w+)", source))}
    assert len(names) > 20
    page = read("metrics.html")
    # A family's kind may add to its name.
    assert [
        name for name in sorted(names) if len(missing([f"{name}{end}" for end in ("", "_total", "_info")], page)) == 3
    ] == []


def test_the_search_knows_every_page() -> None:
    index = json.loads((SITE / "search/search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].partition("#")[0] for entry in index["docs"]}
    assert {str(page.relative_to(SITE)) for page in PAGES} - found - {"404.html"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_a_page_loads_nothing_from_other_servers(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\ssrc(?:set)?=\"([^\"]+)\"", text)
    loaded += re.findall(r"<link\b[^>]*rel=\"(?:stylesheet|preconnect|preload|icon)\"[^>]*href=\"([^\"]+)\"", text)
    loaded += re.findall(r"<link\b[^>]*href=\"([^\"]+)\"[^>]*rel=\"(?:stylesheet|preconnect|preload|icon)\"", text)
    assert [each for each in loaded if re.match(r"(?:https?:)?//", each)] == []
