"""The project's files that pages link to, as pages of the site: documents as they are, others as code. Reads the checkout."""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
DOCUMENTS: Final = "docs"
PREFIX: Final = "files"
# What is published beside docs/: whole directories, and single files.
_PUBLISHED: Final = (
    "deploy",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "benchmarks/README.md",
    "benchmarks/fleet.md",
    "benchmarks/fleet.svg",
    "benchmarks/gateways.md",
    "benchmarks/results.md",
    "config.example.yaml",
)
_LANGUAGES: Final = {".yaml": "yaml", ".yml": "yaml", ".json": "json", ".sh": "sh", ".py": "python", "": "text"}
_LINK: Final = re.compile(r"(?P<label>\[[^\]\n]*(?:\n[^\]\n]+)?\])\((?P<target>[^)\s]+)\)")
_FENCE: Final = re.compile(r"(^(?:```|~~~).*?^(?:```|~~~)$)", re.MULTILINE | re.DOTALL)

# A word behind a block's language is for a test; MkDocs would take the block for text.
_TEST_MARK: Final = re.compile(r"^(```\w+) (?!title=)[\w -]+$", re.MULTILINE)


def is_published(path: str) -> bool:
    """Tell whether a path, relative to the checkout, is one of those that the site shows."""
    return path.startswith(tuple(f"{one}/" for one in _PUBLISHED)) or path in _PUBLISHED


def page_uri(path: str) -> str:
    """Return where a file or directory of the project is in the site's sources."""
    if path.startswith(f"{DOCUMENTS}/"):
        return path.removeprefix(f"{DOCUMENTS}/")
    return f"{PREFIX}/{path}" if path.endswith(".md") else f"{PREFIX}/{path}.md"


def repository_path(uri: str) -> str:
    """Return the file that a page of the site is made of, relative to the checkout."""
    if not uri.startswith(f"{PREFIX}/"):
        return f"{DOCUMENTS}/{uri}"
    path = uri.removeprefix(f"{PREFIX}/")
    return path if (ROOT / path).is_file() else path.removesuffix(".md")


def linked_files(texts: dict[str, str]) -> set[str]:
    """Return the published files that pages link to; ``texts`` are Markdown by path, relative to the checkout."""
    found: set[str] = set()
    waiting = dict(texts)
    while waiting:
        path, text = waiting.popitem()
        for match in _LINK.finditer(_FENCE.sub("", text)):
            target = _resolve(path, match["target"])
            if target is None or target in found or not is_published(target) or not (ROOT / target).exists():
                continue
            found.add(target)
            if target.endswith(".md"):
                waiting[target] = (ROOT / target).read_text(encoding="utf-8")
    return found


def format_file(path: str) -> str:
    """Return the page for a file or a directory of the project."""
    place = ROOT / path
    if place.is_dir():
        inside = sorted(one for one in place.rglob("*") if one.is_file() and "__pycache__" not in one.parts)
        parts = [f"## {one.relative_to(place)}\n\n{_code(one)}" for one in inside]
        return f"# {path}\n\n" + "\n".join(parts)
    if path.endswith(".md"):
        return place.read_text(encoding="utf-8")
    return f"# {path}\n\n{_code(place)}"


def turn_links(uri: str, text: str) -> str:
    """Return a page's text with links that lead out of ``docs/`` led to the pages that stand for those files.

    What the site does not show, such as a test, stays as the name it had.
    """
    here = repository_path(uri)

    def turn(match: re.Match[str]) -> str:
        target = _resolve(here, match["target"])
        if target is None or (here.startswith(f"{DOCUMENTS}/") and target.startswith(f"{DOCUMENTS}/")):
            return match[0]
        _, _, fragment = match["target"].partition("#")
        if target == "README.md":
            target, fragment = f"{DOCUMENTS}/index.md", ""
        if not (is_published(target) or target.startswith(f"{DOCUMENTS}/")):
            return match["label"][1:-1]
        link = posixpath.relpath(page_uri(target), posixpath.dirname(uri) or ".")
        return f"{match['label']}({link}{'#' + fragment if fragment else ''})"

    pieces = _FENCE.split(text)
    return "".join(
        _TEST_MARK.sub(r"\1", piece) if index % 2 else _LINK.sub(turn, piece) for index, piece in enumerate(pieces)
    )


def _resolve(here: str, target: str) -> str | None:
    """Return what a link leads to, relative to the checkout; None for other sites and for places on the same page."""
    path = target.partition("#")[0]
    if not path or re.match(r"[a-z]+:", target):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), path))


def _code(file: Path) -> str:
    text = file.read_text(encoding="utf-8", errors="replace").rstrip("\n")
    fence = "~" * max(4, *(len(run) + 1 for run in re.findall(r"^~+", text, re.MULTILINE)), 4)
    language = _LANGUAGES.get(os.path.splitext(file.name)[1], "text")  # noqa: PTH122  # a suffix is all that is asked
    return f"{fence}{language}\n{text}\n{fence}\n"
