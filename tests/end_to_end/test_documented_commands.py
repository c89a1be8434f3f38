"""The README and the how-to pages, done, against a sandbox and a proxy.

What a page shows as a file is written, and its commands run in a shell.
A block of commands that cannot run here says so in its title (`Needs Azure`), where readers see it, too.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest

from tests.end_to_end.programs import COMMAND, ROOT, Program, environment, run_program
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGES: Final = ["README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "how-to").rglob("*.md"))]
# The place has one already; test_cli_operating_page.py tries it.
FIRST_USE: Final = "apim-auth-proxy init --sandbox\n"
REVERSE: Final = "  - address: ADDRESS\n    mode: reverse\n    upstream: https://contoso.azure-api.localhost\n"
# A page's worth of commands, on a busy machine.
PATIENCE_S: Final = 120.0
SHELLS: Final = ("sh", "powershell")
PROGRAM_LANGUAGES: Final = ("python", "java", "js", "php", "ruby")
# What a page's commands call that may not be here.
PROGRAMS: Final = ("curl", "java", "node", "php", "ruby", "git", "openssl", "softhsm2-util", "pkcs11-tool")


class Block(NamedTuple):
    """A fenced block: its language, its title, and what is in it."""

    language: str
    title: str
    text: str


class Place(NamedTuple):
    """A directory with a sandbox's configuration whose proxy runs, and the addresses that pages call otherwise."""

    directory: Path
    listener: str
    reverse: str
    admin: str


def blocks(page: str) -> list[Block]:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', text, re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found if not each[2].startswith(FIRST_USE)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("how-to")
    listener, reverse, admin = (f"127.0.0.1:{free_port()}" for _ in range(3))
    made = run_program([COMMAND, "init", "--sandbox", "--listen", listener, "--admin", admin], directory=directory)
    assert made.status == 0, made.stderr
    config = directory / "config.yaml"
    forward = "    mode: forward\n"
    settings = config.read_text(encoding="utf-8").replace(forward, forward + REVERSE.replace("ADDRESS", reverse))
    config.write_text(settings, encoding="utf-8")
    (directory / "app.py").write_text("")
    (directory / "deploy").symlink_to(ROOT / "deploy")
    with Program([COMMAND, "sandbox", "--directory", directory / "sandbox"], directory, "sandbox") as sandbox:
        sandbox.wait_for_line("sandbox ready")
        with Program([COMMAND, "run", "--config", directory / "config.yaml"], directory, "proxy") as proxy:
            proxy.wait_for_line("apim-auth-proxy: ready")
            yield Place(directory, listener, reverse, admin)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_of_commands_runs_or_says_what_it_needs(page: str) -> None:
    for block in blocks(page):
        if block.language in SHELLS and block.title:
            assert re.match(r"Needs |Windows$", block.title), f"{page}: {block.title}"
        assert block.language != "powershell" or block.title, f"{page}: there is no PowerShell to run this"


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(b.language == "sh" and not b.title for b in blocks(page))]
)
def test_the_commands_of_a_page_work(page: str, place: Place) -> None:
    script = "\n".join(block.text for block in blocks(page) if block.language == "sh" and not block.title)
    missing = [name for name in PROGRAMS if re.search(rf"\b{name}\b", script) and shutil.which(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    for block in blocks(page):
        if block.language != "sh" and block.title:
            (place.directory / block.title).write_text(adapt(block.text, place), encoding="utf-8")
    environ = environment(PATH=f"{Path(COMMAND).parent}:{environment()['PATH']}")
    done = run_program(
        ["bash", "-euo", "pipefail", "-c", adapt(script, place)],
        environ=environ,
        directory=place.directory,
        patience_s=PATIENCE_S,
    )
    assert done.status == 0, done.stdout.decode() + done.stderr
    # Each program that a page shows and runs prints the status of the response, or of gRPC's.
    programs = [b.title for b in blocks(page) if b.language in PROGRAM_LANGUAGES and b.title and b.title in script]
    answers = re.findall(r"\b200\b|\bStatusCode\.OK\b", done.stdout.decode())
    assert len(answers) >= len(programs), done.stdout


def adapt(text: str, place: Place) -> str:
    """A page's commands, with the host, the addresses and the port of the place."""
    text = text.replace("contoso.azure-api.net", "contoso.azure-api.localhost")
    host, port = place.listener.split(":")
    return (
        text.replace("127.0.0.1:8080", place.listener)
        .replace("127.0.0.1:8081", place.reverse)
        .replace("127.0.0.1:9901", place.admin)
        .replace(f'"{host}", 8080', f'"{host}", {port}')
        .replace("port: 8080", f"port: {port}")
        .replace("proxyPort=8080", f"proxyPort={port}")
    )
