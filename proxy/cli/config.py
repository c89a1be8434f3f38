"""`config schema`: the configuration's JSON Schema, for editors. Does no I/O but to stdout."""

from __future__ import annotations

import click

from proxy.cli.terminal import write_json
from proxy.config.settings import Settings


@click.group()
def config() -> None:
    """Tell programs about the configuration file."""


@config.command()
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors and checkers.

    Write it to a file, and let the configuration begin with: # yaml-language-server: $schema=FILE
    """
    found = Settings.model_json_schema()
    # The loader fills in the default of the environment.
    found["required"] = [name for name in found["required"] if name != "state_directory"]
    write_json({**found, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "apim-auth-proxy"})
