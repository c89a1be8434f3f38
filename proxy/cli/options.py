"""The options that several commands share, and which configuration they mean. Reads standard input for `--config -`."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from proxy.cli.terminal import say
from proxy.config.one_route import (
    CONFIG_VARIABLE,
    ROUTE_OPTIONS,
    Form,
    OneRoute,
    collect_one_route,
    describe_unknown_variable,
    find_unknown_variables,
)
from proxy.config.source import STANDARD_INPUT, FileSource, StandardInput, is_there, read_standard_input
from proxy.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from proxy.config.one_route import RouteOption
    from proxy.config.source import Source

CONFIG_HERE: Final = Path("config.yaml")
# There may be twenty.
_LISTED: Final = 3

# What stands for an option's value where it has none; no value of a configuration is like it.
_BARE: Final = "\0bare"
_NOTHING: Final[Mapping[str, str]] = {}

_Command = TypeVar("_Command", bound="Callable[..., object]")
_FILE_TEXT: Final = "The configuration file, or - for standard input."

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class _RouteParameter(click.Option):
    """An option that stands for a key of a configuration."""


class ConfiguredCommand(click.Command):
    """A command whose help lists the options of a configuration without a file apart."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Refuse what is left over; a file there is nearly always the configuration."""
        ctx.allow_extra_args = True
        rest = super().parse_args(ctx, args)
        if rest and not ctx.resilient_parsing:
            is_file = rest[0].endswith((".yaml", ".yml")) or Path(rest[0]).is_file()
            hint = f" To name the configuration file, write --config {shlex.quote(rest[0])}." if is_file else ""
            ctx.fail(f"Unexpected argument {rest[0]!r}.{hint}")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write its own options, then those."""
        usual: list[tuple[str, str]] = []
        route: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                (route if isinstance(parameter, _RouteParameter) else usual).append(record)
        with formatter.section("Options"):
            formatter.write_dl(usual)
        with formatter.section("Instead of a file, for one route (or as variables: APIM_AUTH_PROXY_TENANT_ID…)"):
            formatter.write_dl(route)
        formatter.write_paragraph()
        formatter.write_text(
            "To use a client secret, set the variable APIM_AUTH_PROXY_CLIENT_SECRET. There is no option for it."
        )


def takes_configuration(
    *, required: bool = True, shared: Collection[str] = (), bare: Mapping[str, str] = _NOTHING
) -> Callable[[_Command], _Command]:
    """Return a decorator that adds the options of a configuration, and hands it over as the argument ``config``.

    Args:
        required: it is an error if there is none; otherwise ``config`` is None then.
        shared: parameters of the command that are those of a route as well.
        bare: parameters of a route whose options mean something else without a value: then the command gets True. By name, with the
            first words of their help.
    """

    def decorate(command: _Command) -> _Command:
        @functools.wraps(command)
        def call(*, config: str | None, **arguments: Any) -> object:  # noqa: ANN401  # whatever the command takes
            own = {name for name in arguments if name not in shared}
            given = {
                option.parameter: _texts(arguments.pop(option.parameter))
                for option in ROUTE_OPTIONS
                if option.parameter in own
            }
            for name in bare:
                arguments[name] = given[name] == (_BARE,)
                given[name] = () if arguments[name] else given[name]
            extra = {name: _texts(arguments[name]) for name in shared}
            source = find_source(config, given, extra)
            if source is None and required:
                raise click.UsageError(
                    f"There is no configuration. Name a file with --config or in {CONFIG_VARIABLE}, run this where "
                    f"{CONFIG_HERE} is, or pass options or variables instead. `apim-auth-proxy init` writes a first configuration."
                )
            return command(config=source, **arguments)

        decorated: Any = call
        for option in reversed(ROUTE_OPTIONS):
            if not option.is_secret and option.parameter not in shared:
                decorated = _as_click(option, bare.get(option.parameter))(decorated)
        decorated = click.option("--config", "config", metavar="FILE", type=click.Path(), help=_FILE_TEXT)(decorated)
        result: _Command = decorated
        return result

    return decorate


def find_source(
    named: str | None, options: Mapping[str, tuple[str, ...]], extra: Mapping[str, tuple[str, ...]]
) -> Source | None:
    """Return the configuration that is meant, and say on stderr what else was found; None where nothing says.

    The command line counts before the environment, and both before ``config.yaml`` in the working directory.

    Args:
        named: a file.
        options: of a configuration without one.
        extra: more of these, which alone do not mean such a configuration.

    Raises:
        click.UsageError: two are meant, or a variable is misspelt.
    """
    source = _choose_source(named, options, extra)
    if not isinstance(source, OneRoute):  # which has them among its faults
        _refuse_unknown_variables(source)
    return source


def _choose_source(
    named: str | None, options: Mapping[str, tuple[str, ...]], extra: Mapping[str, tuple[str, ...]]
) -> Source | None:
    given = [option.option for option in ROUTE_OPTIONS if options.get(option.parameter)]
    variable = os.environ.get(CONFIG_VARIABLE)
    route = collect_one_route(options, os.environ, Path.cwd())
    if named is not None:
        if given:
            raise click.UsageError(
                f"--config names a configuration, and {given[0]} begins another; keep one of the two."
            )
        if route is not None:
            say(f"Note: --config counts. Ignored: {_list_origins(route)}.")
        return open_source(named)
    if variable and not given:
        if route is not None:
            raise click.UsageError(
                f"{CONFIG_VARIABLE} names a configuration, and {route.given[0].origin} begins another; unset one of the two, "
                "or say on the command line which one counts."
            )
        if _is_another(variable):
            say(f"Note: {CONFIG_VARIABLE} names {variable}; {CONFIG_HERE} here is not read.")
        return open_source(variable)
    if route is not None:
        if variable:
            say(f"Note: options count. Ignored: {CONFIG_VARIABLE}.")
        if is_there(CONFIG_HERE):
            say(
                f"Note: the configuration comes from options and variables ({_list_origins(route)}); {CONFIG_HERE} here is not "
                f"read. To use it, unset them, or add --config {CONFIG_HERE}."
            )
        return collect_one_route({**options, **extra}, os.environ, Path.cwd())
    return FileSource(CONFIG_HERE) if is_there(CONFIG_HERE) else None


def _refuse_unknown_variables(source: Source | None) -> None:
    """Raise for variables that begin as ours and are none, unless the configuration refers to them."""
    unknown = find_unknown_variables(os.environ)
    if not unknown:
        return
    text = b""
    if isinstance(source, StandardInput):
        text = source.content
    elif isinstance(source, FileSource):
        with contextlib.suppress(OSError):  # which reading it says in words
            text = source.path.read_bytes()
    for name in unknown:
        if b"${" + name.encode() not in text:
            raise click.UsageError(f"{name}: {describe_unknown_variable(name)}")


def _list_origins(route: OneRoute) -> str:
    origins = [given.origin for given in route.given]
    return ", ".join(origins[:_LISTED]) + (" and more" if len(origins) > _LISTED else "")


def _is_another(named: str) -> bool:
    """Whether there is a configuration here beside the file of a name."""
    try:
        return is_there(CONFIG_HERE) and (named == STANDARD_INPUT or not CONFIG_HERE.samefile(named))
    except OSError:
        return True


def open_source(named: str) -> Source:
    """Return the file of a name, or for ``-`` what standard input holds, read to its end."""
    if named != STANDARD_INPUT:
        return FileSource(Path(named))
    if sys.stdin is None:
        raise ConfigurationError("Standard input is closed; pipe the configuration in, or name a file with --config.")
    if sys.stdin.isatty():
        click.echo("Reading the configuration from standard input; end it with Ctrl-D.", err=True)
    return read_standard_input(sys.stdin.buffer)


def _as_click(option: RouteOption, bare: str | None = None) -> Callable[[_Command], _Command]:
    kinds: dict[str, click.ParamType[Any]] = {
        "FILE": click.Path(dir_okay=False),
        "DIR": click.Path(file_okay=False),
        "refuse|tunnel": click.Choice(["refuse", "tunnel"]),
    }
    if option.form is Form.FLAG:
        return click.option(option.option, cls=_RouteParameter, is_flag=True, help=option.text)
    if bare is not None:
        return click.option(
            option.option,
            cls=_RouteParameter,
            metavar=f"[{option.metavar}]",
            is_flag=False,
            flag_value=_BARE,
            help=f"{bare} {option.text[0].lower()}{option.text[1:]}",
        )
    return click.option(
        option.option,
        cls=_RouteParameter,
        type=kinds.get(option.metavar, click.STRING),
        metavar=option.metavar,
        multiple=option.form in (Form.HOSTS, Form.FIELDS),
        help=option.text,
    )


def _texts(value: object) -> tuple[str, ...]:
    """Return the texts of an option as click has it: a text or several, a flag, or nothing."""
    if isinstance(value, tuple):
        return value
    if isinstance(value, bool):
        return ("true",) if value else ()
    return () if value is None else (str(value),)
