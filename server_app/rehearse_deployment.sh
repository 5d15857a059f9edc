#!/usr/bin/env bash
# Rehearse a deployment on this machine: one server and three devices, as real processes on loopback.
#
#   server_app/rehearse_deployment.sh OUT_DIR
#
# OUT_DIR must be new or empty. Below it, server/ stands for the server and edge-both/, edge-audio/ and edge-visual/ for
# a device each; what crosses from one to the other is copied by a `cp` that says so. Steps marked [server] run on the
# server of a real deployment, [device] on every device, [rehearsal] only here.
#
# Environment (all optional):
#   ROUNDS           rounds of training (2)
#   TIME_LIMIT       seconds that the training may take in all (900)
#   SUPERLINK_PORT   the server's one port, for devices and for the operator (a free one; Flower's own is 8000)
#   SUPERNODE_PORTS  three ports for what a device talks to itself through, on loopback (free ones; Flower's own is 9094)
#   TRY_STRANGER     1: also start a device whose key is not registered, and fail unless it is turned away
set -euo pipefail
umask 077 # all files, private keys first, are for this user only

say() { printf '%s\n' "$*"; }
fail() { # REASON [LOG]: say why, show the end of the log, and leave
    printf 'error: %s\n' "$1" >&2
    if [ -s "${2:-}" ]; then printf 'The end of %s:\n' "$2" >&2 && tail -n 25 "$2" >&2; fi
    exit 1
}
quietly() { # LOG COMMAND...: run a command, its output into the log; the end of the log is shown if it fails
    local log=$1
    shift
    "$@" >>"$log" 2>&1 || fail "this failed: $*" "$log"
}
start() { # NAME LOG COMMAND...: start a process in a process group of its own; its id goes to $pid and to NAME.pid
    local name=$1 log=$2
    shift 2
    set -m
    "$@" >>"$log" 2>&1 </dev/null &
    pid=$!
    set +m
    say "$pid" >"$name.pid"
}
stop() { # PID: end a process that start() made, and its children, politely at first, and wait for it
    local tenths=0
    kill -TERM -- "-$1" 2>/dev/null || return 0
    while kill -0 -- "-$1" 2>/dev/null && [ "$tenths" -lt 100 ]; do
        sleep 0.1
        tenths=$((tenths + 1))
    done
    kill -KILL -- "-$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}
stop_all() { # the newest first, so that devices leave before their server
    local running="" job
    trap '' INT TERM HUP
    for job in $(jobs -pr); do running="$job $running"; done
    for job in $running; do stop "$job"; done
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

is_open() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
next_port=$((20000 + RANDOM % 10000))
free_port() { # set $port to a port of loopback where nobody listens, another one at each call
    while is_open "$next_port"; do next_port=$((next_port + 1)); done
    port=$next_port
    next_port=$((next_port + 1))
}

# --- Before the first step: arguments, programs, directories ---

[ $# -eq 1 ] || fail "usage: $0 OUT_DIR"
case $1 in *[\'\"\\]* | *$'\n'*) fail "OUT_DIR = $1: no quotes, backslashes or line breaks, please" ;; esac
if [ -e "$1" ] && { [ ! -d "$1" ] || [ -n "$(ls -A "$1")" ]; }; then fail "$1 exists and is not an empty directory"; fi

for tool in openssl ssh-keygen; do
    command -v "$tool" >/dev/null || fail "$tool is missing; install it (Debian: apt-get install openssl openssh-client)"
done
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=$project/.venv/bin
if found=$(command -v fedcmi); then bin=$(cd "$(dirname "$found")" && pwd); fi
for tool in fedcmi flwr flower-superlink flower-supernode; do
    [ -x "$bin/$tool" ] || fail "$bin/$tool is missing; install the project (make install)"
done
export PATH="$bin:$PATH" # Flower starts its helpers through PATH

mkdir -p "$1"
out=$(cd "$1" && pwd)
server=$out/server
devices="edge-both edge-audio edge-visual"
modalities_of() { case $1 in edge-both) say audio+visual ;; *) say "${1#edge-}" ;; esac }
mkdir "$server" "$server/flwr"
for device in $devices; do mkdir "$out/$device" "$out/$device/flwr"; done

export FLWR_HOME=$server/flwr FLWR_TELEMETRY_ENABLED=0 FLWR_DISABLE_UPDATE_CHECK=1
if [ -z "${SUPERLINK_PORT:-}" ]; then free_port && SUPERLINK_PORT=$port; fi
if [ -z "${SUPERNODE_PORTS:-}" ]; then for _ in $devices; do free_port && SUPERNODE_PORTS="${SUPERNODE_PORTS:-} $port"; done; fi
address=127.0.0.1:$SUPERLINK_PORT

# --- 1. Certificates and keys ---

say "1. certificates and keys"
# [server] once: a certificate authority of your own; ca.key signs further servers and stays on a machine you trust.
cat >"$server/ca.ext" <<'END'
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
END
quietly "$server/openssl.log" openssl req -new -newkey rsa:3072 -nodes -subj "/CN=FedCMI rehearsal CA" \
    -keyout "$server/ca.key" -out "$server/ca.csr"
quietly "$server/openssl.log" openssl x509 -req -in "$server/ca.csr" -signkey "$server/ca.key" -days 30 \
    -extfile "$server/ca.ext" -out "$server/ca.crt"

# [server] the server's certificate; subjectAltName lists the names and addresses under which devices reach it.
cat >"$server/server.ext" <<'END'
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature, keyEncipherment
extendedKeyUsage = serverAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
END
quietly "$server/openssl.log" openssl req -new -newkey rsa:3072 -nodes -subj "/CN=localhost" \
    -keyout "$server/server.key" -out "$server/server.csr"
quietly "$server/openssl.log" openssl x509 -req -in "$server/server.csr" -CA "$server/ca.crt" -CAkey "$server/ca.key" \
    -CAcreateserial -days 30 -extfile "$server/server.ext" -out "$server/server.crt"

# [device] its identity: the private key never leaves the device.
for device in $devices; do
    quietly "$server/openssl.log" ssh-keygen -q -t ecdsa -b 384 -N "" -C "$device" -f "$out/$device/key"
done
# [device -> server] the public key; [server -> device] the authority's certificate. Neither is secret.
for device in $devices; do
    cp "$out/$device/key.pub" "$server/$device.pub"
    cp "$server/ca.crt" "$out/$device/ca.crt"
done

# --- 2. Data ---

say "2. data: each device prepares what its own sensors see"
# [device] raw files -> prepared directory, of this device's modalities only; [server] a test split with all of them.
start "$server/prep" "$server/prep.log" fedcmi prep av-digits --out "$server/data"
preps=$pid
for device in $devices; do
    start "$out/$device/prep" "$out/$device/prep.log" \
        fedcmi prep av-digits --out "$out/$device/data" --modalities "$(modalities_of "$device")"
    preps="$preps $pid"
done
for prep in $preps; do wait "$prep" || fail "fedcmi prep failed; see the prep.log files below $out" "$server/prep.log"; done

# --- 3. The server ---

say "3. SuperLink on $address, with TLS and node authentication"
# [server] runs for good, as a service; --host 0.0.0.0 lets devices reach it.
start "$server/superlink" "$server/superlink.log" flower-superlink --host 127.0.0.1 --port "$SUPERLINK_PORT" \
    --ssl-ca-certfile "$server/ca.crt" --ssl-certfile "$server/server.crt" --ssl-keyfile "$server/server.key" \
    --enable-supernode-auth --disable-runtime-dependency-installation
superlink=$pid
seconds=0
until is_open "$SUPERLINK_PORT"; do
    kill -0 "$superlink" 2>/dev/null && [ "$seconds" -lt 60 ] || fail "the SuperLink did not start" "$server/superlink.log"
    sleep 1
    seconds=$((seconds + 1))
done

# [server] how the operator's `flwr` finds the server: a named connection.
cat >"$FLWR_HOME/config.toml" <<END
[superlink]
default = "deployment"

[superlink.deployment]
address = "$address"
root-certificates = "$server/ca.crt"
END

# [server] only devices whose public key is registered may join; do it before the device starts.
for device in $devices; do
    quietly "$server/register.log" flwr supernode register "$server/$device.pub" deployment --name "$device"
done

# --- 4. The devices ---

say "4. three SuperNodes"
# shellcheck disable=SC2086 # the ports are words
set -- $SUPERNODE_PORTS
partition=0
for device in $devices; do
    # [device] runs for good, as a service. With data of its own, a device leaves num-partitions out; here three share one set.
    config="partition-id=$partition num-partitions=3 modalities=\"$(modalities_of "$device")\" data=\"$out/$device/data\""
    start "$out/$device/supernode" "$out/$device/supernode.log" env FLWR_HOME="$out/$device/flwr" \
        flower-supernode --superlink "$address" --root-certificates "$out/$device/ca.crt" \
        --auth-supernode-private-key "$out/$device/key" --port "$1" --node-config "$config"
    partition=$((partition + 1))
    shift
done

# --- 5. Training ---

say "5. training"
# [server] what this run changes of pyproject.toml's configuration; run-dir and data are paths on the server.
cat >"$server/run.toml" <<END
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
# [server] sends the app's code to the server and from there to the devices, and follows the run to its end.
start "$server/flwr-run" "$server/flwr-run.log" \
    flwr run "$project" deployment --stream --format json --run-config "$server/run.toml"
run=$pid
wait "$run"
cat "$server/flwr-run.log"
run_id=$(sed -n 's/.*"run-id": *"\([0-9]*\)".*/\1/p' "$server/flwr-run.log")
flwr list deployment --run-id "$run_id" --format json
