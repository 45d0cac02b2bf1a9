"""The bus beside its floor and its peers, in one run on one machine: `python -m benchmarks [--quick] [--json PATH]`.

Every measurement has a server of its own, with its data on disk and synced, and real worker processes. The systems take
turns, so that a neighbour's load falls on all of them; what is printed are medians, and the least and the most.
"""

import argparse
from dataclasses import asdict
from pathlib import Path

from benchmarks import beside, environments, results, tables
from benchmarks.suite import FULL, QUICK, Suite


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller and fewer runs: under 5 minutes")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--without-peers", action="store_true", help="only ours and the floor: nothing to download")
    options = parser.parse_args()
    peer = None if options.without_peers else environments.peer
    about = results.place()
    found = Suite(QUICK if options.quick else FULL, peer).measure()
    lines = [*tables.report(found), *beside.report(quick=options.quick), *results.foot(about)]
    print("\n".join(lines))
    goals = [{**asdict(goal), "met": goal.met} for goal in tables.goals(found)]
    whole = {
        **about,
        "quick": options.quick,
        **tables.figures(found),
        "goals": goals,
        "sizes": asdict(found.sizes),
        "spread": tables.spreads(found),
    }
    if options.json is not None:
        print(f"\nfigures: {results.write(whole, options.json)}")
    if not options.quick and peer is not None:
        print(f"\nkept: {results.keep(whole, lines)}")


if __name__ == "__main__":
    main()
