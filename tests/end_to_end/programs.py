"""Runs the product's commands as a user runs them: as processes, known by what they print, ended by signals. Does I/O."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import yaml

from tests.own_faults import find_own_faults

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import IO, Self

Configuration: TypeAlias = "dict[str, object]"

COMMAND = str(Path(sys.executable).with_name("apim-auth-proxy"))
ROOT = Path(__file__).resolve().parents[2]
# Far above what anything takes; reached only by what hangs.
PATIENCE_S = 60.0

# What the product's commands printed, for whoever looks for secrets in it at the session's end: files, and what ended at once.
PRINTED: list[Path] = []
SAID: list[tuple[str, str]] = []
# `token` prints an access token, which is what it is for, and `exec` whatever the program under it does.
_SECRET_COMMANDS = ("token", "exec")

_PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
_CA_VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")


def environment(**changes: str) -> dict[str, str]:
    """Returns this process's environment without any proxy or CA of the machine's, and with the changes."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.lower() not in _PROXY_VARIABLES and name not in _CA_VARIABLES
    }
    return kept | changes


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program that has ended left behind."""

    status: int
    stdout: bytes
    stderr: str


def run_program(
    arguments: Sequence[str | Path],
    *,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    patience_s: float = PATIENCE_S,
) -> Finished:
    """Runs a program to its end."""
    done = subprocess.run(
        [str(argument) for argument in arguments],
        input=stdin,
        capture_output=True,
        env=environment() if environ is None else dict(environ),
        cwd=directory,
        timeout=patience_s,
        check=False,
    )
    said = done.stderr.decode("utf-8", "replace")
    if str(arguments[0]) == COMMAND:
        command = str(arguments[1]) if len(arguments) > 1 else ""
        if command not in _SECRET_COMMANDS:
            SAID.append((command, f"{done.stdout.decode('utf-8', 'replace')}\n{said}"))
            faults = find_own_faults(said.splitlines())
            assert not faults, said
    return Finished(done.returncode, done.stdout, said)


class Program:
    """A program that runs until it is told to stop.

    Args:
        arguments: program and arguments.
        output: a directory for what it prints, kept as NAME.stdout and NAME.stderr.
        name: of those files.
        environ: its environment; by default ours, without a proxy or CA of the machine's.
        content: its standard input; by default none.

    Attributes:
        logs_own_fault: whether the test provokes a fault of the product's own. Otherwise a traceback in what a command of the
            product prints fails the test when the program ends.
    """

    def __init__(
        self,
        arguments: Sequence[str | Path],
        output: Path,
        name: str,
        *,
        environ: Mapping[str, str] | None = None,
        content: str | None = None,
    ) -> None:
        self._lines: list[str] = []
        self._news = threading.Condition()
        self._ended = 0
        self._is_ours = COMMAND in arguments and str(arguments[arguments.index(COMMAND) + 1]) not in _SECRET_COMMANDS
        self.logs_own_fault = False
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.DEVNULL if content is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() if environ is None else dict(environ),
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        self._readers = [
            threading.Thread(target=self._read, args=(stream, output / f"{name}.{kind}"), daemon=True)
            for kind, stream in (("stdout", self.process.stdout), ("stderr", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        if self.process.stdin is not None:
            with self.process.stdin as stream:
                stream.write(content or "")

    @property
    def lines(self) -> list[str]:
        """What it has printed so far, on both streams."""
        with self._news:
            return list(self._lines)

    def wait_for(self, found: Callable[[list[str]], object], patience_s: float = PATIENCE_S) -> None:
        """Waits until the printed lines hold what is looked for."""
        with self._news:
            happened = self._news.wait_for(lambda: found(self._lines) or self._ended == 2, patience_s)
            assert happened, f"Nothing of the kind within {patience_s} s, but:\n" + "\n".join(self._lines[-20:])
            assert found(self._lines), "It ended:\n" + "\n".join(self._lines[-20:])

    def wait_for_line(self, part: str) -> str:
        """Returns the first line that holds a text, waiting for it."""
        self.wait_for(lambda lines: any(part in line for line in lines))
        return next(line for line in self.lines if part in line)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Waits for its end; returns its exit status."""
        status = self.process.wait(patience_s)
        for reader in self._readers:
            reader.join(patience_s)
        self._check_log()
        return status

    def stop(self) -> int:
        """Ends it the polite way, or by force where that fails; returns its exit status."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.wait()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        if self.process.poll() is None:
            self.stop()
        else:
            self.wait()

    def _check_log(self) -> None:
        if self._is_ours and not self.logs_own_fault:
            faults = find_own_faults(self.lines)
            assert not faults, "\n".join(faults)

    def _read(self, stream: IO[str] | None, copy: Path) -> None:
        assert stream is not None
        PRINTED.append(copy)
        with stream, copy.open("w", encoding="utf-8", buffering=1) as kept:
            for line in stream:
                kept.write(line)
                with self._news:
                    self._lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._ended += 1
            self._news.notify_all()


class ProxyProgram(Program):
    """`apim-auth-proxy run`, ready to serve.

    Args:
        configuration: written to a file in the directory.
        directory: the program's own.
        output: where what it prints and what its admin site says is kept.
        name: tells it apart there.
        environ: as of `Program`.
        wrapper: a program that runs the proxy in its own place, with its arguments.

    Attributes:
        ca_file: the anchor that clients must trust for https URLs.
    """

    def __init__(
        self,
        configuration: Configuration,
        directory: Path,
        output: Path,
        name: str,
        *,
        environ: Mapping[str, str] | None = None,
        wrapper: Sequence[str | Path] = (),
    ) -> None:
        self.config_file = write_configuration(configuration, directory)
        self._copies = {"/metrics": output / f"{name}.metrics", "/api/state": output / f"{name}.state"}
        super().__init__([*wrapper, COMMAND, "run", "--config", self.config_file], output, name, environ=environ)
        try:
            self.wait_for_line("apim-auth-proxy: ready")
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise
        self.ca_file = directory / "state" / "ca.pem"

    def address(self, mode: str) -> str:
        """Returns ``host:port`` of the first listener of a mode."""
        return next(found[1] for line in self.lines if (found := re.search(rf"listening on (\S+) \({mode}\)", line)))

    @property
    def forward(self) -> str:
        """URL of the forward listener: the value of HTTP_PROXY."""
        return f"http://{self.address('forward')}"

    @property
    def reverse(self) -> str:
        """URL of the reverse listener."""
        return f"http://{self.address('reverse')}"

    def ask_admin(self, path: str) -> bytes:
        """Returns what the admin site answers with status 200."""
        line = next(line for line in self.lines if "health and metrics on" in line)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(line.rpartition(" ")[2] + path, timeout=PATIENCE_S) as response:
            content: bytes = response.read()
        return content

    @property
    def exchanges(self) -> list[dict[str, object]]:
        """The access lines written so far."""
        return [json.loads(line) for line in self.lines if line.startswith('{"time"') and '"method"' in line]

    def wait_for_exchange(self, **fields: object) -> dict[str, object]:
        """Returns the first access line with these values, waiting for it."""

        def fits(line: str) -> bool:
            return line.startswith('{"time"') and fields.items() <= json.loads(line).items()

        self.wait_for(lambda lines: any(map(fits, lines)))
        return next(json.loads(line) for line in self.lines if fits(line))

    def stop(self) -> int:
        """Keeps a copy of its metrics and of what its page shows, then ends it."""
        if self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):  # the admin site goes before the process does
                for path, copy in self._copies.items():
                    copy.write_bytes(self.ask_admin(path))
        return super().stop()


def write_configuration(configuration: Configuration, directory: Path) -> Path:
    """Writes a configuration file, readable by its owner only: it holds a subscription key.

    In place of an earlier one it is there at once and whole, since a proxy may look at any moment.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path, whole = directory / "config.yaml", directory / "config.yaml.new"
    whole.touch(0o600)
    whole.write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")
    whole.replace(path)
    return path


@dataclass(frozen=True, slots=True)
class Place:
    """Where a sandbox is and what it expects, as its ``sandbox.json`` says."""

    tenant_id: str
    client_id: str
    authority: str
    token_endpoint: str
    scope: str
    api_url: str
    api_alias: str
    subscription_key: str
    certificate: str
    ca_file: str

    @classmethod
    def read(cls, directory: Path) -> Place:
        """Reads a sandbox's directory."""
        facts = json.loads((directory / "sandbox.json").read_text(encoding="utf-8"))
        return cls(**{name: facts[name] for name in cls.__slots__})

    @property
    def api_authority(self) -> str:
        """``localhost:PORT`` of the API."""
        return self.api_url.removeprefix("https://")

    @property
    def alias_host(self) -> str:
        """The API's other name, which has no port."""
        return self.api_alias.removeprefix("https://")

    @property
    def port(self) -> str:
        """The port the API listens on."""
        return self.api_url.rpartition(":")[2]


def configuration(
    place: Place,
    *,
    credential: Mapping[str, object] | None = None,
    route: Mapping[str, object] | None = None,
    **changes: object,
) -> Configuration:
    """Returns a configuration with a forward and a reverse listener on free ports, and one route to the sandbox's API.

    Args:
        place: the sandbox.
        credential, route: keys set in the credential and in the route; None removes a key.
        changes: top-level keys.
    """
    usual_credential: dict[str, object] = {
        "tenant_id": place.tenant_id,
        "client_id": place.client_id,
        "certificate": place.certificate,
        "authority": place.authority,
        "ca_file": place.ca_file,
    }
    usual_route: dict[str, object] = {
        "hosts": [place.api_authority, place.alias_host],
        "credential": "orders-client",
        "scope": place.scope,
        "set_headers": {"Ocp-Apim-Subscription-Key": place.subscription_key},
        "dial": f"127.0.0.1:{place.port}",
        "ca_file": place.ca_file,
    }
    return {
        "listeners": [
            {"address": "127.0.0.1:0"},
            {"address": "127.0.0.1:0", "mode": "reverse", "upstream": place.api_url},
        ],
        "credentials": {"orders-client": _merge(usual_credential, credential)},
        "routes": [_merge(usual_route, route)],
        "admin": {"address": "127.0.0.1:0"},
        "state_directory": "state",
        "timeouts": {"drain_s": 5},
    } | changes


def _merge(usual: Mapping[str, object], changes: Mapping[str, object] | None) -> dict[str, object]:
    merged = {**usual, **(changes or {})}
    return {name: value for name, value in merged.items() if value is not None}
