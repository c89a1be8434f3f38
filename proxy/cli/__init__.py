"""The command line: one file per command family, each loaded only when its command runs. Does I/O.

Results go to stdout, talk goes to stderr. Exit codes: 0 done, 1 something is wrong that the output names, 2 wrong usage or a wrong
configuration, 130 ended by Ctrl-C.
"""

from __future__ import annotations

import gc
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import click

from proxy import __version__
from proxy.errors import ConfigurationError, ProxyError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# Command: (module, object, one line of help). The help stands here so that `--help` imports none of the modules.
_COMMANDS: Final = {
    "init": ("proxy.cli.init", "init", "Write a first configuration and print how to register it."),
    "run": ("proxy.cli.run", "run", "Run the proxy until SIGTERM or SIGINT."),
    "demo": ("proxy.cli.demo.command", "demo", "Run the whole flow on this machine, step by step."),
    "sandbox": ("proxy.cli.sandbox", "sandbox", "Run a local identity platform, gateway and API."),
    "check": ("proxy.cli.check", "check", "Check a configuration and say how to fix what is wrong."),
    "token": ("proxy.cli.access_token", "token", "Print an access token or its claims."),
    "cert": ("proxy.cli.cert", "cert", "Create or show the certificate that the proxy signs in with."),
    "ca": ("proxy.cli.trust", "ca", "Show, export, install or rotate the CA that https clients trust."),
    "env": ("proxy.cli.environment", "env", "Print environment variables that make programs use the proxy."),
    "exec": ("proxy.cli.exec", "exec_", "Run a program through the proxy."),
    "wait": ("proxy.cli.wait", "wait", "Wait until the proxy is ready."),
    "config": ("proxy.cli.config", "config", "Print the JSON Schema of the configuration, for editors."),
    "client": ("proxy.cli.client", "client", "Create a password for a client of the proxy."),
    "completion": ("proxy.cli.completion", "completion", "Print the completion script for a shell."),
    "explain": (
        "proxy.cli.explain",
        "explain",
        "Explain an error code, a status, a message, or what happens to a URL.",
    ),
}


# What a container image that serves has no use for, and the module by which its absence is told.
_LEFT_OUT_OF_IMAGES: Final = {"demo": "proxy.cli.demo", "sandbox": "proxy.sandbox"}

INTERRUPTED: Final = 130
"""128 and the signal's number, as a shell has it (POSIX.1-2024, 2.8.2)."""


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        """Return the commands in the order in which a newcomer needs them."""
        return [name for name in _COMMANDS if not _is_left_out(name)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        """Return a command, imported."""
        if cmd_name not in _COMMANDS:
            return None
        if _is_left_out(cmd_name):
            raise click.ClickException(describe_left_out(cmd_name))
        module, name, _ = _COMMANDS[cmd_name]
        # Whatever an import makes stays. Looking through it for garbage is a tenth of the start, and finds next to none.
        gc.disable()
        try:
            command: click.Command = getattr(importlib.import_module(module), name)
        finally:
            gc.enable()
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is meant; name the nearest one where there is none, which click does for loaded ones only."""
        name = args[0]
        if name not in _COMMANDS and name[:1].isalnum() and not ctx.resilient_parsing:
            import difflib  # noqa: PLC0415  # for a typing error only

            nearest = difflib.get_close_matches(name, self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {name!r}." + (f" Did you mean {nearest[0]!r}?" if nearest else ""))
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; one that Ctrl-C ends has the status that a shell gives it, and nothing to say.

        A file that the user may not get at is no fault of the program's, whichever command comes upon it.
        """
        try:
            return super().invoke(ctx)
        except OSError as error:
            if error.filename is None:  # such as a closed pipe, which is click's
                raise
            raise click.ClickException(_describe_file_error(error)) from None
        except KeyboardInterrupt:
            ended_by_user = True
        except click.Abort as abort:  # click makes one of a Ctrl-C and of an end of input at a question
            ended_by_user = isinstance(abort.__context__, KeyboardInterrupt)
            if not ended_by_user:
                raise
        click.echo(err=True)
        sys.exit(INTERRUPTED)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][2]) for name in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return commands and options, without importing a command."""
        if incomplete and not incomplete[0].isalnum():
            return super().shell_complete(ctx, incomplete)
        from click.shell_completion import CompletionItem  # noqa: PLC0415  # for completion only

        return [
            CompletionItem(name, help=text) for name, (_, _, text) in _COMMANDS.items() if name.startswith(incomplete)
        ]


def _is_left_out(command: str) -> bool:
    package = _LEFT_OUT_OF_IMAGES.get(command)
    return package is not None and not Path(__file__).parents[1].joinpath(*package.split(".")[1:]).is_dir()


def describe_left_out(what: str) -> str:
    """Return what to tell somebody who wants something that this installation does not have."""
    return f"The container image has no {what}. Install the package on your machine: pipx install apim-auth-proxy"


def _describe_file_error(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return (
            f"{error.filename}: this user has no access to it. Correct its owner and mode, and those of the directories above it, "
            "or name another place."
        )
    return (
        f"{error.filename}: {error.strerror or 'the system gives no reason'}. Correct the path, or name another place."
    )


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:  # click's signature
    """Say which version runs, and whether the relay is compiled: what of a report about speed one has to know first."""
    if not wanted or ctx.resilient_parsing:
        return
    import importlib.util  # noqa: PLC0415  # both for this alone
    import platform  # noqa: PLC0415

    relay = importlib.util.find_spec("proxy.relay.exchange")
    is_compiled = relay is not None and relay.origin is not None and not relay.origin.endswith(".py")
    form = "compiled" if is_compiled else "interpreted"
    click.echo(
        f"apim-auth-proxy {__version__} ({form} relay, {platform.python_implementation()} {platform.python_version()})"
    )
    ctx.exit()


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_print_version,
    help="Show the version and exit.",
)
def group() -> None:
    """A proxy that gets Microsoft Entra ID access tokens for clients that cannot do OAuth."""  # noqa: D401  # a help text


def main() -> None:
    """Run the command line; errors of our own become one message: exit code 2 for the configuration's, 1 for others."""
    try:
        group(prog_name="apim-auth-proxy")
    except ProxyError as error:
        click.echo(f"{error.title}:\n{error}", err=True)
        sys.exit(2 if isinstance(error, ConfigurationError) else 1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except ModuleNotFoundError as error:
        _report_missing_package(error)
    except Exception as error:  # noqa: BLE001  # the top of the program: whoever uses it can do nothing with a traceback
        _report_fault(error)


def _report_missing_package(error: ModuleNotFoundError) -> NoReturn:
    package = (error.name or "proxy").partition(".")[0]
    if package == "proxy":
        _report_fault(error)
    click.echo(
        f"Error: The Python package {package!r}, which the proxy needs, is missing from {sys.prefix}. "
        "Install the proxy again, the way you did before: its requirements come with it.",
        err=True,
    )
    sys.exit(1)


def _report_fault(error: Exception) -> NoReturn:
    from proxy.tasks import describe_fault  # noqa: PLC0415  # for what should never happen

    click.echo(
        f"apim-auth-proxy failed: {describe_fault(error)}. This is a fault of the proxy's own; please report this line.",
        err=True,
    )
    sys.exit(1)
