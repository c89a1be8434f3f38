"""`check`: the doctor's findings as lines or JSON. Does I/O through `proxy.doctor`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import hang, paint, say, silence_logging, width, write_json
from proxy.config.routed_hosts import routed_hosts
from proxy.doctor.findings import Level
from proxy.doctor.offline import check_configuration, check_offline
from proxy.doctor.online import check_online

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from proxy.config.settings import Settings
    from proxy.config.source import Source
    from proxy.doctor.findings import Finding

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "red"}


@click.command(cls=ConfiguredCommand)
@takes_configuration()
@click.option("--online", is_flag=True, help="Also request tokens, and call each API once.")
@click.option(
    "--path", default="/", show_default=True, metavar="PATH", help="With --online: the path to call on each API."
)
@json_option
def check(config: Source, online: bool, path: str, as_json: bool) -> None:
    """Check a configuration, and say how to fix what is wrong.

    Prints one line per finding: ok, warning or error. Exits with 0 if there are no errors (warnings do not count), 1 if there
    are, and 2 if the configuration cannot be loaded.
    """
    if not path.startswith("/") or not path.isascii() or any(letter <= " " or letter == "\x7f" for letter in path):
        raise click.UsageError("--path takes a path that begins with '/', percent-encoded: /orders/health")
    silence_logging()
    findings: list[Finding] = []
    write = _write_line if not as_json else _keep_quiet
    settings, faults = check_configuration(config, os.environ)
    _take(faults, findings, write)
    if settings is not None:
        _check_settings(settings, path if online else None, findings, write)
    levels = Counter(finding.level for finding in findings)
    if as_json:
        write_json(
            {
                "ok": not levels[Level.ERROR],
                "errors": levels[Level.ERROR],
                "warnings": levels[Level.WARNING],
                "findings": [asdict(finding) for finding in findings],
            }
        )
    say(_summarise(levels[Level.ERROR], levels[Level.WARNING], online=online))
    if any(finding.level is Level.ERROR for finding in faults):
        sys.exit(2)
    sys.exit(1 if levels[Level.ERROR] else 0)


def _check_settings(
    settings: Settings, path: str | None, findings: list[Finding], write: Callable[[Finding], None]
) -> None:
    now = datetime.now(UTC)
    _take(check_offline(settings, routed_hosts(settings), now), findings, write)
    if path is not None:
        asyncio.run(_check_online(settings, path, now, findings, write))


async def _check_online(
    settings: Settings, path: str, now: datetime, findings: list[Finding], write: Callable[[Finding], None]
) -> None:
    async for finding in check_online(settings, path, now):
        _take([finding], findings, write)


def _take(found: Iterable[Finding], findings: list[Finding], write: Callable[[Finding], None]) -> None:
    for finding in found:
        findings.append(finding)
        write(finding)


def _write_line(finding: Finding) -> None:
    text = f"{finding.subject}: {finding.message}"
    if finding.advice:
        text += f" {finding.advice}"
    level = f"{finding.level.value:<7}  "
    line = hang(level, text, width(sys.stdout))
    click.echo(paint(level, sys.stdout, fg=_COLOURS[finding.level], bold=True) + line[len(level) :])


def _keep_quiet(_finding: Finding) -> None:
    """JSON is written at the end, as a whole."""


def _summarise(errors: int, warnings: int, *, online: bool) -> str:
    counted = [
        f"{number} {noun}{'' if number == 1 else 's'}"
        for number, noun in ((errors, "error"), (warnings, "warning"))
        if number
    ]
    if errors:
        return f"{' and '.join(counted)}."
    nothing = (
        "Nothing is wrong"
        if online
        else "Nothing is wrong so far. To also request tokens and call the APIs, add --online"
    )
    return (
        f"{nothing}. {counted[0]}, which does not fail the check."
        if warnings == 1
        else (f"{nothing}. {counted[0]}, which do not fail the check." if warnings else f"{nothing}.")
    )
