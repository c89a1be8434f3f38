"""docs/sandbox.md has every path, switch and fault of the sandbox, and no other (F15)."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Final, cast

import pytest

from proxy.sandbox.control import Control, Controlled
from proxy.sandbox.echo_api import _HANDLERS
from proxy.sandbox.faults import Faults, TokenFault
from proxy.sandbox.grpc_service import PATHS

PAGE: Final = (Path(__file__).parents[2] / "docs" / "sandbox.md").read_text(encoding="utf-8")


def first_cells(heading: str) -> set[str]:
    """What stands in the first column of the table under a heading row, in backticks."""
    table = PAGE[PAGE.index(f"| {heading} |") :].partition("\n\n")[0]
    return set(re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)) - {heading.strip("`")}


def control_routes() -> set[str]:
    application = Control(cast("Controlled", None)).application()
    routes = [route for route in application.router.routes() if route.method != "HEAD"]
    return {f"{route.method} /sandbox{route.resource.canonical}" for route in routes if route.resource is not None}


@pytest.mark.parametrize(
    ("heading", "there_are"),
    [
        ("`kind`", {kind.value for kind in TokenFault}),
        ("switch", {field.name for field in fields(Faults)}),
        ("request", control_routes()),
        ("method", set(PATHS)),
    ],
)
def test_the_page_names_all_there_are(heading: str, there_are: set[str]) -> None:
    assert first_cells(heading) == there_are


def test_the_page_names_every_path_of_the_api() -> None:
    assert {path.split("/")[1] for path in first_cells("path")} == set(_HANDLERS)
