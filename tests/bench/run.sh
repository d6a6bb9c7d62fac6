#!/bin/sh
# Benches by name: tests/bench/run.sh [--json FILE] [NAME...]; without names all. BUILD is the build folder (default: build).
# Each bench prints a table and one JSON object per line; --json gathers the objects into one array.
# DARKFIELD_FIXTURES: a folder with tokenizers/gpt2 and text, for tokenizer's English with the GPT-2 vocabulary (else the quickstart's own).
# FOLDER: where data-read and the forward benches keep their files (up to 600 MB; torch-forward with LLAMA_CPP 1.6 GB). PAIRS: alternated pairs of GEMM and step (20); PYTHON: an interpreter with torch for the torch-* rows.
# LLAMA_CPP: the folder of llama.cpp's libraries, for its column of torch-forward (tests/golden/llama_cpp.py tells where to get them).
set -eu

build=${BUILD:-build}
here=$(dirname "$0")
known="step-topk step-topk-outliers step-batchtopk step-batchtopk-outliers step-crosscoder step-relu step-jumprelu step-relu-dense step-large torch-dense torch-sparse data-read tokenizer forward-gpt2 forward-llama forward-llama-bf16 forward-pipeline torch-forward"
json=
names=
while [ $# -gt 0 ]; do
    case $1 in
    --json) json=$2; shift 2 ;;
    *) names="$names $1"; shift ;;
    esac
done
[ -n "$names" ] || names=$known

mpirun="mpirun --oversubscribe --bind-to none"
[ "$(id -u)" != 0 ] || mpirun="$mpirun --allow-run-as-root"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

# step NAME RANKS THREADS [LATENTS WIDTH K PAIRS]: batches of 4096, alternated pairs of GEMM and step
step() {
    OMP_NUM_THREADS=$3 $mpirun -n "$2" "$build/tests/bench/bench_step" "${4:-16384}" "${5:-768}" 4096 "${6:-32}" "${7:-${PAIRS:-20}}" "$1"
}

# everywhere NAME [LATENTS WIDTH K PAIRS]: on one core, on two threads, on two ranks
everywhere() {
    name=$1
    shift
    step "$name" 1 1 "$@"; step "$name" 1 2 "$@"; step "$name" 2 1 "$@"
}

# scratch: a new folder in FOLDER
scratch() { mktemp -d "${FOLDER:-${TMPDIR:-/tmp}}/darkfield-bench.XXXXXX"; }

# find_torch NAME: sets python to an interpreter that has torch, or says that there is none
find_torch() {
    for python in ${PYTHON:-python3 /usr/bin/python3}; do
        if "$python" -c 'import torch' 2>/dev/null; then return; fi
    done
    echo "$1: skipped, there is no Python with torch (set PYTHON)"
    return 1
}

# torch KIND THREADS: PyTorch's step in turns with step-topk on as many cores
torch() {
    find_torch "torch-$1" || return 0
    OPENBLAS_NUM_THREADS=$2 OMP_NUM_THREADS=$2 "$python" "$here/torch_step.py" "$1" 16384 768 4096 32 "$2" "${ROUNDS:-3}" \
        $mpirun -n 1 "$build/tests/bench/bench_step" 16384 768 4096 32 3 step-topk-alone
}

# data RANKS THREADS: 200,000 rows of 768 in bf16, on disk in FOLDER, read in each order while m 16384, B 4096, k 32 trains
data() {
    folder=$(scratch)
    OMP_NUM_THREADS=$2 $mpirun -n "$1" "$build/tests/bench/bench_data" "$folder" 200000 768 16384 4096 30
    rm -rf "$folder"
}

# tokenizer: GPT-2's two files under the names of a model's folder, or the pocket model
tokenizer() {
    if [ -z "${DARKFIELD_FIXTURES:-}" ]; then
        "$build/tests/bench/bench_tokenizer" "$here/../../jobs/quickstart/base" "$here/../../jobs/quickstart/text.jsonl"
        return
    fi
    folder=$(mktemp -d)
    ln -s "$DARKFIELD_FIXTURES/tokenizers/gpt2/encoder.json" "$folder/vocab.json"
    ln -s "$DARKFIELD_FIXTURES/tokenizers/gpt2/vocab.bpe" "$folder/merges.txt"
    "$build/tests/bench/bench_tokenizer" "$folder" "$DARKFIELD_FIXTURES/text/wikitext2.valid.txt"
    rm -rf "$folder"
}

# forward NAME: a model of that shape with random weights, windows of 512, one core
forward() {
    folder=$(scratch)
    OMP_NUM_THREADS=1 $mpirun -n 1 "$build/tests/bench/bench_forward" "$1" "$folder" "${ROUNDS:-7}"
    rm -rf "$folder"
}

# pipeline: the Llama shape's blocks on two ranks, against twice what one rank does alone
pipeline() {
    folder=$(scratch)
    OMP_NUM_THREADS=1 $mpirun -n 2 "$build/tests/bench/bench_pipeline" "$folder" "${ROUNDS:-5}"
    rm -rf "$folder"
}

# torch_forward: PyTorch's pass, and llama.cpp's, in turns with each forward bench
torch_forward() {
    find_torch torch-forward || return 0
    folder=$(scratch)
    for shape in forward-gpt2 forward-llama forward-llama-bf16; do
        OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 "$python" "$here/torch_forward.py" "$shape" "${ROUNDS:-3}" "$folder" \
            $mpirun -n 1 "$build/tests/bench/bench_forward" "$shape" "$folder" 3
    done
    rm -rf "$folder"
}

bench() {
    case $1 in
    step-topk | step-batchtopk) everywhere $1 ;;
    step-topk-outliers | step-batchtopk-outliers) everywhere $1 ;; # four columns 100 times the others, against int8 bounds
    step-crosscoder) everywhere $1 16384 1536 32 ;; # two sites of 768
    step-relu | step-jumprelu) everywhere $1 16384 768 64 ;;
    step-relu-dense) everywhere $1 16384 768 8192 "${DENSE_PAIRS:-3}" ;; # half of the latents active, against a dense trainer's step
    step-large) step $1 1 2 131072 2304 32 "${LARGE_PAIRS:-3}" ;; # batchtopk; half a minute a GEMM on one core
    torch-dense) torch dense 1; torch dense 2 ;;
    torch-sparse) torch sparse 1; torch sparse 2 ;;
    data-read) data 1 1; data 2 1 ;;
    tokenizer) tokenizer ;;
    forward-gpt2 | forward-llama | forward-llama-bf16) forward $1 ;;
    forward-pipeline) pipeline ;;
    torch-forward) torch_forward ;;
    *) echo "run.sh: unknown bench '$1'; there are: $known" >&2; return 2 ;;
    esac
}

for name in $names; do
    status=0
    { bench "$name" || echo "$?" >"$lines.failed"; } | tee -a "$lines"
    if [ -e "$lines.failed" ]; then status=$(cat "$lines.failed"); rm -f "$lines.failed"; exit "$status"; fi
done

if [ -n "$json" ]; then
    { echo '['; grep '^{' "$lines" | sed '$!s/$/,/'; echo ']'; } >"$json"
fi
