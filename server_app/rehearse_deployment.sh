#!/usr/bin/env bash
# Rehearse a deployment on this machine: one server and three devices, as real processes on loopback.
#
#     server_app/rehearse_deployment.sh OUT_DIR
#
# OUT_DIR must be new or empty. Below it, server/ stands for the server, and edge-both/, edge-audio/ and edge-visual/
# stand for a device each; what crosses from one to another is copied by a `cp`. Comments tell where a step runs in a
# real deployment: [server], [device] (on each of them) or [rehearsal] (only here).
#
# Environment, all optional:
#     ROUNDS           rounds of training (2)
#     TIME_LIMIT       seconds that the training may take (900)
#     SUPERLINK_PORT   the server's only port, for devices and for the operator (a free one; Flower's default is 8000)
#     SUPERNODE_PORTS  three ports, one a device, that only the device itself uses (free ones; Flower's default is 9094)
set -euo pipefail
umask 077 # every file made here, private keys first, is for this user only

say() { printf '%s\n' "$*"; }
fail() { # REASON [LOG]: say why, show the end of the log, and leave
    printf 'error: %s\n' "$1" >&2
    if [ -s "${2:-}" ]; then printf 'The end of %s:\n' "$2" >&2 && tail -n 25 "$2" >&2; fi
    exit 1
}
quietly() { # LOG COMMAND...: run a command, its output into the log
    local log=$1
    shift
    "$@" >>"$log" 2>&1 || fail "failed: $*" "$log"
}

# --- Processes: what start() starts is stopped at the end, however the script ends ---

start() { # PATH COMMAND...: start a process; its id -> PATH.pid, its output -> PATH.log
    local path=$1
    shift
    set -m # a process group of its own: Ctrl-C reaches this script only, which then stops the processes in order
    "$@" >"$path.log" 2>&1 </dev/null &
    set +m
    say "$!" >"$path.pid"
}
pid_of() { cat "$out/$1.pid"; }
is_running() { kill -0 "$(pid_of "$1")" 2>/dev/null; }
parents() { # one line "PID PARENT" for each process of this machine
    if command -v ps >/dev/null; then ps -A -o pid= -o ppid=; else
        sed -n 's/^\([0-9]*\) (.*) . \([0-9]*\) .*/\1 \2/p' /proc/[0-9]*/stat 2>/dev/null || true
    fi
}
with_descendants() { # PID...: these and all processes below them (Flower's helpers have sessions of their own)
    local pid
    for pid in "$@"; do
        say "$pid"
        # shellcheck disable=SC2046 # process ids are words
        with_descendants $(parents | awk -v parent="$pid" '$2 == parent { print $1 }')
    done
}
stop() { # PID...: end processes and all below them, by force after 10 seconds, and wait for them
    local family pid tenths=0
    family=$(with_descendants "$@")
    for pid in $family; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in $family; do
        while kill -0 "$pid" 2>/dev/null && [ "$tenths" -lt 100 ]; do
            sleep 0.1
            tenths=$((tenths + 1))
        done
        if kill -0 "$pid" 2>/dev/null; then kill -KILL "$pid" 2>/dev/null || true; fi
    done
    wait "$@" 2>/dev/null || true
}
stop_all() { # devices leave before their server
    local job superlink="" others=""
    trap '' INT TERM HUP
    if [ -e "${out:-}/server/superlink.pid" ]; then superlink=$(pid_of server/superlink); fi
    for job in $(jobs -pr); do if [ "$job" != "$superlink" ]; then others="$others $job"; fi; done
    # shellcheck disable=SC2086 # process ids are words
    if [ -n "$others" ]; then stop $others; fi
    for job in $(jobs -pr); do stop "$job"; done
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
port=$((20000 + RANDOM % 10000))
next_free_port() { # move $port to the next port of loopback where nobody listens
    port=$((port + 1))
    while is_open "$port"; do port=$((port + 1)); done
}

# --- Arguments, programs, directories ---

[ $# -eq 1 ] || fail "usage: $0 OUT_DIR"
case $1 in *[\'\"\\]* | *$'\n'*) fail "OUT_DIR must not contain quotes, backslashes or line breaks: $1" ;; esac
if [ -e "$1" ] && { [ ! -d "$1" ] || [ -n "$(ls -A "$1")" ]; }; then fail "$1: exists and is not an empty directory"; fi
for tool in openssl ssh-keygen; do
    command -v "$tool" >/dev/null || fail "$tool is not installed (Debian: apt-get install openssl openssh-client)"
done
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$project/.venv/bin
if fedcmi=$(command -v fedcmi); then bin=$(cd "$(dirname "$fedcmi")" && pwd); fi
for tool in fedcmi flwr flower-superlink flower-supernode; do
    [ -x "$bin/$tool" ] || fail "$bin/$tool: not found; install the project first (make install)"
done

mkdir -p "$1"
out=$(cd "$1" && pwd)
server=$out/server
devices="edge-both edge-audio edge-visual"
modalities_of() { if [ "$1" = edge-both ]; then say audio+visual; else say "${1#edge-}"; fi; }
for place in server $devices edge-stranger; do mkdir "$out/$place" "$out/$place/flwr"; done

export PATH="$bin:$PATH"           # Flower starts its helpers through PATH
export FLWR_HOME=$server/flwr      # each place has its own; ~/.flwr on a real machine
export FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1 PYTHONUNBUFFERED=1
if [ -z "${SUPERLINK_PORT:-}" ]; then next_free_port && SUPERLINK_PORT=$port; fi
if [ -z "${SUPERNODE_PORTS:-}" ]; then
    for _ in $devices; do next_free_port && SUPERNODE_PORTS="${SUPERNODE_PORTS:-} $port"; done
fi
address=127.0.0.1:$SUPERLINK_PORT
# shellcheck disable=SC2086 # ports are words
set -- $SUPERNODE_PORTS
[ $# -eq 3 ] || fail "SUPERNODE_PORTS = '$SUPERNODE_PORTS': must be three ports"

say "1. certificates and keys"
# [server] once: a certificate authority of your own. ca.key only signs certificates; keep it off the network.
cat >"$server/ca.ext" <<END
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
ec=(-newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes)
quietly "$server/openssl.log" openssl req -new "${ec[@]}" -subj "/CN=FedCMI rehearsal authority" \
    -keyout "$server/ca.key" -out "$server/ca.csr"
quietly "$server/openssl.log" openssl x509 -req -in "$server/ca.csr" -signkey "$server/ca.key" -days 30 \
    -extfile "$server/ca.ext" -out "$server/ca.crt"
# [server] its certificate: subjectAltName must list every name and address under which devices reach the server.
cat >"$server/server.ext" <<END
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END
quietly "$server/openssl.log" openssl req -new "${ec[@]}" -subj "/CN=localhost" \
    -keyout "$server/server.key" -out "$server/server.csr"
quietly "$server/openssl.log" openssl x509 -req -in "$server/server.csr" -CA "$server/ca.crt" -CAkey "$server/ca.key" \
    -CAcreateserial -days 30 -extfile "$server/server.ext" -out "$server/server.crt"
# [device] its identity; the private key never leaves the device. The stranger is there to be turned away.
for device in $devices edge-stranger; do
    quietly "$out/$device/ssh-keygen.log" ssh-keygen -q -t ecdsa -b 384 -N "" -C "$device" -f "$out/$device/key"
done
# [device -> server] the public key. Not secret, but make sure that it comes from your device.
for device in $devices; do cp "$out/$device/key.pub" "$server/$device.pub"; done
# [server -> device] the authority's certificate, by which the device knows the server.
for device in $devices edge-stranger; do cp "$server/ca.crt" "$out/$device/ca.crt"; done
chmod 600 "$server"/*.key "$out"/*/key

say "2. data"
# [server] the test data, of all modalities.
start "$server/prep" fedcmi prep av-digits --out "$server/data"
# [device] its own data, of its own modalities only.
for device in $devices; do
    start "$out/$device/prep" fedcmi prep av-digits --out "$out/$device/data" --modalities "$(modalities_of "$device")"
done
for place in server $devices; do
    wait "$(pid_of "$place/prep")" || fail "fedcmi prep failed in $out/$place" "$out/$place/prep.log"
done

say "3. SuperLink on $address, TLS and node authentication on"
# [server] as a service, with --host 0.0.0.0 so that devices can reach it.
start "$server/superlink" flower-superlink --host 127.0.0.1 --port "$SUPERLINK_PORT" \
    --ssl-ca-certfile "$server/ca.crt" --ssl-certfile "$server/server.crt" --ssl-keyfile "$server/server.key" \
    --enable-supernode-auth --disable-runtime-dependency-installation
for second in $(seq 60); do
    if is_open "$SUPERLINK_PORT"; then break; fi
    if [ "$second" -eq 60 ] || ! is_running server/superlink; then
        fail "the SuperLink did not start" "$server/superlink.log"
    fi
    sleep 1
done
# [server] how `flwr` finds the SuperLink: a connection with a name.
cat >"$FLWR_HOME/config.toml" <<END
[superlink.deployment]
address = "$address"
root-certificates = "$server/ca.crt"
END
# [server] once for each device, before its SuperNode starts: whose key is not registered cannot join.
for device in $devices; do
    quietly "$server/register.log" flwr supernode register "$server/$device.pub" deployment --name "$device"
done

say "4. three SuperNodes"
supernode() { # DEVICE PORT NODE-CONFIG
    start "$out/$1/supernode" env FLWR_HOME="$out/$1/flwr" flower-supernode --superlink "$address" --port "$2" \
        --root-certificates "$out/$1/ca.crt" --auth-supernode-private-key "$out/$1/key" --node-config "$3"
}
# [device] as a service. Here three devices deal one data set among them; one with its own data has no num-partitions.
partition=0
for device in $devices; do
    supernode "$device" "$1" "partition-id=$partition num-partitions=3 modalities=\"$(modalities_of "$device")\" \
        data=\"$out/$device/data\""
    partition=$((partition + 1))
    shift
done
# [rehearsal] a device that nobody registered.
next_free_port
supernode edge-stranger "$port" 'partition-id=3 modalities="audio"'

say "5. training"
# [server] what differs from [tool.flwr.app.config] in pyproject.toml; data and run-dir are the server's.
cat >"$server/run-config.toml" <<END
data = "$server/data"
run-dir = "$out/run"
num-server-rounds = ${ROUNDS:-2}
fraction-train = 1.0
min-train-nodes = 3
min-available-nodes = 3
local-epochs = 1
wait-timeout = 120.0
round-timeout = 300.0
END
# [server] hand the app to the SuperLink, which hands it to the devices.
quietly "$server/flwr-run.json" flwr run "$project" deployment --format json --run-config "$server/run-config.toml"
run_id=$(sed -n 's/.*"run-id": *"\([0-9]*\)".*/\1/p' "$server/flwr-run.json")
[ -n "$run_id" ] || fail "flwr run did not start a run" "$server/flwr-run.json"
# [server] follow the run to its end; `flwr log` ends with it.
start "$server/flwr-log" flwr log "$run_id" deployment --stream
shown=0
show_rounds() {
    local lines
    lines=$(grep -o 'round  *[0-9]*/[0-9]* | .*' "$server/flwr-log.log" | tail -n +$((shown + 1))) || true
    if [ -n "$lines" ]; then say "$lines" && shown=$((shown + $(say "$lines" | wc -l))); fi
}
deadline=$((SECONDS + ${TIME_LIMIT:-900}))
while is_running server/flwr-log; do
    for process in server/superlink edge-both/supernode edge-audio/supernode edge-visual/supernode; do
        is_running "$process" || fail "$process ended in the middle of the run" "$out/$process.log"
    done
    [ "$SECONDS" -lt "$deadline" ] || fail "the training took longer than TIME_LIMIT" "$server/flwr-log.log"
    sleep 1
    show_rounds
done
show_rounds
# [server] how it ended: `flwr run` and `flwr log` exit 0 even when the server's part of the app failed.
quietly "$server/flwr-list.json" flwr list deployment --run-id "$run_id" --format json
status=$(sed -n 's/.*"status": *"\([^"]*\)".*/\1/p' "$server/flwr-list.json")
if [ "$status" != finished:completed ]; then
    if [ -s "$out/run/error.txt" ]; then fail "the run ended as '$status': $(head -n 1 "$out/run/error.txt")"; fi
    fail "the run ended as '$status'" "$server/flwr-log.log"
fi
# [rehearsal] the stranger must have been turned away: its SuperNode ends with Flower's exit code 305.
if is_running edge-stranger/supernode || ! grep -q "Exit Code: 305" "$out/edge-stranger/supernode.log"; then
    fail "a device without a registered key was not turned away" "$out/edge-stranger/supernode.log"
fi

say "6. stopping"
stop_all
for device in $devices; do
    groups=$(sed -n 's/.* holds \(.*\) ([0-9]* parameters to train).*/\1/p' "$out/$device/supernode.log" | sort -u)
    say "$device held the parameter groups: $groups"
done
say "edge-stranger was turned away"
say "model: $out/run/model.safetensors"
say "summary: $out/run/summary.md"
