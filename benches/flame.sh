#!/usr/bin/env bash
# Where a session's processor time goes, as a flame graph: benches/flame.sh DIRECTORY [SCENARIO] > SCENARIO.svg
#
# A server with one shard on core 0, the load generator on core 1, perf's clock on the server for ten seconds. Needs root, perf
# (Debian: linux-perf), inferno (cargo install inferno) and `cargo build --release --workspace`.
set -euo pipefail
cd "$(dirname "$0")/.."
if (($# < 1)); then
    sed -n '2,5s/^# \?//p' "$0" >&2
    exit 64
fi
directory=$1/flame-$$ scenario=${2:-full-resumed} address=127.0.0.1:12690 programs=target/release
mkdir -p "$directory"
printf 'a-password-to-measure-with\n' > "$directory/password"
"$programs/onetrip" user add load --state-dir "$directory/state" < "$directory/password" > "$directory/added"

taskset -c 0 "$programs/onetrip" serve --state-dir "$directory/state" --listen "$address" --hostname localhost \
    --shards 1 --cores 0 --deliver discard 2> "$directory/log" &
server=$!
trap 'kill "$server"' EXIT
until grep -q ' ready ' "$directory/log"; do
    kill -0 "$server"
    sleep 0.05
done
taskset -c 1 "$programs/onetrip-loadgen" run "$address" --user load --password-file "$directory/password" --tls 1.3 \
    --cores 1 --size 4k --scenario "$scenario" --connections 64 --duration 12 > "$directory/load" &
load=$!
sleep 1
perf record -q -e cpu-clock -F 997 -g -p "$server" -o "$directory/perf" -- sleep 10 >&2
wait "$load"
perf script -i "$directory/perf" 2> "$directory/perf.errors" | inferno-collapse-perf > "$directory/folded" 2> "$directory/inferno.errors"
inferno-flamegraph --title "onetrip serve, $scenario, $(date -u +%F)" --minwidth 0.3 "$directory/folded"
