"""One target under atheris, until it breaks or its time is over: ``python -m tests.fuzz.engine TARGET [libFuzzer options]``."""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # installed for fuzzing only

with atheris.instrument_imports(include=["proxy", "yaml", "idna"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Never returns: the engine ends the process."""
    target = TARGETS[sys.argv.pop(1)]
    atheris.Setup(sys.argv, target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
