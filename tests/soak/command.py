"""The long proof as one command: python -m tests.soak [--seconds N] [--column ci|soak] [--commands N …].

Bad input, simulated schedules and the campaign share the time. What was wrong is told on standard error, a schedule by
the line that plays it again; its seed goes into the regression file. The last line of standard output is one JSON
object with the figures. Exit code 1 when anything was wrong.
"""

import argparse
import json
import os
import random
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context

from commandbus.auditor import Violation, format_violations
from tests.soak import campaign, hostile, schedules
from tests.soak.figures import COLUMNS, Figures

INPUTS_SHARE, SCHEDULES_SHARE = 0.1, 0.35  # of the time that is left; the campaign has what remains
TARGETS = ("commands", "worker_kills", "postgres_kills", "terminations", "zombies", "schedules", "bad_inputs")
SHOWN = 100


def main(arguments: list[str] | None = None) -> int:
    """Run the soak; returns the exit code."""
    options = _options(arguments)
    seed = random.SystemRandom().randrange(10**9) if options.first is None else options.first
    print(f"seed {seed}: {options.target}", file=sys.stderr, flush=True)
    deadline = time.monotonic() + options.seconds
    figures, wrong = Figures(), list[Violation]()
    wrong += _bad_inputs(options, seed, deadline, figures)
    wrong += _schedules(options, seed, deadline, figures)
    if options.target.commands:
        counted, found = campaign.play(
            options.target,
            max(1.0, deadline - time.monotonic()),
            seed,
            is_fenced=not options.without_fence,
        )
        figures.add(counted)
        wrong += found
    figures.violations = len(wrong)
    if wrong:
        print(format_violations(wrong[:SHOWN]), file=sys.stderr, flush=True)
    print(json.dumps(figures.as_dict()), flush=True)
    return 1 if wrong else 0


def _bad_inputs(options: argparse.Namespace, seed: int, deadline: float, figures: Figures) -> list[Violation]:
    seconds, processes = _share(deadline, INPUTS_SHARE), options.processes
    each = -(-options.target.bad_inputs // processes)
    play = partial(hostile.play_share, count=each, seconds=seconds)
    wrong = list[Violation]()
    if each:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for count, found in pool.map(play, range(seed, seed + processes)):
                figures.bad_inputs += count
                wrong += found
    return wrong


def _schedules(options: argparse.Namespace, seed: int, deadline: float, figures: Figures) -> list[Violation]:
    seconds, processes = _share(deadline, SCHEDULES_SHARE), options.processes
    seeds = [range(seed + n, seed + options.target.schedules, processes) for n in range(processes)]
    play = partial(schedules.play_share, seconds=seconds, is_fenced=not options.without_fence)
    wrong = list[Violation]()
    if options.target.schedules:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            for count, failures in pool.map(play, seeds):
                figures.schedules += count
                wrong += [violation for failure in failures for violation in failure.violations]
                if not options.forget:
                    schedules.remember(failures)
    return wrong


def _share(deadline: float, share: float) -> float:
    return max(1.0, share * (deadline - time.monotonic()))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="Try to break the bus.")
    parser.add_argument("--seconds", type=float, default=600.0, help="how long at most (default: %(default)g)")
    parser.add_argument("--column", choices=sorted(COLUMNS), default="soak", help="how much of each is enough")
    for name in TARGETS:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, help="how many, if not the column's")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="at once (default: %(default)d)")
    parser.add_argument("--first", type=int, help="the first seed (default: a new one each time)")
    parser.add_argument("--forget", action="store_true", help="do not write failing seeds into the regression file")
    parser.add_argument("--without-fence", action="store_true", help="take the bus's fence out, to see this fail")
    options = parser.parse_args(arguments)
    given = {name: getattr(options, name) for name in TARGETS if getattr(options, name) is not None}
    options.target = replace(COLUMNS[options.column], **given)
    return options
