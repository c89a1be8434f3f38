"""Libraries of Node.js call an https URL through CONNECT with `exec` alone (F14, C1), and the table of clients is true."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.client_table import LIBRARIES, PACKAGES, PAGE, read_table
from tests.end_to_end.npm_packages import install_packages
from tests.end_to_end.programs import COMMAND, ROOT, environment, run_program
from tests.end_to_end.test_cli_env import fixed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.end_to_end.programs import Place, ProxyProgram

PROGRAM: Final = Path(__file__).with_name("clients") / "node_libraries.cjs"


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


def test_the_table_of_clients_is_true(libraries: Path, running: ProxyProgram, place: Place) -> None:
    """F14: as far as the programs are installed here; `make clients-table` measures it again."""
    call = [sys.executable, "-m", "tests.client_table", "--json", f"{place.api_alias}/orders"]
    done = run_program(
        [COMMAND, "exec", "--config", running.config_file, "--", *call],
        environ=environment(LIBRARIES_DIRECTORY=str(libraries)),
        directory=ROOT,
        patience_s=600,
    )
    told = read_table(PAGE.read_text(encoding="utf-8"))
    measured = {row["name"]: "yes" if row["works"] else "**no**" for row in json.loads(done.stdout)}
    compared = {name: verdict for name, verdict in measured.items() if name in told}
    assert compared == {name: told[name][1] for name in compared}
    assert len(compared) > len(LIBRARIES)
