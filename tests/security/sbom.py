"""Writes a CycloneDX bill of materials of an environment: ``python -m tests.security.sbom ENVIRONMENT FILE``.

The environment is one that was installed as the image's is; what is in it has to be what the lock file says, no more and no
less, and what is written has to hold to CycloneDX's schema. Runs cyclonedx-py, and writes the file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

from proxy import __version__
from tests.security.audit import ROOT, expected

_SPECIFICATION: Final = "1.6"


def complete(bill: dict[str, Any]) -> dict[str, Any]:
    """Names the product's version, which pyproject.toml leaves to the build, and with it the package it is."""
    component = bill["metadata"]["component"]
    whole = {**component, "version": __version__, "purl": f"pkg:pypi/{component['name']}@{__version__}"}
    return {**bill, "metadata": {**bill["metadata"], "component": whole}}


def differences(bill: dict[str, Any], packages: set[str]) -> list[str]:
    """What the lock file has and the bill has not, and the other way round."""
    listed = {f"{canonicalize_name(one['name'])} {one['version']}" for one in bill.get("components", ())}
    wanted = {" ".join((canonicalize_name(name), version)) for name, version in (one.split(" ") for one in packages)}
    missing = [f"{one} is in the lock and not in the environment" for one in sorted(wanted - listed)]
    return missing + [f"{one} is in the environment and not in the lock" for one in sorted(listed - wanted)]


def main() -> int:
    """Writes the bill; returns the exit status."""
    from cyclonedx.schema import SchemaVersion  # type: ignore[import-not-found,unused-ignore]  # installed for `make sbom` only
    from cyclonedx.validation.json import JsonStrictValidator  # type: ignore[import-not-found,unused-ignore]

    environment, file = sys.argv[1], Path(sys.argv[2])
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--spec-version", _SPECIFICATION, "--output-reproducible"]
    command = [sys.executable, "-m", "cyclonedx_py", "environment", *options, environment]
    # The environment's interpreter is asked what it has; what this one was told to find besides is none of its own.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environ)
    bill = complete(json.loads(done.stdout))
    text = json.dumps(bill, indent=2, sort_keys=True) + "\n"
    faults = differences(bill, expected((ROOT / "requirements.lock").read_text(encoding="utf-8")))
    fault = JsonStrictValidator(SchemaVersion.from_version(_SPECIFICATION)).validate_str(text)
    faults += [str(fault)] if fault is not None else []
    for one in faults:
        sys.stderr.write(f"{one}\n")
    if faults:
        return 1
    file.write_text(text, encoding="utf-8")
    sys.stderr.write(f"{file}: {len(bill['components'])} components, CycloneDX {_SPECIFICATION}, valid\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
