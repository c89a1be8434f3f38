"""A real client that knows nothing of OAuth: curl, or a small urllib program where there is no curl. Runs it as a process.

It finds the proxy as such programs do, by http_proxy and https_proxy.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from proxy.cli.demo.stage import DemoError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_PATIENCE_S: Final = 30.0
# What would lead the client elsewhere, or make it trust others than it is told.
_CLEARED: Final = frozenset(
    {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir", "curl_ca_bundle"}
)

_PROGRAM: Final = '''\
"""GET a URL: python3 client.py URL ["Field: value" ...]"""
import sys
import urllib.error
import urllib.request

fields = dict(field.split(": ", 1) for field in sys.argv[2:])
try:
    response = urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers=fields), timeout=20)
except urllib.error.HTTPError as error:
    response = error
sys.stdout.buffer.write(response.read() + b"\\n%d" % response.status)
'''


@dataclass(frozen=True, slots=True)
class Call:
    """One GET.

    Attributes:
        url: what for.
        proxy: URL of the forward listener; None calls directly.
        ca_file: what to trust for an https URL, a name in the client's directory.
        fields: further request fields.
    """

    url: str
    proxy: str | None = None
    ca_file: str | None = None
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def variables(self) -> dict[str, str]:
        """The environment variables by which a client finds the proxy."""
        if self.proxy is None:
            return {}
        return {f"{self.url.partition(':')[0]}_proxy": self.proxy}


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    content: bytes


class Client(Protocol):
    """A program that makes requests."""

    @property
    def name(self) -> str:
        """What it is."""
        ...

    def words(self, call: Call) -> list[str]:
        """Return the command as one would type it in the client's directory."""
        ...

    async def send(self, call: Call) -> Reply:
        """Make the request.

        Raises:
            DemoError: the program failed, which a response of any status does not make it.
        """
        ...


def choose_client(directory: Path, wanted: str) -> Client:
    """Return curl or urllib, as wanted: ``auto`` takes curl where there is one.

    Raises:
        DemoError: curl is wanted, and there is none.
    """
    curl = shutil.which("curl")
    if curl is None and wanted == "curl":
        raise DemoError("There is no curl on this machine; leave --client out, or install it.")
    return UrllibClient(directory) if curl is None or wanted == "python" else CurlClient(curl, directory)


class CurlClient:
    """The curl on this machine."""

    name = "curl"

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory

    def words(self, call: Call) -> list[str]:
        """Return the command as one would type it."""
        return [*_assignments(call.variables), "curl", *self._arguments(call)]

    async def send(self, call: Call) -> Reply:
        """Make the request."""
        # --disable has to come first: no ~/.curlrc.
        ours = ["--disable", "--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"]
        return await _run([self._program, *ours, *self._arguments(call)], call.variables, self._directory)

    @staticmethod
    def _arguments(call: Call) -> list[str]:
        trust = ["--cacert", call.ca_file] if call.ca_file is not None else []
        fields = [word for name, value in call.fields.items() for word in ("--header", f"{name}: {value}")]
        return [*trust, *fields, call.url]


class UrllibClient:
    """Python's urllib, as any script uses it."""

    name = "Python's urllib (client.py)"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "client.py").write_text(_PROGRAM, encoding="ascii")

    def words(self, call: Call) -> list[str]:
        """Return the command as one would type it."""
        return [*_assignments(self._variables(call)), "python3", *self._arguments(call)]

    async def send(self, call: Call) -> Reply:
        """Make the request."""
        return await _run([sys.executable, *self._arguments(call)], self._variables(call), self._directory)

    @staticmethod
    def _arguments(call: Call) -> list[str]:
        return ["client.py", call.url, *(f"{name}: {value}" for name, value in call.fields.items())]

    @staticmethod
    def _variables(call: Call) -> dict[str, str]:
        trust = {"SSL_CERT_FILE": call.ca_file} if call.ca_file is not None else {}
        return {**call.variables, **trust}


def _assignments(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


async def _run(arguments: list[str], variables: Mapping[str, str], directory: Path) -> Reply:
    kept = {name: value for name, value in os.environ.items() if name.lower() not in _CLEARED}
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**kept, **variables},
        cwd=directory,
    )
    try:
        async with asyncio.timeout(_PATIENCE_S):
            output, complaint = await process.communicate()
    except TimeoutError:
        raise DemoError(f"The client gave no answer within {_PATIENCE_S:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    content, _, status = output.rpartition(b"\n")
    if process.returncode != 0 or not status.isdigit():
        said = complaint.decode("utf-8", "replace").strip().splitlines()
        raise DemoError(
            f"The client failed (exit code {process.returncode}): {said[-1] if said else 'it said nothing'}"
        )
    return Reply(int(status), content)
