#!/bin/sh
# Memory of the server: at its start, and for each client that has logged in, has sent one message and is silent.
#
#   benches/idle_connections.sh DIRECTORY [CLIENTS] [FLAGS OF THE SERVER...] > benches/results/DATE-idle-connections.txt
#
# CLIENTS (by default 15,000) open a connection each within the limit of descriptors (ulimit -n), 500 a second, or as many as
# RATE says: a machine that is busy with something else turns some away, and then this never ends. Figures are
# VmRSS of /proc/PID/status: what is resident of the process, its program included, and nothing of the kernel's. Programs are
# those of target/release, or where PROGRAMS says.
set -eu

directory=$1
clients=${2:-15000}
shift $(($# > 1 ? 2 : 1))
programs=${PROGRAMS:-target/release}
port=12587

mkdir -p "$directory"
rm -rf "$directory/state"
printf 'a-password-to-measure-with\n' > "$directory/password"
"$programs/onetrip" user add load --state-dir "$directory/state" < "$directory/password" > "$directory/said"
"$programs/onetrip" serve --state-dir "$directory/state" --listen "127.0.0.1:$port" --hostname localhost --shards 1 --cores 0 \
    --deliver discard --connections-per-address-max 100000 --log-level warning "$@" > "$directory/log" 2>&1 &
server=$!
trap 'kill "$server"' EXIT
sleep 2

resident() { awk '/VmRSS/ { print $2 }' "/proc/$server/status"; }
load() {
    "$programs/onetrip-loadgen" run "127.0.0.1:$port" --user load --password-file "$directory/password" \
        --scenario full-resumed --cores 1 "$@" > "$directory/report.txt" 2>&1
}

printf 'at start, one shard: %s KiB\n' "$(resident)"
load --connections 200 --count 400
sleep 1
warm=$(resident)
printf 'after 400 sessions, 200 at a time: %s KiB\n' "$warm"
load --rate "${RATE:-500}" --count "$clients" --messages 2 --think-time 300000 --sources 4 &
generator=$!
open=0
until [ "$open" -ge "$clients" ]; do
    sleep 2
    kill -0 "$generator"
    open=$(($(find "/proc/$server/fd" -lname 'socket:*' | wc -l) - 2))
done
sleep 3
full=$(resident)
kill "$generator"
printf 'with %s silent clients: %s KiB, %s bytes for each\n' "$clients" "$full" "$(((full - warm) * 1024 / clients))"
