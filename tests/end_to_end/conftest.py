"""One sandbox and one proxy for the whole session, both as processes; and a proxy of its own for a test that wants one."""

from __future__ import annotations

import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import msal
import pytest
import pytest_asyncio

from proxy.sandbox import Sandbox, SandboxKeys, SandboxSettings, create_keys
from tests.end_to_end.curl import Curl
from tests.end_to_end.leaks import KNOWN, learn_key, search_everything
from tests.end_to_end.programs import COMMAND, Configuration, Place, Program, ProxyProgram, configuration

StartProxy: TypeAlias = Callable[[Configuration], ProxyProgram]

LAST = "test_secrets.py"
OWN_SUBSCRIPTION_KEY = secrets.token_hex(16)
KNOWN["a subscription key of a test's own sandbox"] = OWN_SUBSCRIPTION_KEY

_numbers = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks for secrets in everything that was printed runs when everything has been, as far as this process is concerned."""
    items.sort(key=lambda item: item.path.name == LAST)


@pytest.fixture(scope="session")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for all that users could see: logs, metrics, answers in the proxy's own name."""
    return tmp_path_factory.mktemp("evidence")


@pytest.fixture(scope="session", autouse=True)
def _nothing_printed_holds_a_secret(evidence: Path) -> Iterator[None]:
    """Searches what every command of the session has printed, once all of them have ended: set up first, torn down last."""
    yield
    assert search_everything(evidence, KNOWN) == {}


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[Place]:
    """The session's sandbox, a process."""
    directory = tmp_path_factory.mktemp("sandbox")
    with Program([COMMAND, "sandbox", "--directory", directory], evidence, "sandbox") as program:
        program.wait_for_line("sandbox ready")
        found = Place.read(directory)
        KNOWN["a subscription key"] = found.subscription_key
        learn_key("the session's client key", Path(found.certificate).read_text(encoding="ascii"))
        yield found


@pytest.fixture(scope="session")
def proxy(place: Place, tmp_path_factory: pytest.TempPathFactory, evidence: Path) -> Iterator[ProxyProgram]:
    """The session's proxy: tests leave it as it was."""
    with ProxyProgram(configuration(place), tmp_path_factory.mktemp("proxy"), evidence, "proxy") as program:
        for path in program.ca_file.parent.glob("*.key"):
            learn_key(path.name, path.read_text(encoding="ascii"))
        yield program


@pytest.fixture
def start_proxy(tmp_path: Path, evidence: Path) -> Iterator[StartProxy]:
    """Starts a proxy of the test's own; it ends with the test."""
    with ExitStack() as stack:

        def start(settings: Configuration) -> ProxyProgram:
            name = f"proxy-{next(_numbers)}"
            return stack.enter_context(ProxyProgram(settings, tmp_path / name, evidence, name))

        yield start


@pytest.fixture(scope="session")
def sandbox_keys() -> SandboxKeys:
    """Key material for all sandboxes of tests: RSA keys take a while to make."""
    keys = create_keys(datetime.now(UTC))
    learn_key("the tests' own client key", keys.client.private_key_pem.decode("ascii"))
    return keys


@pytest_asyncio.fixture
async def sandbox(sandbox_keys: SandboxKeys) -> AsyncIterator[Sandbox]:
    """A sandbox of the test's own, in this process, to be disturbed at will."""
    async with Sandbox(SandboxSettings(keys=sandbox_keys, subscription_key=OWN_SUBSCRIPTION_KEY)) as running:
        yield running


@pytest.fixture
def own_place(sandbox: Sandbox, tmp_path: Path) -> Place:
    """The files of the test's own sandbox."""
    directory = tmp_path / "sandbox"
    sandbox.write_directory(directory)
    return Place.read(directory)


@pytest.fixture(scope="session")
def curl(evidence: Path) -> Curl:
    """The real curl."""
    return Curl(evidence / "curl.answers")


@pytest.fixture(scope="session")
def access_token(place: Place) -> str:
    """A token for the session's API that the proxy has nothing to do with: for direct calls."""
    directory = Path(place.ca_file).parent
    credential = {
        "private_key": (directory / "clientapp.key").read_text(),
        "public_certificate": (directory / "clientapp.crt").read_text(),
    }
    with pytest.MonkeyPatch.context() as variables:
        # A variable of the machine's would win over what msal is told.
        variables.setenv("REQUESTS_CA_BUNDLE", place.ca_file)
        application = msal.ConfidentialClientApplication(
            place.client_id,
            authority=f"{place.authority}/{place.tenant_id}",
            client_credential=credential,
            instance_discovery=False,
        )
        token: str = application.acquire_token_for_client([place.scope])["access_token"]
    KNOWN["an access token"] = token
    KNOWN["an access token's signature"] = token.rpartition(".")[2]
    return token
