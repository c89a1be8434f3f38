"""`exec`: run a program that uses the proxy and trusts its CA. Starts processes."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.client_environment import prepare, proxy_url_option
from proxy.cli.completion import complete_program
from proxy.cli.forwarding import KILLED, Forwarding
from proxy.cli.node_version import find_bypass
from proxy.cli.options import ConfiguredCommand, takes_configuration
from proxy.cli.recognition import describe_stranger, listens
from proxy.cli.refusals import begin_watch
from proxy.cli.terminal import say
from proxy.cli.token_endpoint import find_token_endpoint
from proxy.config.addresses import ListenAddress
from proxy.config.one_route import CONFIG_VARIABLE, ROUTE_OPTIONS, OneRoute
from proxy.config.source import FileSource, StandardInput
from proxy.hardening import own_program

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from proxy.cli.client_environment import ClientEnvironment
    from proxy.cli.refusals import Watch
    from proxy.config.source import Source

# As a shell has it (POSIX.1-2024, 2.8.2).
_NOT_EXECUTABLE: Final = 126
_NOT_FOUND: Final = 127

_CONNECT_S: Final = 1.0
_START_S: Final = 30.0
_STOP_S: Final = 40.0

_ENDPOINT_HELP: Final = (
    "Without a URL: let the program get tokens from the proxy, as on App Service, by IDENTITY_ENDPOINT and IDENTITY_HEADER; takes "
    "a listener with `token_endpoint: true`. With one:"
)


class _Command(click.Argument):
    """The program and its arguments; `click` would put dots behind what says it all."""

    def make_metavar(self, ctx: click.Context) -> str:  # noqa: ARG002  # click's signature
        return "-- CMD [ARGUMENT]..."

    def process_value(self, ctx: click.Context, value: object) -> object:
        """Say where the program stands, if none is named."""
        try:
            return super().process_value(ctx, value)
        except click.MissingParameter:
            raise click.UsageError(
                "Which program? Write it after `--`: apim-auth-proxy exec -- curl https://api.example.com/orders", ctx
            ) from None


@click.command(
    "exec", cls=ConfiguredCommand, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
@takes_configuration(required=False, bare={"token_endpoint": _ENDPOINT_HELP})
@proxy_url_option
@click.option(
    "--start",
    is_flag=True,
    help="Start a proxy for as long as the program runs, if none is listening. The default with a sandbox's configuration.",
)
@click.argument(
    "command", cls=_Command, nargs=-1, required=True, type=click.UNPROCESSED, shell_complete=complete_program
)
def exec_(
    config: Source | None, proxy_url: str | None, start: bool, token_endpoint: bool, command: tuple[str, ...]
) -> None:
    """Run a program through the proxy, with the variables that `env` prints.

    Example: apim-auth-proxy exec -- curl https://api.example.com/orders

    Exits with the program's own status, or with 127 if it is not found, 126 if it cannot be run, and 1 if no proxy is
    listening. When the program ends, what the proxy refused is printed to stderr with the reason, if the admin site can be
    reached. If the configuration comes from standard input, the program's standard input is empty.
    """
    place = find_token_endpoint(config) if token_endpoint else None
    is_alone = place is not None and not place.has_forward_listener and proxy_url is None
    environment = place.alone() if place is not None and is_alone else prepare(config, proxy_url)

    def environ() -> Mapping[str, str]:
        return environment.apply() if place is None else place.apply(environment.apply())

    bypass = find_bypass(command, os.environ)
    if bypass is not None:
        say(f"Warning: {bypass}")
    address = environment.address or environment.named
    if address is None or listens(address):
        _refuse_stranger(environment)
        watch = begin_watch(environment.admin) if address is not None else None
        if watch is None:
            sys.exit(run_command(command, environ()))
        with Forwarding() as forwarding:
            status = run_command(command, environ(), forwarding)
        _tell_refusals(watch, status)
        sys.exit(status)
    sandbox = _find_sandbox(environment.config.directory) if isinstance(environment.config, FileSource) else None
    if not (start or sandbox):
        file = (
            f" --config {shlex.quote(str(environment.config.path))}"
            if isinstance(environment.config, FileSource)
            else ""
        )
        run = f"apim-auth-proxy run{file}"
        raise click.ClickException(
            f"No proxy listens at {address}. Start it with `{run}`, or add --start (before the `--`) to run "
            "one for as long as the program runs."
        )
    with Forwarding() as forwarding, _proxy_for(environment, sandbox):
        watch = begin_watch(environment.admin)
        status = run_command(command, environ(), forwarding)
        _tell_refusals(watch, status)
    sys.exit(status)


def _tell_refusals(watch: Watch | None, status: int) -> None:
    """Say what the proxy refused meanwhile: of an answer to CONNECT, programs show the status at most."""
    if watch is None or status in (_NOT_EXECUTABLE, _NOT_FOUND):
        return
    for line in watch.list_refusals(has_failed=status != 0):
        say(f"apim-auth-proxy answered for {line}")


def _refuse_stranger(environment: ClientEnvironment) -> None:
    if environment.address is None or not environment.proxy_url.startswith("http:"):
        return
    stranger = describe_stranger(
        environment.address, environment.hosts, environment.trusted, are_routed=environment.config is not None
    )
    if stranger is not None:
        raise click.ClickException(
            f"What listens at {environment.proxy_url} is {stranger}, and would get the program's requests. Stop it, or let the "
            "listener have another port. If it is right there, say so with --proxy-url."
        )


def run_command(command: Sequence[str], environ: Mapping[str, str], forwarding: Forwarding | None = None) -> int:
    """Run a program and return its exit status.

    Args:
        command: the program and its arguments.
        environ: its environment.
        forwarding: hands it the signals that this process gets; without one, this process becomes the program where it can.
    """
    program = shutil.which(command[0], path=environ.get("PATH"))
    if program is None:
        there = os.path.lexists(command[0]) if os.sep in command[0] else False
        what = "cannot be run: it is a directory or not executable" if there else "cannot be found; is it installed?"
        click.echo(f"Error: {command[0]} {what}", err=True)
        return _NOT_EXECUTABLE if there else _NOT_FOUND
    try:
        if forwarding is not None:
            return _status(forwarding.start([program, *command[1:]], environ))
        if os.name == "posix":
            sys.stdout.flush()
            sys.stderr.flush()
            os.execve(program, list(command), dict(environ))  # noqa: S606  # it is what the user asked for
        with Forwarding() as own:
            return _status(own.start([program, *command[1:]], environ))
    except OSError as error:
        click.echo(f"Error: {program} cannot be run: {error.strerror}", err=True)
        return _NOT_EXECUTABLE


def _status(process: subprocess.Popen[bytes]) -> int:
    status = process.wait()
    return status if status >= 0 else KILLED - status


@contextlib.contextmanager
def _proxy_for(environment: ClientEnvironment, sandbox: Path | None) -> Iterator[None]:
    """Run a proxy, and the sandbox that its configuration needs, until the program has ended."""
    if environment.config is None:
        raise click.ClickException("There is no configuration to start a proxy with: name one with --config.")
    with contextlib.ExitStack() as stack:
        if sandbox is not None and not _runs(sandbox):
            stack.enter_context(_running(_Start(["sandbox", "--directory", str(sandbox)]), "sandbox ready"))
        stack.enter_context(_running(_start_with(environment.config), "apim-auth-proxy: ready"))
        yield


@dataclass(frozen=True, slots=True)
class _Start:
    """How a process of this program is started: arguments, standard input, and variables beside those there are."""

    words: Sequence[str]
    content: bytes = b""
    variables: Mapping[str, str] = field(default_factory=dict)


def _start_with(config: Source) -> _Start:
    if isinstance(config, FileSource):
        return _Start(["run", "--config", str(config.path)])
    if isinstance(config, StandardInput):
        return _Start(["run", "--config", "-"], config.content)
    # In variables, because every user of the machine can see arguments; an empty one is none.
    none = dict.fromkeys([CONFIG_VARIABLE, *(option.variable for option in ROUTE_OPTIONS)], "")
    return _Start(["run"], variables=none | (config.variables() if isinstance(config, OneRoute) else {}))


def _find_sandbox(directory: Path) -> Path | None:
    """Return the directory of the sandbox that a configuration there is for; None for a real identity platform."""
    return next((place for place in (directory, directory / "sandbox") if (place / "sandbox.json").is_file()), None)


def _runs(sandbox: Path) -> bool:
    try:
        facts = json.loads((sandbox / "sandbox.json").read_text(encoding="utf-8"))
        port = int(str(facts["api_url"]).rpartition(":")[2])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return listens(ListenAddress("127.0.0.1", port))


@contextlib.contextmanager
def _running(start: _Start, ready: str) -> Iterator[None]:
    # A session of its own: a terminal's Ctrl-C is for the program, and the proxy is to serve it to its end.
    process = subprocess.Popen(  # noqa: S603  # this program itself
        [*own_program("proxy"), *start.words],
        stdin=subprocess.PIPE,
        env={**os.environ, **start.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    started = threading.Event()
    said: list[str] = []
    reader = threading.Thread(target=_follow, args=(process, ready, started, said), daemon=True)
    reader.start()
    try:
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), process.stdin:  # what it says at its end tells more
                process.stdin.write(start.content)
        if not started.wait(_START_S) or not any(ready in line for line in said):
            raise click.ClickException(f"`{' '.join(start.words)}` did not start:\n" + "\n".join(said[-20:]))
        yield
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join(_CONNECT_S)


def _follow(process: subprocess.Popen[bytes], ready: str, started: threading.Event, said: list[str]) -> None:
    """Read what a process says: until it is ready for a message if it ends, from then on so that it never blocks."""
    if process.stdout is not None:
        with process.stdout as stream:
            for line in stream:
                if not started.is_set():
                    said.append(line.decode("utf-8", "replace").rstrip())
                    if ready in said[-1]:
                        started.set()
    started.set()
