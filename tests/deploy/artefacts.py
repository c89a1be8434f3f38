"""Makes those files below deploy/ that follow from others: the charts' schemas, and the chart's copies.

Run by `make deploy-files`; test_artefacts.py holds what is committed equal to what this makes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.deploy.programs import CHART, DEPLOY, LIBRARY, ROOT

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = CHART / "values.schema.json"
LIBRARY_SCHEMA: Final = LIBRARY / "values.schema.json"
# What each chart writes into the configuration itself.
_WRITTEN: Final = {
    SCHEMA: ("listeners", "admin", "interception", "state_directory"),
    LIBRARY_SCHEMA: ("listeners", "admin", "interception", "allow_any_client", "state_directory"),
}


def make_files() -> dict[Path, str]:
    """Return the text of each file that the chart has from elsewhere."""
    product = _product_schema()
    return {
        CHART / "files/alerts.yml": (DEPLOY / "prometheus/alerts.yml").read_text(encoding="utf-8"),
        CHART / "files/dashboard.json": (DEPLOY / "grafana/apim-auth-proxy.json").read_text(encoding="utf-8"),
        LIBRARY / "templates/_rules.tpl": make_rules((DEPLOY / "nftables/sidecar.nft").read_text(encoding="utf-8")),
        **{path: make_schema(path.read_text(encoding="utf-8"), product, own) for path, own in _WRITTEN.items()},
    }


def make_rules(rules: str) -> str:
    """Return the rules of a sidecar as a template: a library's files are out of reach for the chart that includes it."""
    head, port, rest = rules.partition("define proxy_port = 8085\n")
    assert port
    return (
        '{{/* deploy/nftables/sidecar.nft, by `make deploy-files`. */}}\n{{- define "apim-auth-proxy.sidecar.rules" -}}\n'
        f"{head}define proxy_port = {{{{ int .redirected.port }}}}\n{rest}{{{{- end -}}}}\n"
    )


def make_schema(text: str, product: dict[str, Any], own: tuple[str, ...]) -> str:
    """Return the schema of a chart's values, in which `config` is what the product reads, less the chart's own keys."""
    schema = json.loads(text)
    properties = {name: of for name, of in product["properties"].items() if name not in own}
    schema["properties"]["config"] = {
        "description": "The proxy's configuration, with the keys of config.example.yaml; the chart itself writes "
        f"{', '.join(own[:-1])} and {own[-1]}.",
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
