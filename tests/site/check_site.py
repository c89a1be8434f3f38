"""The built site, as `make docs` leaves it in build/site: everything there is can be found in it, and it needs no other server."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Final

import click
import pytest

from proxy.cli import group
from proxy.explanations.codes import CODES
from proxy.explanations.statuses import STATUSES
from proxy.operations import metrics
from website.listing import list_commands, list_keys

SITE: Final = Path(__file__).parents[2] / "build" / "site"
PAGES: Final = sorted(SITE.rglob("*.html"))


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", (SITE / page).read_text(encoding="utf-8")))


def test_every_command_has_a_heading() -> None:
    text = (SITE / "reference/commands.html").read_text(encoding="utf-8")
    assert [name for name, _ in list_commands() if f'id="{name.replace(" ", "-")}"' not in text] == []
    assert {name.split()[0] for name, _ in list_commands()} == set(group.list_commands(click.Context(group)))


def test_every_key_is_in_the_reference() -> None:
    text = text_of("reference/configuration.html")
    assert [key for key in list_keys() if key not in text] == []


def test_every_code_and_status_is_in_the_troubleshooting_page() -> None:
    text = text_of("troubleshooting.html")
    assert [code for code in (*CODES, *STATUSES) if code not in text] == []


def test_every_metric_is_in_the_metrics_page() -> None:
    text = text_of("metrics.html")
    source = Path(metrics.__file__).read_text(encoding="utf-8")
    named = {name for name, _, _ in (*metrics._COUNTERS, *metrics._GAUGES)}
    names = {f"{metrics.PREFIX}{name}" for name in named | set(re.findall(r"\{PREFIX\}(\w+)", source))}
    assert len(names) > 20
    assert sorted(name for name in names if name not in text) == []


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
