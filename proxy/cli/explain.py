"""`explain`: a code, a status, another program's message, or what becomes of a request for a URL. Reads the configuration."""

from __future__ import annotations

import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.completion import complete_code
from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import write_json, write_rows
from proxy.errors import MalformedRequest
from proxy.explanations.lookup import find_entries, find_entry, find_symptoms, similar_codes
from proxy.identity.aadsts import explain as look_up
from proxy.identity.aadsts import find_code, parse_code

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.config.source import Source
    from proxy.explanations.entry import Entry
    from proxy.explanations.symptoms import Symptom

_LOOK_UP = "https://login.microsoftonline.com/error?code="
_URL: Final = re.compile(r"[A-Za-z][\w+.-]*://.*")
# A host with a dot or a port, which no code has.
_HOST: Final = re.compile(
    r"[\w*-]+(?:\.[\w-]+)+\.?(?::\d+)?(?:/\S*)?|(?:[\w-]+|\[[\da-fA-F:.]+\]):\d+(?:/\S*)?|\[[\da-fA-F:.]+\]"
)


@click.command(cls=ConfiguredCommand)
@takes_configuration(required=False)
@click.argument("code_or_url", metavar="CODE_OR_URL", shell_complete=complete_code)
@json_option
def explain(code_or_url: str, config: Source | None, as_json: bool) -> None:
    """Explain an error code, a status, a program's message, or what happens to a request for a URL.

    CODE_OR_URL is what you see: a code from a response or the log (name_not_resolved, CLIENT_DISTRUSTS_CA), an AADSTS code
    (AADSTS700027 or 700027), an HTTP status (407), a whole log line, or the message of a program that uses the proxy.

    Given a URL or a host, it says which route, credential, scope and header fields apply, and why. That needs a configuration.
    """
    text = code_or_url.strip()
    code = parse_code(text) or find_code(text)
    if code is not None:
        _explain_code(code, text, as_json=as_json)
    elif entry := find_entry(text):
        _write_entries([entry], as_json=as_json)
    elif symptoms := find_symptoms(text):
        _write_symptoms(symptoms, as_json=as_json)
    elif entries := find_entries(text):
        _write_entries(entries, as_json=as_json)
    elif _URL.fullmatch(text) or _HOST.fullmatch(text):
        if config is None:
            raise click.UsageError(
                "A URL or a host is explained by a configuration: name it with --config FILE, or by options."
            )
        _explain_url(text if "://" in text else f"https://{text}", config, as_json=as_json)
    else:
        raise click.UsageError(_say_unknown(text))


def _say_unknown(text: str) -> str:
    similar = similar_codes(text)
    if similar:
        return f"There is no such code. Did you mean {' or '.join(similar)}?"
    return (
        "This is not a code, status or message that the proxy knows, nor a URL or a host. Write it as it was printed, such as "
        "name_not_resolved, AADSTS700027, 407 or https://contoso.azure-api.net/orders. docs/troubleshooting.md lists all of them."
    )


def _write_entries(entries: Sequence[Entry], *, as_json: bool) -> None:
    """Write explanations of our own: one JSON object for one, a list of them for several."""
    if as_json:
        described = [
            {"code": one.code, "cause": one.cause, "fault": one.fault.value, "fix": one.fix} for one in entries
        ]
        write_json(described[0] if len(described) == 1 else described)
        return
    for number, one in enumerate(entries):
        if number:
            click.echo()
        write_rows([("code", one.code), ("cause", one.cause), ("fault", one.fault.value), ("fix", one.fix)])


def _write_symptoms(symptoms: Sequence[Symptom], *, as_json: bool) -> None:
    """Write what is known about a message; several programs may print the same one."""
    if as_json:
        write_json([symptom._asdict() for symptom in symptoms])
        return
    for number, one in enumerate(symptoms):
        if number:
            click.echo()
        write_rows([("program", one.program), ("prints", one.printed), ("cause", one.cause), ("fix", one.fix)])


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
            (
                "credential",
                f"{report.credential}, client id {report.client_id}" if report.client_id else report.credential,
            ),
            ("token from", report.token_endpoint),
            ("token for", report.target),
            ("sets fields", ", ".join(report.fields)),
            ("client", report.way),
        ]
    )
