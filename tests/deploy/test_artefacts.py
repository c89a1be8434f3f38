"""What of deploy/ follows from other files is up to date. Needs no program: who changes the configuration hears of it at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.deploy.artefacts import make_files

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(("path", "text"), make_files().items(), ids=lambda each: getattr(each, "name", "text"))
def test_what_follows_from_other_files_is_up_to_date(path: Path, text: str) -> None:
    assert path.read_text(encoding="utf-8") == text, "run: make deploy-files"
