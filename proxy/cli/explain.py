"""`explain`: an AADSTS code's cause and fix, or what becomes of a request for a URL. Reads the configuration."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from proxy.cli.completion import complete_code
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import write_json, write_rows
from proxy.errors import MalformedRequest
from proxy.identity.aadsts import explain as look_up
from proxy.identity.aadsts import find_code, parse_code

if TYPE_CHECKING:
    from proxy.config.source import Source

_LOOK_UP = "https://login.microsoftonline.com/error?code="


@click.command(cls=ConfiguredCommand)
@takes_configuration(required=False)
@click.argument("code_or_url", metavar="CODE_OR_URL", shell_complete=complete_code)
@json_option
def explain(code_or_url: str, config: Source | None, as_json: bool) -> None:
    """Explain an AADSTS code, or what becomes of a request for a URL.

    CODE_OR_URL is a code (AADSTS700027, or 700027), any text that holds one, or an http or https URL. A URL needs a
    configuration: which route, credential, scope and fields apply to it, and why.
    """
    code = parse_code(code_or_url) or find_code(code_or_url)
    if code is not None:
        _explain_code(code, code_or_url, as_json=as_json)
    elif "://" in code_or_url:
        if config is None:
            raise click.UsageError("A URL is explained by a configuration: name it with --config FILE, or by options.")
        _explain_url(code_or_url, config, as_json=as_json)
    else:
        raise click.UsageError(
            "This is neither an AADSTS code nor a URL: write AADSTS700027, or https://contoso.azure-api.net/orders"
        )


def _explain_code(code: int, text: str, *, as_json: bool) -> None:
    found = look_up(code, text)
    if found is None:
        raise click.ClickException(f"AADSTS{code} is not in the table. Look it up at {_LOOK_UP}{code}")
    if as_json:
        write_json(
            {
                "code": found.name,
                "cause": found.cause,
                "fix": found.fix,
                "passing": found.passing,
                "link": f"{_LOOK_UP}{code}",
            }
        )
        return
    write_rows(
        [
            ("code", found.name),
            ("cause", found.cause),
            ("fix", found.fix),
            ("passing", "yes, it goes away by itself" if found.passing else ""),
            ("see also", f"{_LOOK_UP}{code}"),
        ]
    )


def _explain_url(url: str, config: Source, *, as_json: bool) -> None:
    from proxy.config.loading import load_settings  # noqa: PLC0415  # a code needs neither
    from proxy.doctor.route_report import report_url  # noqa: PLC0415

    settings = load_settings(config, os.environ, check_files=False)
    try:
        report = report_url(settings, url)
    except MalformedRequest as problem:
        raise click.BadParameter(problem.detail, param_hint="CODE_OR_URL") from None
    if as_json:
        write_json(asdict(report))
        return
    write_rows(
        [
            ("URL", report.url),
            ("outcome", report.outcome),
            ("why", report.why),
            ("goes to", report.upstream),
            ("connects to", report.dial),
            ("route", f"{report.route}, by its host {report.pattern}" if report.route else ""),
            ("credential", f"{report.credential}, client id {report.client_id}" if report.credential else ""),
            ("token from", report.token_endpoint),
            ("token for", report.target),
            ("sets fields", ", ".join(report.fields)),
            ("client", report.way),
        ]
    )
