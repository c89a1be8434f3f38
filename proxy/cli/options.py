"""The options that several commands share, each with one name and one meaning. Does no I/O."""

from __future__ import annotations

from pathlib import Path

import click

config_option = click.option(
    "--config", "config", required=True, metavar="FILE", type=click.Path(path_type=Path), help="The configuration file."
)
optional_config_option = click.option(
    "--config", "config", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Write JSON, for programs.")
