"""`config schema`: the configuration's JSON Schema, for editors. Reads the example that comes with it."""

from __future__ import annotations

import click

from proxy.cli.terminal import write_json
from proxy.config.descriptions import describe_schema, make_schema, read_descriptions, read_example


@click.group()
def config() -> None:
    """Describe the configuration file to editors and other programs."""


@config.command(short_help="Print the JSON Schema of the configuration.")
def schema() -> None:
    """Print the JSON Schema of the configuration, with a description of every key.

    Most editors can use it. Write it to a file, and start the configuration with: # yaml-language-server: $schema=FILE
    """
    found = make_schema()
    describe_schema(found, read_descriptions(read_example()))
    # The loader fills in the default of the environment.
    found["required"] = [name for name in found["required"] if name != "state_directory"]
    write_json({**found, "$schema": "https://json-schema.org/draft/2020-12/schema", "title": "apim-auth-proxy"})
