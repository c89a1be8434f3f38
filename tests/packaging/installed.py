"""Tries an installed package, from an empty directory: the version, the sandbox, and an answer of the API through the proxy.

    python installed.py --compiled | --interpreted

Needs nothing but the package, and runs on every system that there are wheels for; cibuildwheel runs it on each.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import proxy

COMMAND: Final = [sys.executable, "-m", "proxy"]
PATIENCE_S: Final = 120.0
CLIENT: Final = "import urllib.request as u; print(u.urlopen('https://contoso.azure-api.localhost/orders').status)"


def run(*arguments: str, directory: str) -> str:
    """Runs a command of the package and returns what it prints."""
    done = subprocess.run(
        [*COMMAND, *arguments], cwd=directory, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    if done.returncode != 0:
        sys.exit(f"{' '.join(arguments)} exited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def main(form: str) -> None:
    """Tries it."""
    if "site-packages" not in Path(proxy.__file__).parts:
        sys.exit(f"This is no installed package: {proxy.__file__}")
    # Its name has a blank: where sources are named in commands, quoting is tried, too.
    with tempfile.TemporaryDirectory(prefix="first use ") as directory:
        version = run("--version", directory=directory)
        if f"({form} relay, " not in version:
            sys.exit(f"The relay is not {form}: {version}")
        run("init", "--sandbox", directory=directory)
        answer = run("exec", "--", sys.executable, "-c", CLIENT, directory=directory)
        if answer.strip() != "200":
            sys.exit(f"The API answered {answer}")
    sys.stdout.write(version)


if __name__ == "__main__":
    main(sys.argv[1].removeprefix("--"))
