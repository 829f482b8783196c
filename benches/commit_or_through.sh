#!/bin/sh
# Messages per second and the 99th percentile of the time to the final reply, as the number of clients grows: the spool with
# its shared syncs (--sync commit) against one file and one sync for each message (--sync through).
#
#   benches/commit_or_through.sh DIRECTORY [ROUNDS] > benches/results/DATE-commit-or-through.txt
#
# DIRECTORY is on the disk to be measured. The server has processor 0 and one shard, the generator processor 1. Ways take
# turns, so that whatever else the machine does meets all of them; each line of the result is one run. Programs are those of
# target/release. A client goes on to the end of its 100 messages when the time is over.
set -eu

directory=$1
rounds=${2:-3}
programs=${PROGRAMS:-target/release}
seconds=${SECONDS_OF_RUN:-5}
port=12587

mkdir -p "$directory"
printf 'a-password-to-measure-with\n' > "$directory/password"

run() { # WAY CLIENTS: one run
    state="$directory/state-$1"
    rm -rf "$state"
    "$programs/onetrip" user add load --state-dir "$state" < "$directory/password" > "$directory/said"
    case $1 in
        commit-discard) set -- "$1" "$2" --sync commit --deliver discard ;;
        commit) set -- "$1" "$2" --sync commit ;;
        through) set -- "$1" "$2" --sync through ;;
    esac
    way=$1 clients=$2
    shift 2
    "$programs/onetrip" serve --state-dir "$state" --listen "127.0.0.1:$port" --hostname localhost --shards 1 --cores 0 \
        --log-level warning "$@" > "$directory/log" 2>&1 &
    server=$!
    until "$programs/onetrip-loadgen" run "127.0.0.1:$port" --user load --password-file "$directory/password" --count 1 \
        > "$directory/said" 2>&1; do sleep 0.1; done
    "$programs/onetrip-loadgen" run "127.0.0.1:$port" --user load --password-file "$directory/password" \
        --scenario full-resumed --connections "$clients" --messages 100 --duration "$seconds" --mailboxes 100 --cores 1 \
        --server-pid "$server" --json "$directory/report.json" > "$directory/report.txt" 2>&1 || true
    kill "$server"
    wait "$server" || true
    printf '%-15s %7s  ' "$way" "$clients"
    grep '^full-resumed ' "$directory/report.txt" | head -1
    grep -E '^(server:|generator:|WARNING)' "$directory/report.txt" | sed 's/^/                           /'
}

for round in $(seq "$rounds"); do
    echo "round $round"
    for clients in 1 16 64 256; do
        for way in commit commit-discard through; do
            run "$way" "$clients"
        done
    done
done
