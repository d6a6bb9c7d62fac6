#!/bin/sh
# Benches by name: tests/bench/run.sh [--json FILE] [NAME...]; without names all. BUILD is the build folder (default: build).
# Each bench prints a table and one JSON object per line; --json gathers the objects into one array.
set -eu

build=${BUILD:-build}
json=
names=
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=$2; shift 2 ;;
    *) names="$names $1"; shift ;;
    esac
done
[ -n "$names" ] || names="step-topk step-batchtopk"

mpirun="mpirun --oversubscribe --bind-to none"
[ "$(id -u)" != 0 ] || mpirun="$mpirun --allow-run-as-root"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

# one NAME RANKS THREADS: m 16384, d 768, B 4096, k 32, 20 alternated pairs of GEMM and step
one() {
    OMP_NUM_THREADS=$3 $mpirun -n "$2" "$build/tests/bench/bench_step" 16384 768 4096 32 "${PAIRS:-20}" "$1" | tee -a "$lines"
}

for name in $names; do
    case $name in
    step-topk) one $name 1 1; one $name 1 2; one $name 2 1 ;;
    step-batchtopk) one $name 1 1 ;;
    *) echo "run.sh: unknown bench '$name'; there are step-topk and step-batchtopk" >&2; exit 2 ;;
    esac
done

if [ -n "$json" ]; then
    { echo '['; grep '^{' "$lines" | sed '$!s/$/,/'; echo ']'; } >"$json"
fi
