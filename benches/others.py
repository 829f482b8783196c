#!/usr/bin/env python3
"""What a submission costs Postfix, Exim, OpenSMTPD and onetrip, measured in the same way, one after the other.

    sudo benches/others.py [--rounds N] [SERVER...] > benches/results/DATE-others.txt

Needs root, Linux with cgroup 2, `tests/other_servers/fetch` and `cargo build --release --workspace`. Servers take
turns, round after round. The server has processor 0 and the load generator processor 1, both with the lowest nice
value. A server's processor time is that of a control group: all its processes, those that have ended too, until they
are quiet. Method: benches/README.md. It changes nothing outside of target/others, and its servers end with it.
"""

import argparse
import base64
import json
import os
import pathlib
import re
import shutil
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = ROOT / "target"
FOLDER = TARGET / "others"
PROGRAMS = TARGET / "release"
HOSTNAME, USER, PASSWORD = "localhost", "load", "secret"

# Sessions of one run, and clients at the same time. OpenSMTPD listens with a backlog of 5.
SESSIONS = 600
CLIENTS = {"opensmtpd": 4}
CLIENTS_OTHERWISE = 16
# Connections that lie idle, and seconds from the last message.
IDLE = 200
IDLE_BEGUN_PER_SECOND = 50
IDLE_SETTLES_SECONDS = 3
# Longest wait for a server.
PATIENCE_SECONDS = 30

SCENARIOS = {
    "postfix": ["esmtp"],
    "exim": ["esmtp"],
    "opensmtpd": ["esmtp"],
    "onetrip": ["esmtp", "full-resumed", "early-data"],
}
HELD = {
    "postfix": "hold queue (check_recipient_access static:HOLD)",
    "exim": "queue_only",
    "opensmtpd": "smtpctl pause mta",
    "onetrip": "--sync commit, then --deliver discard",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("servers", nargs="*", metavar="SERVER", default=list(SCENARIOS), help=", ".join(SCENARIOS))
    arguments = parser.parse_args()
    print_surroundings()
    runs, versions = [], {}
    for number in range(1, arguments.rounds + 1):
        for name in arguments.servers:
            try:
                versions[name], more = measure(name, number)
                runs += more
            except Unavailable as reason:
                print(f"# {name} was left out: {reason}", flush=True)
    print_table(runs, versions)


class Unavailable(Exception):
    """A server cannot be run here, with the reason."""


# ── One server ──────────────────────────────────────────────────────────────────────────────────────────────────────


def measure(name, number):
    """Starts a server, puts it under each load, and returns its version and the runs."""
    shutil.rmtree(FOLDER / name, ignore_errors=True)
    folder = FOLDER / name
    folder.mkdir(parents=True)
    group = Group(f"onetrip-others-{name}")
    ports = free_ports(2)
    (folder / "password").write_text(PASSWORD + "\n")
    make_certificate(folder)
    process = START[name](folder, ports, group)
    try:
        wait_for_greeting(process, folder, ports[0])
        runs = []
        for scenario in SCENARIOS[name]:
            load(name, ports[0], folder, scenario, ["--count", "40"])
            runs.append(cost(name, number, ports[0], folder, scenario, group))
        runs.append(idle(name, number, ports[0], folder, group))
        version = re.search(r"\d+\.\d+[\w.]*", (folder / "version").read_text()).group()
        return version, runs
    finally:
        stop(process, group)
        shutil.rmtree(folder, ignore_errors=True)


def cost(name, number, port, folder, scenario, group):
    """Processor time of a session."""
    before = group.quiet_cpu_us()
    report = load(name, port, folder, scenario, ["--count", str(SESSIONS)])
    after = group.quiet_cpu_us()
    total = report["total"]
    taken = total["acknowledged"]
    trips = total["round_trips"]
    run = {
        "server": name,
        "load": scenario,
        "cpu_us": (after - before) / max(taken, 1),
        "round_trips": max(trips, key=trips.get) if trips else "-",
    }
    print(
        f"round {number}  {name:<10} {scenario:<13} {taken:>4} of {SESSIONS} messages, errors {total['errors'] or 'none'}, "
        f"resumed {total['resumed']} of {total['handshakes']}, early data {total['early_data_accepted']}, "
        f"{run['round_trips']} round trips, {run['cpu_us']:.0f} us of processor time each",
        flush=True,
    )
    return run


def idle(name, number, port, folder, group):
    """Memory of a connection that has sent a message and waits: the growth of the proportional set size of all processes."""
    before = group.memory_kib()
    think_ms = PATIENCE_SECONDS * 4 * 1000
    more = ["--rate", str(IDLE_BEGUN_PER_SECOND), "--count", str(IDLE), "--messages", "2", "--think-time", str(think_ms)]
    command = load_command(port, folder, "esmtp", more)
    generator = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # Each second it says how many messages were taken so far.
    end = time.monotonic() + PATIENCE_SECONDS * 2
    for line in generator.stderr:
        taken = re.search(r"(\d+) messages", line)
        if (taken and int(taken.group(1)) >= IDLE) or time.monotonic() > end:
            break
    time.sleep(IDLE_SETTLES_SECONDS)
    held = int(taken.group(1)) if taken else 0
    each = (group.memory_kib() - before) / max(held, 1)
    generator.kill()
    generator.wait()
    print(f"round {number}  {name:<10} idle          {held:>4} connections, {each:.1f} KiB each", flush=True)
    return {"server": name, "load": "idle", "kib": each if held >= IDLE * 0.95 else None}


def load(name, port, folder, scenario, more):
    """A run of the load generator; returns its report."""
    more = ["--connections", str(CLIENTS.get(name, CLIENTS_OTHERWISE)), *more]
    report = folder / "report.json"
    command = load_command(port, folder, scenario, [*more, "--json", str(report)])
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0 or not report.exists():
        raise Unavailable(f"the load generator says {done.stdout[-600:]} and the server {log_of(folder)}")
    return json.loads(report.read_text())


def load_command(port, folder, scenario, more):
    command = [PROGRAMS / "onetrip-loadgen", "run", f"127.0.0.1:{port}", "--user", USER, "--password-file"]
    command += [folder / "password", "--scenario", scenario, "--tls", "1.3", "--size", "4k", "--sources", "1"]
    return [*priority(), *map(str, command), "--cores", "1", *more]


def wait_for_greeting(process, folder, port):
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", port), 1) as stream:
                stream.settimeout(5)
                if stream.recv(100).startswith(b"220"):
                    stream.sendall(b"QUIT\r\n")
                    return
        except OSError:
            pass
        time.sleep(0.1)
    raise Unavailable(f"it does not answer: {log_of(folder)}")


def log_of(folder):
    return (folder / "output.log").read_text(errors="replace")[-600:]


def stop(process, group):
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    group.remove()


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def make_certificate(folder):
    """A key on the P-256 curve, for every server."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    command += ["-subj", f"/CN={HOSTNAME}", "-addext", f"subjectAltName=DNS:{HOSTNAME}"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    command += ["-keyout", folder / "key.pem", "-out", folder / "certificate.pem"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    (folder / "key.pem").chmod(0o600)


# ── Control group ───────────────────────────────────────────────────────────────────────────────────────────────────


class Group:
    """Counts what a server's processes use, those that have ended too."""

    def __init__(self, name):
        lines = [line.split() for line in pathlib.Path("/proc/mounts").read_text().splitlines()]
        mounts = [words[1] for words in lines if words[2] == "cgroup2"]
        if not mounts:
            raise Unavailable("cgroup 2 is not mounted")
        self.path = pathlib.Path(mounts[0]) / name
        self.path.mkdir(exist_ok=True)

    def join(self):
        """Called by the process that becomes the server."""
        (self.path / "cgroup.procs").write_text(str(os.getpid()))

    def cpu_us(self):
        for line in (self.path / "cpu.stat").read_text().splitlines():
            if line.startswith("usage_usec "):
                return int(line.split()[1])
        raise Unavailable("cpu.stat has no usage_usec")

    def quiet_cpu_us(self):
        """Processor time once the server does next to nothing more."""
        last = self.cpu_us()
        for _ in range(PATIENCE_SECONDS * 2):
            time.sleep(0.5)
            now = self.cpu_us()
            if now - last < 2_000:
                return now
            last = now
        return last

    def memory_kib(self):
        total = 0
        for pid in (self.path / "cgroup.procs").read_text().split():
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total

    def remove(self):
        for _ in range(50):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.1)


def priority():
    """In front of each command. Not real-time priority: with that a session costs OpenSMTPD a whole time slice of it, 100 ms."""
    return ["nice", "-n", "-20"]


def spawn(command, folder, group, **more):
    with open(folder / "output.log", "w") as log:
        command = [*priority(), "taskset", "-c", "0", *map(str, command)]
        return subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=group.join, **more)


def enter(server, script, folder, group):
    """Runs a script where the fetched server seems to be installed."""
    installed = TARGET / "other-servers" / server
    if not installed.is_dir():
        raise Unavailable(f"{installed} is not there: run tests/other_servers/fetch")
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", ROOT / "tests/other_servers/enter", installed, folder]
    # No server shall ask anybody for the names of its clients.
    quiet = "echo nameserver 127.0.0.1 > /etc/resolv.conf\n"
    return spawn([*command, "sh", "-ec", quiet + script], folder, group, stdin=subprocess.PIPE)


# ── How each is set up ──────────────────────────────────────────────────────────────────────────────────────────────


def start_onetrip(folder, ports, group):
    program, state = PROGRAMS / "onetrip", folder / "state"
    added = [program, "user", "add", USER, "--state-dir", state]
    subprocess.run(added, input=PASSWORD + "\n", text=True, check=True, stdout=subprocess.DEVNULL)
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    (folder / "version").write_text(version)
    command = [program, "serve", "--state-dir", state, "--hostname", HOSTNAME, "--shards", "1", "--cores", "0"]
    command += ["--listen", f"127.0.0.1:{ports[0]}", "--listen-tls", f"127.0.0.1:{ports[1]}", "--sync", "commit"]
    command += ["--tls-cert", folder / "certificate.pem", "--tls-key", folder / "key.pem", "--deliver", "discard"]
    return spawn(command, folder, group)


def start_postfix(folder, ports, group):
    Passwords.listen(folder / "auth")
    (folder / "main.cf").write_text(
        f"""compatibility_level = 3.6
maillog_file_prefixes = {folder}
maillog_file = {folder}/logs/mail.log
queue_directory = {folder}/queue
myhostname = {HOSTNAME}
mydestination =
mynetworks =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
in_flow_delay = 0
default_process_limit = {IDLE + 100}
smtpd_client_connection_count_limit = 0
smtpd_peername_lookup = no
smtpd_tls_chain_files = {folder}/key.pem, {folder}/certificate.pem
smtpd_tls_auth_only = yes
smtpd_tls_security_level = encrypt
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {folder}/auth
smtpd_relay_restrictions = permit_sasl_authenticated, reject
smtpd_recipient_restrictions = check_recipient_access static:HOLD
"""
    )
    services = "postlog unix-dgram n - n - 1 postlogd\ncleanup unix n - n - 0 cleanup\nqmgr unix n - n 300 1 qmgr\n"
    services += "tlsmgr unix - - n 1000? 1 tlsmgr\nrewrite unix - - n - - trivial-rewrite\nanvil unix - - n - 1 anvil\n"
    services += "pickup unix n - n 60 1 pickup\nerror unix - - n - - error\nretry unix - - n - - error\n"
    services += "bounce unix - - n - 0 bounce\ndefer unix - - n - 0 bounce\nflush unix n - n 1000? 0 flush\n"
    services += "proxymap unix - - n - - proxymap\nsmtp unix - - n - - smtp\nrelay unix - - n - - smtp\n"
    (folder / "master.cf").write_text(f"127.0.0.1:{ports[0]} inet n - n - - smtpd\n{services}")
    script = f"""install -d -o postfix {folder}/logs
install -d {folder}/queue
chown postfix /var/lib/postfix
chgrp postdrop /usr/sbin/postdrop /usr/sbin/postqueue
chmod g+s /usr/sbin/postdrop /usr/sbin/postqueue
cp {folder}/main.cf {folder}/master.cf /etc/postfix/
postconf -h mail_version > {folder}/version
exec postfix start-fg"""
    return enter("postfix", script, folder, group)


class Passwords(socketserver.StreamRequestHandler):
    """Answers Postfix in Dovecot's authentication protocol. Its processor time is not Postfix's, and is not counted."""

    def handle(self):
        right = base64.b64encode(f"\0{USER}\0{PASSWORD}".encode()).decode()
        self.wfile.write(b"VERSION\t1\t0\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n")
        for line in self.rfile:
            words = line.decode().rstrip("\n").split("\t")
            if words[0] == "AUTH":
                verdict = "OK" if f"resp={right}" in words else "FAIL"
                self.wfile.write(f"{verdict}\t{words[1]}\tuser={USER}\n".encode())

    @staticmethod
    def listen(path):
        socketserver.ThreadingUnixStreamServer.daemon_threads = True
        socketserver.ThreadingUnixStreamServer.request_queue_size = 512
        server = socketserver.ThreadingUnixStreamServer(str(path), Passwords)
        path.chmod(0o666)
        threading.Thread(target=server.serve_forever, daemon=True).start()


def start_exim(folder, ports, group):
    (folder / "exim4.conf").write_text(
        f"""primary_hostname = {HOSTNAME}
spool_directory = {folder}/spool
log_file_path = {folder}/logs/%s.log
disable_ipv6 = true
keep_environment =
local_interfaces = 127.0.0.1
daemon_smtp_ports = {ports[0]}
smtp_accept_max = 0
smtp_connect_backlog = 128
queue_only
tls_advertise_hosts = *
tls_certificate = {folder}/certificate.pem
tls_privatekey = {folder}/exim-key.pem
auth_advertise_hosts = ${{if def:tls_in_cipher {{*}}}}
acl_smtp_rcpt = recipients

begin acl
recipients:
  accept authenticated = *
  deny

begin routers
all:
  driver = accept
  transport = nowhere

begin transports
nowhere:
  driver = appendfile
  file = /dev/null

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${{if and{{ {{eq{{$auth2}}{{{USER}}}}} {{eq{{$auth3}}{{{PASSWORD}}}}} }}}}
  server_set_id = $auth2
"""
    )
    script = f"""install -d -o Debian-exim {folder}/spool {folder}/logs
install -o Debian-exim -m 600 {folder}/key.pem {folder}/exim-key.pem
install -D -m 644 {folder}/exim4.conf /etc/exim4/exim4.conf
exim4 -bV > {folder}/version
exec exim4 -bdf"""
    return enter("exim", script, folder, group)


def start_opensmtpd(folder, ports, group):
    # The cheapest hash that it can check.
    crypt = ["perl", "-e", f'print crypt("{PASSWORD}", "ab")']
    hashed = subprocess.run(crypt, capture_output=True, text=True, check=True).stdout
    (folder / "users").write_text(f"{USER} {hashed}\n")
    (folder / "smtpd.conf").write_text(
        f"""pki {HOSTNAME} cert "{folder}/certificate.pem"
pki {HOSTNAME} key "{folder}/key.pem"
table users file:{folder}/users
listen on 127.0.0.1 port {ports[0]} tls-require pki {HOSTNAME} auth <users>
action send relay host smtp://127.0.0.1:9
match auth from any for any action send
"""
    )
    # What it begins to deliver is held before the first message comes.
    script = f"""install -d -m 711 {folder}/spool
mkdir -p /var/spool
rm -rf /var/spool/smtpd
ln -s {folder}/spool /var/spool/smtpd
chgrp opensmtpq /usr/sbin/smtpctl
chmod g+s /usr/sbin/smtpctl
install -D -m 644 {folder}/certificate.pem /etc/ssl/certs/ca-certificates.crt
smtpd -h > {folder}/version 2>&1 || true
smtpd -d -f {folder}/smtpd.conf &
tries=0
until smtpctl pause mta; do
    tries=$((tries + 1))
    [ $tries -lt 100 ]
    sleep 0.1
done
wait"""
    return enter("opensmtpd", script, folder, group)


START = {"postfix": start_postfix, "exim": start_exim, "opensmtpd": start_opensmtpd, "onetrip": start_onetrip}


# ── What is printed ─────────────────────────────────────────────────────────────────────────────────────────────────


def print_surroundings():
    def first(command):
        return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout.strip().split("\n")[0]

    model = [line.split(":")[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    disk = first(["findmnt", "-n", "-o", "FSTYPE", "-T", str(TARGET)])
    print("# What a submission costs: one message of 4 KiB, TLS 1.3 with a P-256 certificate, AUTH PLAIN, one session each.")
    print("#")
    print(f"# date      {time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}")
    print(f"# commit    {first(['git', 'rev-parse', '--short', 'HEAD'])}")
    print(f"# machine   {model[0]}, {len(model)} processors, Linux {os.uname().release}, {disk}")
    print(f"# load      {pathlib.Path('/proc/loadavg').read_text().split()[0]} before; priority: {' '.join(priority()) or 'none'}")
    print("# build     cargo build --release --workspace")
    print(f"# command   benches/others.py {' '.join(sys.argv[1:])}", flush=True)


def print_table(runs, versions):
    print(f"# load      {pathlib.Path('/proc/loadavg').read_text().split()[0]} after\n")
    print("| server | client | round trips | server's processor time for a session, µs | after the `250` |")
    print("|---|---|--:|--:|---|")
    for name, version in versions.items():
        for scenario in SCENARIOS[name]:
            chosen = [run for run in runs if (run["server"], run["load"]) == (name, scenario)]
            times = sorted(run["cpu_us"] for run in chosen)
            median = f"{statistics.median(times):.0f} ({times[0]:.0f} to {times[-1]:.0f})"
            print(f"| {name} {version} | `{scenario}` | {chosen[0]['round_trips']} | {median} | {HELD[name]} |")
    print("\n| server | an idle connection, KiB |")
    print("|---|--:|")
    for name in versions:
        sizes = [run["kib"] for run in runs if (run["server"], run["load"]) == (name, "idle") and run["kib"] is not None]
        print(f"| {name} | {f'{statistics.median(sizes):.0f}' if sizes else 'not had'} |")


if __name__ == "__main__":
    main()
