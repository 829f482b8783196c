#!/bin/sh
# What clients see of restarts: an open loop of submissions while the server is restarted again and again, each way in turn.
#
#   benches/restart.sh DIRECTORY [ROUNDS] > benches/results/DATE-restart.txt
#
#   stop-and-start   SIGTERM, and the next server when the process has ended
#   takeover         the next server with --takeover on, which asks the running one for its sockets
#   manager          SIGTERM and start, with sockets that another process keeps (LISTEN_FDS), as systemd does
#
# The server has processor 0 and one shard, the generator processor 1. Each run is RATE submissions a second, one connection
# each, half over STARTTLS as mail programs do it and half with QUICKSTART, for SECONDS_OF_RUN seconds with a restart every
# second; then it is proved that every acknowledged message is there once.
set -eu

directory=$1
rounds=${2:-2}
programs=${PROGRAMS:-target/release}
seconds=${SECONDS_OF_RUN:-10}
rate=${RATE:-200}
port=12587

mkdir -p "$directory"
printf 'a-password-to-measure-with\n' > "$directory/password"

serve() { # FLAGS: starts a server and waits until it is ready
    : > "$directory/log.now"
    taskset -c 0 $keep "$programs/onetrip" serve --state-dir "$state" --listen "127.0.0.1:$port" --hostname localhost --shards 1 \
        --cores 0 "$@" > "$directory/log.now" 2>&1 &
    server=$!
    until grep -a -q ' ready ' "$directory/log.now"; do sleep 0.005; done
}

restart() {
    case $way in
        takeover)
            old=$server
            cp "$directory/log.now" "$directory/log.old"
            serve --takeover on
            wait "$old" || echo "a server has ended badly"
            ;;
        *)
            kill "$server"
            wait "$server" || echo "a server has ended badly"
            serve
            ;;
    esac
    grep -a -o 'waited_us=[0-9]*' "$directory/log.now" >> "$directory/waits" || true
}

run() {
    state="$directory/state-$way"
    rm -rf "$state" "$directory/waits" "$directory/acknowledged"
    : > "$directory/waits"
    "$programs/onetrip" user add load --state-dir "$state" < "$directory/password" > "$directory/said"
    keep=
    if [ "$way" = manager ]; then
        keep="python3 benches/keep_socket.py run"
        python3 benches/keep_socket.py keep "127.0.0.1:$port" "$directory/keeper" &
        keeper=$!
        until [ -S "$directory/keeper" ]; do sleep 0.01; done
        export KEEPER="$directory/keeper"
    fi
    serve
    "$programs/onetrip-loadgen" run "127.0.0.1:$port" --user load --password-file "$directory/password" \
        --scenario esmtp,full-resumed --rate "$rate" --duration "$seconds" --cores 1 --reply-timeout 20 \
        --acknowledged "$directory/acknowledged" > "$directory/report.txt" 2>&1 &
    generator=$!
    restarts=0
    sleep 1
    while [ "$restarts" -lt $((seconds - 2)) ]; do
        restart
        restarts=$((restarts + 1))
        sleep 1
    done
    wait "$generator" || true
    # What was acknowledged is in the queue; the audit looks where it goes.
    until [ -z "$("$programs/onetrip" queue list --state-dir "$state" --json | grep '"item"')" ]; do sleep 0.1; done
    kill "$server"
    wait "$server" || true
    if [ "$way" = manager ]; then
        kill "$keeper"
        rm -f "$directory/keeper"
    fi
    echo "── $way, $restarts restarts"
    grep -E '^(scenario|  +p50|esmtp|full-resumed|all) ' "$directory/report.txt" | head -5
    grep '^error: ' "$directory/report.txt" || true
    "$programs/onetrip-loadgen" audit "$state" --acknowledged "$directory/acknowledged" 2>&1
    sed 's/waited_us=/the new server waited, in µs: /' "$directory/waits"
}

for round in $(seq "$rounds"); do
    echo "round $round"
    for way in ${WAYS:-stop-and-start takeover manager}; do
        run
    done
done
