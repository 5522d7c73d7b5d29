"""`make crashtest`: strike the daemon at every point of a workload, and hold it to what it promised.

At each point a process is killed, or a system call of it fails: of the daemon while it writes its registry, creates it
or answers, of its launcher, of the shims of its agents. Then it is started again, and nothing that it acknowledged may
be lost, nothing done twice, nothing stuck, nothing inconsistent. Needs strace.

    make crashtest                                  1,200 points: kills, faults, and torn logs
    make crashtest ARGS="--points 5000 --seed 7"    more of them, others first
    make crashtest ARGS="--only kill"               kill, fault or torn
    make crashtest ARGS="--replay registry:pwrite64:kill:417"
"""

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed

from tests.crash import torn
from tests.crash.stage import Point, can_strike
from tests.crash.strikes import Strikes, sample

KINDS = ("kill", "fault", "torn")


def main():
    parser = argparse.ArgumentParser(
        prog="make crashtest", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=1200, metavar="N", help="kills and faults together (1200)")
    parser.add_argument("--seed", type=int, default=None, help="of the choice of points; a chance one by default")
    parser.add_argument("--only", choices=KINDS, help="one kind of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="daemons at once")
    parser.add_argument("--replay", metavar="POINT", action="append", help="this point, as a report names it")
    arguments = parser.parse_args()
    if why := can_strike():
        sys.exit(why)
    seed = random.randrange(1 << 31) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", file=sys.stderr)
    kinds = (arguments.only,) if arguments.only else KINDS
    with Strikes() as strikes:
        if arguments.replay:
            points, kinds = [Point.read(text) for text in arguments.replay], ()
        else:
            points = choose(strikes, kinds, arguments.points, seed)
        outcomes = run(strikes, points, arguments.jobs)
        broken = report(outcomes)
        if "torn" in kinds:
            cuts, wrong = torn.run(strikes.folder)
            print(f"{'torn logs':38} {cuts:6} cuts {len(wrong):17} broken")
            for line in wrong:
                print(line)
            broken += len(wrong)
    sys.exit(1 if broken else 0)


def choose(strikes, kinds, count, seed):
    """Of kills and faults alike many, where there are so many."""
    wanted = [kind for kind in kinds if kind != "torn"]
    points = []
    for kind in wanted:
        all_points = strikes.points(faults=kind == "fault")
        print(f"{len(all_points)} points of kind {kind}", file=sys.stderr)
        points += sample(all_points, count // len(wanted), seed)
    return points


def run(strikes, points, jobs):
    outcomes, began = [], time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        for future in as_completed([pool.submit(strikes.strike, point) for point in points]):
            outcome = future.result()
            outcomes.append(outcome)
            for line in outcome.broken:
                print(f"{outcome.point}: {line}", file=sys.stderr)
            if len(outcomes) % 50 == 0 or len(outcomes) == len(points):
                spent = time.monotonic() - began
                broken = sum(bool(one.broken) for one in outcomes)
                print(f"{len(outcomes)} of {len(points)} points, {spent:.0f} s, {broken} broken", file=sys.stderr)
    return outcomes


def report(outcomes):
    """A row for each kind of strike: how many broken promises there are."""
    rows = {}
    for outcome in outcomes:
        point = outcome.point
        name = f"{point.family} {point.call} {point.action}{' from then on' if point.lasting else ''}"
        row = rows.setdefault(name, Counter())
        row.update(
            points=1,
            seconds=outcome.seconds,
            struck=outcome.struck,
            broken=bool(outcome.broken),
            ended=outcome.died not in (None, -9),
        )
    if rows:
        print(f"{'strike':38} {'points':>6} {'struck':>7} {'ended':>9} {'broken':>7} {'s each':>7}")
    for name, row in sorted(rows.items()):
        each = row["seconds"] / row["points"]
        print(f"{name:38} {row['points']:6} {row['struck']:7} {row['ended']:9} {row['broken']:7} {each:7.1f}")
    for outcome in outcomes:
        for line in outcome.broken:
            print(f"{outcome.point}: {line}")
        if outcome.broken:
            print(f"    again: make crashtest ARGS='--replay {outcome.point}'")
    return sum(bool(outcome.broken) for outcome in outcomes)


if __name__ == "__main__":
    main()
