#!/usr/bin/env python3
"""A hundred thousand clients that have logged in, have sent one message and are silent: what they take, and what others notice.

    benches/crowd.py DIRECTORY > benches/results/DATE-crowd.txt

A process has only so many descriptors (ulimit -n), so SERVERS (6) servers of one shard each share CLIENTS (100,000); nothing is
shared by shards that would make it another thing within one process. They log in one after the other, RATE (400) a second.
Memory is VmRSS of /proc/PID/status, all servers together, the program included; the kernel's part is what MemAvailable of
/proc/meminfo loses besides, sockets of both ends, as the clients are on the same machine. Others are an open loop of OTHERS (50)
sessions a second of plain ESMTP at the first server, ROUNDS (5) times before and as often beside the silent ones. Needs taskset,
and `cargo build --release --workspace`.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import time

from limited import Server, begin, final_reply

SERVERS = int(os.environ.get("SERVERS", "6"))
CLIENTS = int(os.environ.get("CLIENTS", "100000")) // SERVERS
RATE = os.environ.get("RATE", "400")
OTHERS = os.environ.get("OTHERS", "50")
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = os.environ.get("SECONDS", "10")
HOUR_MS, DAY_S = "3600000", "86400"


def resident(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def available():
    return next(int(line.split()[1]) for line in open("/proc/meminfo", encoding="ascii") if line.startswith("MemAvailable"))


def connections(process):
    fds = pathlib.Path(f"/proc/{process.pid}/fd")
    return sum(os.readlink(fd).startswith("socket:") for fd in fds.iterdir()) - 2


def others(server):
    return final_reply(server.load("esmtp", "--rate", OTHERS, "--duration", SECONDS))


def told(when, rounds):
    p50, p99 = (statistics.median(one) for one in zip(*rounds))
    each = " ".join(f"{one[1]:.1f}" for one in rounds)
    print(f"others {when}: p50 {p50:.1f} ms, p99 {p99:.1f} ms (each round: {each})", flush=True)


def fill(server):
    load = ["--rate", RATE, "--count", str(CLIENTS), "--messages", "2", "--think-time", HOUR_MS, "--sources", "4"]
    generator = subprocess.Popen(server.command("full", *load), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while connections(server.process) < CLIENTS:
        if generator.poll() is not None:
            sys.exit("the load generator has ended: is its limit of descriptors too low?")
        time.sleep(1)
    return generator


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(f"{' '.join(sys.argv)}  SERVERS={SERVERS} CLIENTS={CLIENTS * SERVERS} RATE={RATE} OTHERS={OTHERS}")
    directory = begin(sys.argv[1])
    flags = ["--idle-timeout", DAY_S, "--connections-per-address-max", "100000"]
    servers = [Server(directory / str(number), None, "0", "1", flags) for number in range(SERVERS)]
    for server in servers:
        server.load("full", "--connections", "200", "--count", "400")
    time.sleep(1)
    others(servers[0])
    told("before", [others(servers[0]) for _ in range(ROUNDS)])
    before, free = [resident(server.process) for server in servers], available()
    generators = [fill(server) for server in servers]
    # Of what is left, only the silent ones count.
    time.sleep(5)
    full, left = [resident(server.process) for server in servers], available()
    generator_kib = sum(resident(generator) for generator in generators)
    told("beside", [others(servers[0]) for _ in range(ROUNDS)])
    count = sum(connections(server.process) for server in servers)
    for generator in generators:
        generator.kill()
    for server in servers:
        server.stop()
    each = (sum(full) - sum(before)) * 1024 / count
    kernel = (free - left - (sum(full) - sum(before)) - generator_kib) * 1024 / count
    print(f"{count} silent clients: {sum(full) / 1048576:.2f} GiB resident of {SERVERS} servers, {sum(before) / 1048576:.2f} before")
    print(f"{each:.0f} bytes for each; {kernel:.0f} of the kernel's for both ends of a connection")


main()
