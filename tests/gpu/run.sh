#!/usr/bin/env bash
# Measures on a GPU, in eight minutes, what the README's tables have GPU rows for.
#
#   tests/gpu/run.sh                    a machine with torch and torchvision is enough
#   tests/gpu/run.sh --device cpu       tries the same without a GPU
#   tests/gpu/run.sh --quick            the smallest sizes: whether it runs
#
# PYTHON is the interpreter (python3). Rounds on Ray are measured too where flwr and ray are installed
# (pip install 'flwr[simulation]' and this project's wheel).
set -euo pipefail

device=cuda quick=
while [ $# -gt 0 ]; do
    case $1 in
        --device) device=${2:-}; shift 2 || { echo "--device needs cuda or cpu" >&2; exit 2; } ;;
        --quick) quick=1; shift ;;
        *) echo "unknown option $1; there are --device cuda|cpu and --quick" >&2; exit 2 ;;
    esac
done
case $device in cuda|cpu) ;; *) echo "--device $device: must be cuda or cpu" >&2; exit 2 ;; esac

python=${PYTHON:-python3}
tests=$(cd "$(dirname "$0")/.." && pwd)
place=()
[ "$device" = cpu ] && place=(--cpu)

if [ "$device" = cuda ] && ! "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())'; then
    echo "torch sees no GPU here; --device cpu tries the script without one." >&2
    exit 1
fi

step=(--repetitions 8)
epoch=(--repetitions 2)
clients=()
simulation=(--only resnet18 --samples 64)
if [ -n "$quick" ]; then
    step=(--repetitions 1 --batch 2 --size 64)
    epoch=(--repetitions 1 --batch 2 --batches 1 --epochs 1 --size 64)
    clients=(--clients 1,2 --batch 2 --steps 1 --size 64)
    simulation=(--only growth --nodes 4 --rounds 3)
fi

section() { printf '\n## %s\n\n' "$1"; }

section "One step (tests/benchmarks/README.md, first table)"
"$python" "$tests/benchmarks/step.py" "${step[@]}" "${place[@]}"

section "A round from files to weights"
"$python" "$tests/benchmarks/epoch.py" "${epoch[@]}" "${place[@]}"

section "Clients on one GPU, and their memory"
"$python" "$tests/gpu/clients.py" --device "$device" "${clients[@]}"

section "Rounds on Ray (tests/benchmarks/README.md, Simulation on Ray)"
if "$python" -c 'import flwr, ray' 2>/dev/null; then
    hidden=()
    [ "$device" = cpu ] && hidden=(env CUDA_VISIBLE_DEVICES=)
    "${hidden[@]}" "$python" "$tests/benchmarks/simulation.py" "${simulation[@]}"
else
    echo "left out: flwr and ray are not installed here"
fi
