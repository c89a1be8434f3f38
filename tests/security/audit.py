"""Asks for known vulnerabilities of all that the image is built from: ``python -m tests.security.audit [pip-audit options]``.

pip-audit passes over a package that its advisory service does not know, and ends well; behind a mirror without advisories that
is every package. Here nothing counts as audited that was not. Runs pip-audit, which asks PyPI or, with ``--vulnerability-service
osv``, osv.dev. Exit status: 0 audited and clean, 1 vulnerable, 2 not audited.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

ROOT: Final = Path(__file__).resolve().parents[2]
LOCKS: Final = ("requirements.lock", "requirements-build.lock")
_PATIENCE_S: Final = 300


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is to be said of a lock file.

    Attributes:
        status: the exit status.
        lines: for the terminal.
    """

    status: int
    lines: tuple[str, ...]


def expected(lock: str) -> set[str]:
    """The packages that a lock file names for this platform, ``name version``."""
    found = set()
    for line in lock.splitlines():
        if "==" in line and not line.startswith((" ", "#")):
            one = Requirement(line.removesuffix("\\").strip())
            if one.marker is None or one.marker.evaluate():
                (only,) = one.specifier
                found.add(f"{one.name} {only.version}")
    return found


def judge(name: str, packages: set[str], output: str, complaint: str) -> Verdict:
    """Judges what pip-audit printed.

    Args:
        name: of the lock file.
        packages: what had to be audited.
        output: pip-audit's JSON; empty where it failed.
        complaint: what it said besides.
    """
    try:
        found = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = complaint.strip().rpartition("\n")[2] or "it said nothing"
        return Verdict(2, (f"{name}: not audited. pip-audit failed: {last}",))
    audited = {f"{one['name']} {one['version']}" for one in found if "version" in one}
    vulnerable = tuple(
        f"{name}: {one['name']} {one['version']}: {advisory['id']}, fixed in {', '.join(advisory['fix_versions']) or 'no version'}"
        for one in found
        for advisory in one.get("vulns", ())
    )
    if vulnerable:
        return Verdict(1, vulnerable)
    if missing := sorted(packages - audited):
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        advice = "A mirror of PyPI may have no advisories; ARGS='--vulnerability-service osv' asks osv.dev."
        return Verdict(2, (f"{name}: {len(missing)} of {len(packages)} packages were not audited: {some}", advice))
    return Verdict(0, (f"{name}: {len(packages)} packages, no known vulnerability",))


def audit(name: str, options: list[str]) -> Verdict:
    """Runs pip-audit over a lock file."""
    arguments = ["--requirement", str(ROOT / name), "--require-hashes", "--disable-pip", "--format", "json"]
    command = [sys.executable, "-m", "pip_audit", *arguments, "--progress-spinner", "off", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired:
        return Verdict(2, (f"{name}: not audited. The advisory service did not answer within {_PATIENCE_S} s.",))
    return judge(name, expected((ROOT / name).read_text(encoding="utf-8")), done.stdout, done.stderr)


def main() -> int:
    """Audits every lock file; returns the exit status."""
    verdicts = [audit(name, sys.argv[1:]) for name in LOCKS]
    for verdict in verdicts:
        sys.stderr.write("".join(f"{line}\n" for line in verdict.lines))
    statuses = {verdict.status for verdict in verdicts}
    return 1 if 1 in statuses else max(statuses)


if __name__ == "__main__":
    sys.exit(main())
