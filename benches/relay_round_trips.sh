#!/bin/sh
# Round trips between two onetrips: how long a front end (--sync through) waits for the server behind it, from the end of the
# client's message to the 250, over a real link of 200 ms. Needs root.
#
#   benches/relay_round_trips.sh DIRECTORY > benches/results/DATE-relay-round-trips.txt
#
# Needs openssl too. Programs are those of target/release, or where PROGRAMS and GENERATOR say. The figures are those of the front end's event message_stored, divided by the round trip: one message of
# 4 KiB at first contact, then three on the open connection, then three on a new connection each.
set -eu

case ${1:-} in
--near) ;;
*)
    directory=$(realpath "$1")
    programs=$(realpath "${PROGRAMS:-target/release}")
    generator=$(realpath "${GENERATOR:-target/release}")
    mkdir -p "$directory"
    rm -rf "$directory/back" "$directory/front"
    printf 'a-password-to-measure-with\n' > "$directory/password"
    "$programs/onetrip" user add load --state-dir "$directory/back" < "$directory/password" > "$directory/said"
    "$programs/onetrip" user add load --state-dir "$directory/front" < "$directory/password" > "$directory/said"
    # The front end knows the server behind it by its address.
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=back \
        -addext subjectAltName=IP:198.18.0.2 -addext basicConstraints=critical,CA:FALSE -keyout "$directory/key.pem" -out "$directory/certificate.pem" 2> "$directory/said"
    export directory programs
    for kind in relay relays; do
        export kind
        "$generator/onetrip-loadgen" link --link 200 --far "$programs/onetrip serve --state-dir $directory/back \
            --hostname localhost --listen 0.0.0.0:2587 --listen-tls 0.0.0.0:2465 --tls-cert $directory/certificate.pem --tls-key $directory/key.pem --shards 1 --deliver discard \
            --log-level error" -- "$0" --near
    done
    exit
    ;;
esac

case $kind in relay) port=2587 ;; relays) port=2465 ;; esac
printf '%s:%s load a-password-to-measure-with\n' "$LINK_FAR" "$port" > "$directory/logins"
chmod 600 "$directory/logins"
rm -f "$directory/$kind.log"
"$programs/onetrip" serve --state-dir "$directory/front" --hostname localhost --listen 127.0.0.1:3587 --shards 1 \
    --deliver "$kind:$LINK_FAR:$port" --sync through --relay-tls require --relay-ca "$directory/certificate.pem" \
    --relay-auth "$directory/logins" --relay-idle 2 --log-format json > "$directory/said" 2> "$directory/$kind.log" &
front=$!
trap 'kill "$front" 2> "$directory/said" && wait "$front" || true' EXIT
until grep -q '"event":"ready"' "$directory/$kind.log" 2> "$directory/said"; do
    kill -0 "$front" || { cat "$directory/$kind.log" >&2; exit 69; }
    sleep 0.2
done
head -c 4000 /dev/zero | tr '\0' 'x' | fold -w 70 > "$directory/letter"

submit() { # what kind of contact it is
    "$programs/onetrip" submit --server 127.0.0.1:3587 --user load --password-file "$directory/password" --insecure \
        -f load@example.org bob@example.org < "$directory/letter"
    sleep 0.2
    took_us=$(grep '"message_stored"' "$directory/$kind.log" | tail -1 | sed 's/.*"commit_us":\([0-9]*\).*/\1/')
    awk -v kind="$kind" -v contact="$1" -v us="$took_us" -v ms="$LINK_MS" \
        'BEGIN { printf "%-7s %-22s %8.1f ms %6.2f round trips\n", kind, contact, us / 1e3, us / 1e3 / ms }'
}

submit "first contact"
for _ in 1 2 3; do submit "open connection"; done
for _ in 1 2 3; do
    # The hop's connection is given up meanwhile.
    sleep 4
    submit "further connection"
done
