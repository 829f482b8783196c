#!/usr/bin/env python3
"""Whether a second shard brings as much as the first one.

    sudo benches/scaling.py DIRECTORY > benches/results/DATE-scaling.txt

One shard on core 0 with a share of it (SHARE, 0.3), against two shards on cores 0 and 1 with twice the share; the load generator has what
is left of both cores in either case, and keeps the server busy in a closed loop of 64 clients for each shard. The two take turns, as many
as ROUNDS (5). Needs root, taskset, and `cargo build --release --workspace`.
"""

import os
import statistics
import sys

from limited import Group, Server, begin

SHARE = float(os.environ.get("SHARE", "0.3"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS", "8"))
SCENARIOS = os.environ.get("SCENARIOS", "esmtp full full-resumed early-data").split()
CLIENTS = 64


def turn(folder, shards, scenario):
    """Messages a second, processor time for each in µs, and how busy the generator's cores were."""
    group = Group("scaling", SHARE * shards)
    try:
        server = Server(folder, group, "0,1"[: 2 * shards - 1], "0,1", ["--lateness-max", "0"])
        server.load(scenario, "--connections", "16", "--count", "500")
        report = server.load(scenario, "--connections", str(CLIENTS * shards), "--duration", str(SECONDS))
        server.stop()
    finally:
        group.remove()
    acknowledged = report["total"]["acknowledged"]
    return acknowledged / report["seconds"], report["server"]["cpu_s"] * 1e6 / acknowledged, max(report["generator_busy"])


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"{' '.join(sys.argv)}  SHARE={SHARE} ROUNDS={ROUNDS} SECONDS={SECONDS}")
    directory = begin(sys.argv[1])
    print(f"{'scenario':<14}{'shards':>7}{'messages/s':>12}{'µs each':>9}{'generator':>11}{'times one':>11}  each round")
    for scenario in SCENARIOS:
        turns = {1: [], 2: []}
        for number in range(ROUNDS):
            for shards, found in turns.items():
                found.append(turn(directory / f"{scenario}-{number}-{shards}", shards, scenario))
        ratio = statistics.median(two[0] / one[0] for one, two in zip(turns[1], turns[2]))
        for shards, found in turns.items():
            rate, cost, busy = (statistics.median(sample) for sample in zip(*found))
            each = " ".join(f"{sample[0]:.0f}" for sample in found)
            times = f"{ratio:.2f}" if shards == 2 else ""
            print(f"{scenario:<14}{shards:>7}{rate:>12.0f}{cost:>9.0f}{busy:>11.0%}{times:>11}  {each}", flush=True)


main()
