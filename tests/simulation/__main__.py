"""Plays as many exchanges as asked for: ``make simulate SEED=1 EXCHANGES=100000``. Ends with 1 where a promise was broken."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.run import hash_of, play, search

if TYPE_CHECKING:
    from tests.simulation.world import Story, World


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", default=secrets.token_hex(4), help="what everything is drawn from")
    parser.add_argument("--exchanges", type=int, default=10_000)
    parser.add_argument(
        "--hash", action="store_true", help="print what two runs of the seed have in common, and nothing else"
    )
    arguments = parser.parse_args()
    hashes: list[str] = []
    outcomes: Counter[str] = Counter()
    virtual_s = 0.0

    def note(story: Story) -> World:
        nonlocal virtual_s
        world = play(story)
        virtual_s += world.loop.now - 1_000
        outcomes.update(record.outcome for records in world.records.values() for record in records)
        if arguments.hash:
            hashes.append(hash_of(world))
        return world

    began = time.process_time()
    found = search(arguments.seed, arguments.exchanges, note)
    if arguments.hash:
        sys.stdout.write("".join(f"{each}\n" for each in hashes))
    elif found is None:
        sys.stdout.write(
            f"Seed {arguments.seed}: {arguments.exchanges:,} exchanges, {virtual_s / 3600:.1f} virtual hours, "
            f"{time.process_time() - began:.0f} s of CPU. Every promise was kept.\n"
        )
        sys.stdout.write("".join(f"  {count:9,}  {outcome}\n" for outcome, count in outcomes.most_common()))
    if found is not None:
        sys.stderr.write(found.describe() + "\n")
    return found is not None


if __name__ == "__main__":
    sys.exit(main())
