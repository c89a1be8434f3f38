"""The usual libraries of Node.js call an https URL through CONNECT with `exec` alone (F14, C1)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import COMMAND, environment, run_program
from tests.end_to_end.test_cli_env import fixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.programs import Place, ProxyProgram

PROGRAM: Final = Path(__file__).with_name("clients") / "node_libraries.cjs"
PACKAGES: Final = (
    "undici-5-22@npm:undici@5.22.1",
    "undici-5-28@npm:undici@5.28.5",
    "undici-6-2@npm:undici@6.2.1",
    "undici-7@npm:undici@7.30.2",
    "https-proxy-agent@7.0.6",
    "hpagent-0-1@npm:hpagent@0.1.2",
    "hpagent-1@npm:hpagent@1.2.0",
    "tunnel-agent@0.6.0",
    "axios@1.21.1",
    "got@11.8.5",
    "global-agent@3.0.0",
)
LIBRARIES: Final = (
    "undici 5.22",
    "undici 5.28",
    "undici 6.2",
    "undici 7",
    "undici 7 EnvHttpProxyAgent",
    "https-proxy-agent 7",
    "hpagent 0.1",
    "hpagent 1",
    "tunnel-agent 0.6",
    "axios 1",
    "got 11 with hpagent",
    "global-agent 3",
    "node:http CONNECT",
)


@pytest.fixture(scope="module")
def running(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    from tests.end_to_end.programs import ProxyProgram

    with ProxyProgram(fixed(place), tmp_path_factory.mktemp("node"), evidence, "node-libraries") as program:
        yield program


@pytest.fixture(scope="module")
def libraries(request: pytest.FixtureRequest) -> Path:
    if shutil.which("node") is None:
        pytest.skip("node is not installed here")
    return install_packages(request.config, PACKAGES)


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_gets_an_answer_under_exec_alone(
    library: str, libraries: Path, running: ProxyProgram, place: Place
) -> None:
    call = ["node", str(PROGRAM), library, f"{place.api_alias}/orders"]
    done = run_program(
        [COMMAND, "exec", "--config", running.config_file, "--", *call],
        environ=environment(LIBRARIES_DIRECTORY=str(libraries)),
    )
    assert (done.status, done.stdout.strip()) == (0, b"200"), done.stderr
