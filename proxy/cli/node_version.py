"""Whether a program is a Node.js that reads no proxy variables. Does I/O: looks at the program, asks Node its version."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NODES: Final = frozenset({"node", "nodejs"})
_VERSION: Final = re.compile(r"v(\d+)\.(\d+)\.\d+")
_SHEBANG: Final = re.compile(rb"#![^\n]*\bnode(?:js)?\b")
_PATIENCE_S: Final = 5.0


def describe_bypass(version: str) -> str | None:
    """Return what to say of a Node.js that bypasses the proxy in part or whole; None for one that does not.

    Source: Node.js' documentation of NODE_USE_ENV_PROXY and of `http.Agent`'s option proxyEnv, "History".
    """
    found = _VERSION.match(version)
    if found is None:
        return None
    number = int(found[1]), int(found[2])
    if (22, 21) <= number < (23, 0) or number >= (24, 5):
        return None
    what = "node:http and node:https" if number >= (24, 0) else "fetch, node:http and node:https"
    return (
        f"Node.js {version} reads no proxy variables for {what}, so their requests bypass the proxy. Use 22.21 or later, or 24.5 "
        "or later; or undici's EnvHttpProxyAgent; or `node --require global-agent/bootstrap`, with GLOBAL_AGENT_HTTP_PROXY."
    )


def find_bypass(command: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return what to say of a program to be run; None where it is no Node.js, or one that uses the proxy."""
    path = environ.get("PATH")
    program = shutil.which(command[0], path=path)
    if program is None:
        return None
    node = program if Path(command[0]).name in _NODES else None
    if node is None and _is_script_for_node(Path(program)):
        node = shutil.which("node", path=path)
    if node is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        asked = subprocess.run(  # noqa: S603  # the program that the user wants to run
            [node, "--version"], capture_output=True, check=False, timeout=_PATIENCE_S, env=dict(environ)
        )
        return describe_bypass(asked.stdout.decode("ascii", "replace").strip())
    return None


def _is_script_for_node(program: Path) -> bool:
    with contextlib.suppress(OSError), program.open("rb") as file:
        return _SHEBANG.match(file.readline(256)) is not None
    return False
