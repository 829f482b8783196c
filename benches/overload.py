#!/usr/bin/env python3
"""What a shard does when more is asked of it than it can do: twice as much, and three times.

    sudo benches/overload.py DIRECTORY > benches/results/DATE-overload.txt

One core cannot ask for twice what another can do: a client costs more than its server. So the server gets a share of its core
(SHARE, 0.3), by a control group of its own, and the load generator has the other core. In rounds, for each scenario: what the
server can do (a closed loop of 64 clients), an open loop of a multiple of that, and what it can do again, because a machine is
not as fast at all times: the mean of both is the peak that the open loop is held against. Each with the bounds on lateness of BOUNDS in
ms: the default, and none. Medians of the rounds count. Needs root, taskset, and `cargo build --release --workspace`.
"""

import os
import statistics
import sys

from limited import Group, Server, begin, final_reply

SHARE = float(os.environ.get("SHARE", "0.3"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = int(os.environ.get("SECONDS", "12"))
# Not of those who return with a ticket: one that is refused has spent it, and a full handshake comes next time.
SCENARIOS = os.environ.get("SCENARIOS", "esmtp full").split()
BOUNDS = [int(bound) for bound in os.environ.get("BOUNDS", "100 0").split()]
FACTORS = [float(factor) for factor in os.environ.get("FACTORS", "0.8 1.2 2 3").split()]
# The beginning of a run, in which nobody waits yet, is left out of what a second brings.
SETTLING_S = 3


def capacity(server, scenario):
    """Messages a second in a closed loop."""
    report = server.load(scenario, "--connections", "64", "--duration", str(SECONDS // 3))
    return report["total"]["acknowledged"] / report["seconds"]


def figures(report):
    """Messages a second once it has settled, times of those in ms, who was refused, and whose limit it was."""
    whole = [second for second in report["course"] if SETTLING_S <= second["at_s"] < SECONDS]
    goodput = sum(second["acknowledged"] for second in whole) / max(len(whole), 1)
    errors = sum(second["errors"] for second in report["course"])
    return goodput, *final_reply(report), errors / SECONDS, max(report["generator_busy"])


def bar(value, most, width):
    return "█" * round(width * value / most)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"{' '.join(sys.argv)}  SHARE={SHARE} ROUNDS={ROUNDS} SECONDS={SECONDS} FACTORS={FACTORS} BOUNDS={BOUNDS}")
    directory = begin(sys.argv[1])
    group = Group("overload", SHARE)
    try:
        for scenario in SCENARIOS:
            measure(scenario, directory, group)
    finally:
        group.remove()


def measure(scenario, directory, group):
    can, found = [], {}
    for turn in range(ROUNDS):
        for bound in BOUNDS:
            flags = ["--lateness-max", str(bound)]
            server = Server(directory / f"{scenario}-{turn}-{bound}", group, "0", "1", flags)
            server.load(scenario, "--connections", "16", "--count", "500")
            before = capacity(server, scenario)
            can.append(before)
            for factor in FACTORS:
                report = server.load(scenario, "--rate", f"{factor * before:.0f}", "--duration", str(SECONDS))
                after = capacity(server, scenario)
                goodput, *others = figures(report)
                found.setdefault((bound, factor), []).append((goodput / ((before + after) / 2), goodput, *others))
                can.append(before := after)
            server.stop()
    print(f"\n{scenario}: {statistics.median(can):.0f} messages/s in a closed loop (from {min(can):.0f} to {max(can):.0f})")
    head = f"{'asked':>7}  {'bound':>6}{'messages/s':>11}{'of peak':>9}{'p50 ms':>9}{'p99 ms':>9}{'refused/s':>11}{'generator':>11}  each round"
    print(head)
    found = sorted(found.items(), reverse=True)
    for (bound, factor), samples in found:
        of_peak, goodput, p50, p99, refused, busy = medians(samples)
        spread = " ".join(f"{sample[0]:.0%}" for sample in samples)
        print(f"{factor:>6.1f}x  {bound:>6}{goodput:>11.0f}{of_peak:>9.0%}{p50:>9.0f}{p99:>9.0f}{refused:>11.0f}{busy:>11.0%}  {spread}")
    print("\nmessages/s, of the peak                       99th percentile of the time to the final reply, ms")
    slowest = max(medians(samples)[3] for _, samples in found)
    for (bound, factor), samples in found:
        of_peak, _, _, p99, _, _ = medians(samples)
        print(f"{bound or 'none':>8} {factor:.1f}x {bar(of_peak, 1.1, 30):<31}{of_peak:>5.0%}  {bar(p99, slowest, 30):<31}{p99:.0f}")


def medians(samples):
    return [statistics.median(sample) for sample in zip(*samples)]


main()
