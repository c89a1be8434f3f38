"""Makes those files below deploy/ that follow from others: the chart's copies and schema, and the Kustomize base.

Run by `make deploy-files`; check_chart.py and check_kustomize.py hold what is committed equal to what this makes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.deploy.programs import CHART, DEPLOY, ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = CHART / "values.schema.json"
# What the chart writes into the configuration itself.
_WRITTEN_BY_CHART: Final = ("listeners", "admin", "interception", "state_directory")


def make_files() -> dict[Path, str]:
    """Return the text of each file that the chart has from elsewhere."""
    return {
        CHART / "files/alerts.yml": (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"),
        CHART / "files/dashboard.json": (DEPLOY / "grafana/apim-auth-proxy.json").read_text(encoding="utf-8"),
        SCHEMA: make_schema(SCHEMA.read_text(encoding="utf-8"), _product_schema()),
    }


def make_schema(text: str, product: dict[str, Any]) -> str:
    """Return the schema of the values, in which `config` is what the product says that it reads."""
    schema = json.loads(text)
    properties = {name: of for name, of in product["properties"].items() if name not in _WRITTEN_BY_CHART}
    schema["properties"]["config"] = {
        "description": "The proxy's configuration, with the keys of config.example.yaml; the chart itself writes "
        f"{', '.join(_WRITTEN_BY_CHART[:-1])} and {_WRITTEN_BY_CHART[-1]}.",
        "type": "object",
        "additionalProperties": False,
        "required": ["credentials", "routes"],
        "properties": properties,
    }
    unused = {"ListenerSettings", "ListenerTlsSettings", "ListenerMode", "AdminSettings", "InterceptionSettings"}
    schema["$defs"] = {name: of for name, of in product["$defs"].items() if name not in unused}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _product_schema() -> dict[str, Any]:
    command = [sys.executable, "-m", "proxy", "config", "schema"]
    schema: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout)
    return schema


if __name__ == "__main__":
    for path, text in make_files().items():
        path.write_text(text, encoding="utf-8")
