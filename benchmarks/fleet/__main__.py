"""`make simulate-fleet`: writes benchmarks/fleet.md and benchmarks/fleet.svg."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks.fleet.model import PlatformSettings
from benchmarks.fleet.report import draw, format_report
from benchmarks.fleet.stories import STORIES, tell

_HERE = Path(__file__).resolve().parents[1]


def main() -> None:
    """Tell every story for every size of fleet."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    parser.add_argument("--replicas", default="1,100,1000", help="sizes of the fleet")
    parser.add_argument("--limit", type=int, default=PlatformSettings().limit, help="requests in 10 s; 0: any number")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, default=_HERE, help="where fleet.md and fleet.svg are written")
    chosen = parser.parse_args()
    platform = PlatformSettings(limit=chosen.limit or None)
    outcomes = []
    for story in STORIES:
        sizes = [int(size) for size in chosen.replicas.split(",")]
        for replicas in (size for size in sizes if size <= story.largest):
            for is_shared in (False, True) if replicas > 1 else (False,):
                began = time.monotonic()
                outcome = tell(story, replicas, is_shared=is_shared, platform=platform, seed=chosen.seed)
                outcomes.append(outcome)
                sys.stderr.write(f"{outcome} in {time.monotonic() - began:.1f} s\n")
    (chosen.output / "fleet.md").write_text(format_report(outcomes, platform), encoding="utf-8")
    (chosen.output / "fleet.svg").write_text(draw(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main()
