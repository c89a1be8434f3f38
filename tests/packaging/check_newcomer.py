"""What somebody types who has never seen the product, from an empty directory to a 200: the documents' commands, and those printed.

Needs `make packages`. What pip would download is fetched before the clock starts; the time is printed and not judged.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from cryptography import x509

from proxy.sandbox import (
    ClientApplication,
    GatewaySettings,
    ResourceApplication,
    Sandbox,
    SandboxSettings,
    register_certificate,
)
from proxy.sandbox.authority_ca import GATEWAY_NAME
from proxy.sandbox.settings import API_APP_ID, TENANT_ID
from tests.end_to_end.programs import environment
from tests.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md").read_text(encoding="utf-8")
CLIENT_ID: Final = "99999999-9999-9999-9999-999999999999"
PATIENCE_S: Final = 150.0

# pip of an environment that has none of its own, as Debian's are made: it is the pip outside, pointed at it.
PIP: Final = '#!/bin/sh\nexec "{python}" -m pip --disable-pip-version-check --quiet --python "{environment}" "$@"\n'
# Stands for the Azure CLI: it writes down its arguments, and answers queries with ids.
AZ: Final = rf"""#!/bin/sh
for argument; do printf '%s\n' "$argument"; done >> "$AZ_LOG"
printf '%s\n' '--' >> "$AZ_LOG"
case "$*" in
  "cloud show"*) echo AzureCloud ;;
  "account show"*) echo {TENANT_ID} ;;
  "rest --method get"*"/policies?"*) echo '{{"value": []}}' ;;
  *"length"*) echo 0 ;;
  *"API"*"appId"*) echo {API_APP_ID} ;;
  *"proxy"*"appId"*) echo {CLIENT_ID} ;;
  "ad sp show --id {API_APP_ID} --query"*) echo api-sp ;;
  "ad sp show --id {CLIENT_ID} --query"*) echo client-sp ;;
esac
"""


class Terminal:
    """A directory, and what has been typed in it."""

    def __init__(self, directory: Path, environ: dict[str, str]) -> None:
        self.directory = directory
        self.environ = environ
        self.typed: list[str] = []
        self.took_s: list[float] = []

    def type(self, command: str, answers: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Type a command, and what it asks for, and wait for its end, which has to be a good one."""
        self.typed.append(command)
        began = time.monotonic()
        done = subprocess.run(
            ["sh", "-c", command], input="".join(f"{answer}\n" for answer in answers), cwd=self.directory, env=self.environ,
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        self.took_s.append(time.monotonic() - began)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done

    def report(self) -> str:
        """Return how long it took, for people."""
        each = "".join(f"\n{took_s:6.1f} s  {typed}" for typed, took_s in zip(self.typed, self.took_s, strict=True))
        return f"\n{self.directory.name}: {len(self.typed)} commands in {sum(self.took_s):.1f} s{each}\n"


def documented(section: str) -> list[str]:
    """Return the commands of the README's first block below a heading, without comments."""
    (block,) = re.findall(rf"^## {re.escape(section)}\n.*?^```sh[^\n]*\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)[
        :1
    ]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def printed(text: str) -> list[str]:
    """Return the commands that one of ours told the reader to type next."""
    return re.findall(r"^  (apim-auth-proxy .+)$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an index has: our wheel, and all that it needs."""
    directory = tmp_path_factory.mktemp("index")
    (wheel,) = (ROOT / "dist").glob("*-py3-none-any.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", directory, wheel],
        check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    return directory


@pytest.fixture
def terminal(tmp_path: Path, downloads: Path, capfd: pytest.CaptureFixture[str]) -> Iterator[Terminal]:
    """An empty directory, with an environment of its own and a home that has nothing in it."""
    env, home, empty = tmp_path / "env", tmp_path / "home", tmp_path / "first use"
    venv.create(env, with_pip=False)
    (env / "bin" / "pip").write_text(PIP.format(python=sys.executable, environment=env / "bin" / "python"))
    (env / "bin" / "pip").chmod(0o755)
    home.mkdir()
    empty.mkdir()
    opened = Terminal(
        empty,
        environment(
            PATH=f"{env / 'bin'}:{os.environ['PATH']}", HOME=str(home), PIP_NO_INDEX="1", PIP_FIND_LINKS=str(downloads)
        ),
    )
    assert shutil.which("apim-auth-proxy", path=str(env / "bin")) is None
    yield opened
    with capfd.disabled():
        sys.stdout.write(opened.report())


def test_three_commands_from_an_empty_directory_to_a_200(terminal: Terminal) -> None:
    """Install, `init --sandbox`, and the command that it prints; the README has the same."""
    install = documented("Install")[0]
    first, second = documented("The first 60 seconds")
    # pipx is pip with an environment for each program, which this is.
    terminal.type(install.replace("pipx ", "pip "))
    told = terminal.type(first)
    next_command = printed(told.stderr)[0]
    answer = terminal.type(next_command)
    assert re.findall(r"^HTTP/1.1 (\d+)", answer.stdout, re.MULTILINE)[-1] == "200"
    assert json.loads(answer.stdout.split("\n\n")[-1])["token"]["claims"]["roles"] == ["Orders.Read"]
    assert len(terminal.typed) == 3
    # What the README has differs in how much curl tells.
    assert second.split()[:4] == next_command.split()[:4]
    assert second.split()[-1] == next_command.split()[-1]


@pytest.mark.asyncio
async def test_init_for_azure_registers_and_the_first_real_request_gets_a_200(
    terminal: Terminal, tmp_path: Path
) -> None:
    """`init`, the script that it prints, and a request; only where Microsoft's servers are is written into the file by hand."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "az").write_text(AZ)
    (programs / "az").chmod(0o755)
    terminal.environ |= {"PATH": f"{programs}:{terminal.environ['PATH']}", "AZ_LOG": str(tmp_path / "az.log")}
    (start,) = re.findall(r"run `(apim-auth-proxy init)` in another directory", README)

    await asyncio.to_thread(terminal.type, documented("Install")[0].replace("pipx ", "pip "))
    told = await asyncio.to_thread(terminal.type, f"{start} > register.sh", [TENANT_ID, GATEWAY_NAME])
    # The script ends with the first of the commands that are named as the next ones, so nobody has to type it.
    check, call = printed(told.stderr)
    certificate = x509.load_pem_x509_certificate((terminal.directory / "clientapp.crt").read_bytes())
    client = ClientApplication(CLIENT_ID, "client-sp", (register_certificate(certificate),))
    api = ResourceApplication(
        API_APP_ID, (f"api://{API_APP_ID}",), 2, {CLIENT_ID: ("Orders.Read",)}, assignment_required=True
    )
    settings = SandboxSettings(
        clients=(client,), resources=(api,), gateway=GatewaySettings(subscription_required=False)
    )
    async with Sandbox(settings) as sandbox:
        stand_in(terminal.directory, sandbox)
        registered = await asyncio.to_thread(terminal.type, "sh register.sh")
        assert "${" not in re.sub(r"#.*", "", (terminal.directory / "config.yaml").read_text())
        answer = await asyncio.to_thread(terminal.type, call)
    assert re.findall(r"^HTTP/1.1 (\d+)", answer.stdout, re.MULTILINE)[-1] == "200"
    assert json.loads(answer.stdout.split("\n\n")[-1])["token"]["claims"]["roles"] == ["Orders.Read"]
    assert len(terminal.typed) == 4
    assert (check, registered.stderr) == ("apim-auth-proxy check --config config.yaml --online", "Nothing is wrong.\n")
    uploaded = [call.splitlines() for call in (tmp_path / "az.log").read_text().split("--\n") if "reset" in call]
    assert [("@clientapp.crt" in call, CLIENT_ID in call) for call in uploaded] == [(True, True)]


def stand_in(directory: Path, sandbox: Sandbox) -> None:
    """Write into the configuration what leads to the sandbox and not to Microsoft's servers, and ports that nobody else has."""
    (directory / "sandbox-ca.pem").write_text(sandbox.ca_pem)
    path = directory / "config.yaml"
    text = path.read_text()
    changes = {
        r"127\.0\.0\.1:8080": f"127.0.0.1:{free_port()}",
        r"127\.0\.0\.1:9901": f"127.0.0.1:{free_port()}",
        r"^( +)(private_key:.*)$": rf"\1\2\n\1authority: {sandbox.identity_url}\n\1ca_file: sandbox-ca.pem",
        r"^( +)(scope:.*)$": rf"\1\2\n\1dial: {sandbox.api_url.partition('//')[2]}\n\1ca_file: sandbox-ca.pem",
    }
    for pattern, replacement in changes.items():
        text, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
        assert count == 1
    path.write_text(text)
