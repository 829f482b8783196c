"""A server that has a share of its cores, and the load generator beside it: what overload.py and scaling.py stand on.

A client costs its core more than its server does, so a server that has a core of its own cannot be kept busy by a generator that has the
other one. With less than a core, it can. Needs root, taskset, and `cargo build --release --workspace`.
"""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "target/release"
PERIOD_US = 5_000


class Group:
    """A control group that gives its members so much processor time, in cores."""

    def __init__(self, name, cores):
        self.name = f"onetrip-{name}-{os.getpid()}"
        quota = int(PERIOD_US * cores)
        first = pathlib.Path("/sys/fs/cgroup/cpu")
        if first.is_dir():
            self.path = first / self.name
            self.path.mkdir()
            (self.path / "cpu.cfs_period_us").write_text(str(PERIOD_US))
            (self.path / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            second = pathlib.Path("/sys/fs/cgroup")
            (second / "cgroup.subtree_control").write_text("+cpu")
            self.path = second / self.name
            self.path.mkdir()
            (self.path / "cpu.max").write_text(f"{quota} {PERIOD_US}")

    def join(self):
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self):
        for _ in range(100):
            try:
                return self.path.rmdir()
            except OSError:
                time.sleep(0.05)


class Server:
    """A server with a shard on each of these cores, within a group if there is one, and the load generator on others."""

    def __init__(self, folder, group, cores, generator_cores, flags):
        self.generator_cores = generator_cores
        self.folder, state = folder, folder / "state"
        folder.mkdir(parents=True)
        (folder / "password").write_text("a-password-to-measure-with\n")
        with open(folder / "password", encoding="ascii") as password:
            added = [PROGRAMS / "onetrip", "user", "add", "load", "--state-dir", state]
            subprocess.run(added, stdin=password, stdout=subprocess.DEVNULL, check=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        command = ["taskset", "-c", cores, PROGRAMS / "onetrip", "serve", "--state-dir", state, "--listen", self.address]
        command += ["--hostname", "localhost", "--cores", cores, "--sync", "commit", "--deliver", "discard"]
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([*command, *flags], stderr=self.log, preexec_fn=group and group.join)
        while b" ready " not in (folder / "log").read_bytes():
            if self.process.poll() is not None:
                sys.exit(f"the server does not start: see {folder / 'log'}")
            time.sleep(0.02)

    def command(self, scenario, *load):
        """A run of the load generator, to be started."""
        command = ["taskset", "-c", self.generator_cores, PROGRAMS / "onetrip-loadgen", "run", self.address, "--user", "load"]
        command += ["--password-file", self.folder / "password", "--tls", "1.3", "--cores", self.generator_cores, "--size", "4k"]
        return [*command, "--scenario", scenario, *load]

    def load(self, scenario, *load):
        """A run of the load generator; its report."""
        report = self.folder / "report.json"
        command = self.command(scenario, "--server-pid", str(self.process.pid), "--json", report, *load)
        report.unlink(missing_ok=True)
        # It looks at the server first, which a server that is still late refuses; and it says by its exit code that clients were refused.
        for _ in range(20):
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            if report.exists():
                return json.loads(report.read_text())
            time.sleep(0.2)
        sys.exit(f"no run succeeds: {command}")

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()
        self.log.close()


def final_reply(report):
    """Percentiles of the time to the final reply in ms: p50 and p99."""
    final = next(phase for phase in report["total"]["phases"] if phase["name"] == "final-reply")
    at = dict((percentile, time_us / 1000) for percentile, time_us in final["curve"])
    return at[50.0], at[99.0]


def begin(root):
    """A directory of this run below the one that was named, after a line that says what runs where."""
    load = os.getloadavg()[0]
    print(f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {os.uname().sysname} {os.uname().release}, load {load:.1f}")
    return pathlib.Path(root) / f"limited-{os.getpid()}"
