"""The documents say what is so: links lead somewhere, configurations load, commands exist, the table of errors is complete."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
import yaml

from proxy.errors import ConfigurationError, ProxyError

if TYPE_CHECKING:
    from proxy.config.settings import Settings

ROOT: Final = Path(__file__).parent.parent
DOCUMENTS: Final = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

# `make docs` makes these of the code.
MADE: Final = ("docs/reference/commands.md", "docs/reference/configuration.md")
NAMES: Final = [str(document.relative_to(ROOT)) for document in DOCUMENTS]
# What people read to use the proxy, rather than to know it exactly.
EXACT: Final = ("behaviour", "design", "metrics", "proof", "smuggling", "threat-model", "troubleshooting")
PLAIN: Final = [
    name for name in NAMES if name == "README.md" or re.match(rf"docs/(?!adr/|(?:{'|'.join(EXACT)})\.md)", name)
]
MOST_WORDS: Final = 40
SITE: Final = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
ANSWERS: Final = (ROOT / "docs/reference/responses.md").read_text(encoding="utf-8")
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The fragments that a rendered document has, as GitHub makes them of its headings."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_inside_the_project_leads_somewhere(name: str) -> None:
    document = ROOT / name
    text = document.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        target = document.parent / path if path else document
        if str(target.resolve().relative_to(ROOT)) in MADE:
            continue
        assert target.exists(), f"{name} links to {link}, which does not exist"
        if fragment:
            assert fragment in anchors(target.read_text(encoding="utf-8")), f"{name} links to {link}: no such heading"


@pytest.mark.parametrize("name", [name for name in NAMES if re.match(r"docs/(?!adr/)", name)])
def test_every_page_is_in_the_navigation_of_the_site(name: str) -> None:
    """Add a line for the page to `nav` in mkdocs.yml, where a reader would look for it."""
    assert re.search(rf"[ :-] {re.escape(name.removeprefix('docs/'))}$", SITE, re.MULTILINE), (
        f"{name} is not in mkdocs.yml"
    )


def long_sentences(text: str) -> list[str]:
    """Return the sentences of a page that have too many words; a heading, an item and a cell of a table each begin one."""
    text = re.sub(r"^ *```.*?^ *```$", "\n\n", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<[^>]+>|\]\([^)]*\)", " ", text)
    text = re.sub(r"^ *([-*#|]|\d+\.|:  ) ?", "\n\n", text, flags=re.MULTILINE).replace("|", "\n\n")
    sentences = [sentence.split() for sentence in re.split(r"(?<=[.!?])\s+|\n\n+", text)]
    return [" ".join(words) for words in sentences if len(words) > MOST_WORDS]


@pytest.mark.parametrize("name", PLAIN)
def test_no_sentence_for_users_is_longer_than_forty_words(name: str) -> None:
    assert long_sentences((ROOT / name).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "around", ["{}", "First.\n{}", "- {}", "1. {}", "| cell | {} |", "```sh\nls\n```\n{}", "## One\n\n{}"]
)
def test_a_sentence_that_is_too_long_is_found_wherever_it_stands(around: str) -> None:
    allowed, refused = "word " * (MOST_WORDS - 1) + "last.", "word: " * MOST_WORDS + "last."
    assert long_sentences(around.format(f"{allowed} {allowed}")) == []
    assert long_sentences(around.format(f"{allowed} {refused} {allowed}")) == [refused]


@pytest.mark.parametrize("name", ["README.md", "docs/azure-setup.md"])
def test_every_whole_configuration_in_a_document_loads(name: str, tmp_path: Path) -> None:
    whole = [block for block in blocks((ROOT / name).read_text(encoding="utf-8"), "yaml") if "credentials:" in block]
    assert whole
    for block in whole:
        _load(block, tmp_path)


@pytest.mark.parametrize("name", PLAIN)
def test_every_part_of_a_configuration_in_a_document_is_one_of_a_whole(name: str, tmp_path: Path) -> None:
    """A block that shows some sections loads together with the least that the others need."""
    from proxy.config.loading import load_settings
    from proxy.config.settings import Settings

    for block in blocks((ROOT / name).read_text(encoding="utf-8"), "yaml"):
        shown = yaml.safe_load(block) if "{{" not in block else None
        if not isinstance(shown, dict) or not shown or not shown.keys() <= set(Settings.__struct_fields__):
            continue
        route = {"hosts": ["contoso.azure-api.net"], "credential": "orders-client", "scope": "api://orders/.default"}
        routes = shown.get("routes") or [
            route | {"credential": next(iter(shown.get("credentials", {})), "orders-client")}
        ]
        credential = {"tenant_id": "contoso.onmicrosoft.com", "client_id": "c" * 8, "certificate": "clientapp.pem"}
        whole = {
            "listeners": [{"address": "127.0.0.1:8080"}],
            "credentials": {route["credential"]: credential for route in routes},
            "state_directory": "state",
            **shown,
            "routes": routes,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        environ = dict.fromkeys(re.findall(r"\$\{(\w+)", block), "some-value")
        load_settings(path, environ, check_files=False)


def _load(text: str, directory: Path) -> Settings:
    """Loads a configuration whose files exist; what is in them is for other tests."""
    from proxy.config.loading import load_settings

    for credential in yaml.safe_load(text)["credentials"].values():
        for key in ("certificate", "private_key"):
            if key in credential:
                (directory / credential[key]).touch(mode=0o600)
    path = directory / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, {"HOME": str(directory)})


def raised_errors() -> list[type[ProxyError]]:
    """The classes of the error tree that stand somewhere in the code as a call: those a client can get to see.

    Faults of the configuration are for the operator, before there is a client.
    """
    code = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "proxy").rglob("*.py") if path.name != "errors.py"
    )
    found: list[type[ProxyError]] = []
    waiting = [ProxyError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        if re.search(rf"\b{kind.__name__}\(", code) and not issubclass(kind, ConfigurationError):
            found.append(kind)
    return found


def test_the_page_of_answers_lists_every_error_a_client_can_get() -> None:
    kinds = raised_errors()
    assert len(kinds) > 10
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:4]] for line in ANSWERS.splitlines() if line.startswith("|")
    ]
    for kind in kinds:
        assert [str(kind.status), kind.proxy_status, kind.title] in rows, f"the page has no row for {kind.__name__}"


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("target", ["demo", "test", "image", "image-test", "check", "help"])
def test_the_make_targets_the_documents_name_exist(target: str) -> None:
    text = "".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert f"make {target}" in text
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
