"""`python -m website DIRECTORY`: writes the site's sources. Reads the checkout, writes below the directory."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Final

from website.commands import format_commands
from website.files import DOCUMENTS, ROOT, format_file, linked_files, page_uri, turn_links
from website.keys import format_keys

GENERATED: Final = {"reference/commands.md": format_commands, "reference/configuration.md": format_keys}
# Whether a page links to them or not.
IN_NAVIGATION: Final = frozenset({"CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/results.md"})


def make_pages() -> dict[str, str]:
    """Return every page's Markdown by its path in the site's sources."""
    documents = {
        str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in (ROOT / DOCUMENTS).rglob("*.md")
    }
    documents |= {f"{DOCUMENTS}/{uri}": make() for uri, make in GENERATED.items()}
    pages = {page_uri(path): text for path, text in documents.items()}
    pages |= {page_uri(path): format_file(path) for path in linked_files(documents) | IN_NAVIGATION}
    return {uri: turn_links(uri, text) for uri, text in pages.items()}


def main(directory: Path) -> None:
    """Write the pages, with pictures and styles."""
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(ROOT / DOCUMENTS, directory, ignore=shutil.ignore_patterns("*.md"))
    shutil.copytree(Path(__file__).parent / "assets", directory / "assets")
    for uri, text in make_pages().items():
        place = directory / uri
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
