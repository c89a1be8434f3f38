"""`wait`: block until a proxy is ready, for start order in scripts and containers. Asks the admin site over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Final

import click

from proxy.cli.options import ConfiguredCommand, json_option, takes_configuration
from proxy.cli.terminal import say, write_json
from proxy.config.addresses import parse_listen_address
from proxy.config.faults import as_sentence
from proxy.config.loading import load_settings

if TYPE_CHECKING:
    from proxy.config.source import Source

_DEFAULT_ADDRESS: Final = "127.0.0.1:9901"
_PAUSE_S: Final = 0.1
# One question to a busy machine, where the last one tells what is missing.
_ANSWER_S: Final = 10.0


@click.command(cls=ConfiguredCommand)
@takes_configuration(required=False)
@click.option("--address", metavar="HOST:PORT", help="Address of the admin site. Overrides the configuration.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="How many seconds to wait.",
)
@json_option
def wait(config: Source | None, address: str | None, timeout_s: float, as_json: bool) -> None:
    """Wait until the proxy is ready (its /readyz returns 200). Exits with 0 when it is, and 1 if it takes too long."""
    host, _, port = (address or _admin_address(config)).rpartition(":")
    if not port.isdecimal():
        raise click.UsageError("--address is HOST:PORT, such as 127.0.0.1:9901.")
    give_up_at = time.monotonic() + timeout_s
    while True:
        reasons = ask(host.strip("[]"), int(port))
        if not reasons or time.monotonic() >= give_up_at:
            break
        time.sleep(_PAUSE_S)
    if as_json:
        write_json({"ready": not reasons, "reasons": reasons})
    elif reasons:
        say(as_sentence(f"The proxy is not ready after {timeout_s:g} s: {'; '.join(reasons)}"))
    sys.exit(1 if reasons else 0)


def ask(host: str, port: int) -> list[str]:
    """Return what is missing for readiness; nothing where the proxy is ready."""
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        content = answer.read()
        if answer.status == http.HTTPStatus.OK:
            return []
        reasons = json.loads(content).get("reasons")
        return [str(reason) for reason in reasons] or [f"it answers {answer.status}"]
    except (http.client.HTTPException, ValueError, AttributeError, TypeError):
        return [f"what answers at {host}:{port} is not the admin site"]
    except OSError:
        return [f"nothing answers at {host}:{port}"]
    finally:
        connection.close()


def _admin_address(config: Source | None) -> str:
    if config is None:
        return _DEFAULT_ADDRESS
    settings = load_settings(config, os.environ, check_files=False)
    if settings.admin is None or parse_listen_address(settings.admin.address).port == 0:
        raise click.ClickException(
            "The configuration has no admin site at a fixed port to ask; name it with --address."
        )
    address = parse_listen_address(settings.admin.address)
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # one can listen there, not connect
    return f"{wildcard.get(address.host, address.host)}:{address.port}"
