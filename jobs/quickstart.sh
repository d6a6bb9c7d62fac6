#!/usr/bin/env bash
# From a fresh clone to a model-diffing report: packages, build, and the main job on the bundled pair of models.
#
#   ./jobs/quickstart.sh                                     the bundled pair
#   ./jobs/quickstart.sh --base DIR --tuned DIR --text FILE  your own: two Hugging Face folders and a text
#                                                            (*.jsonl with a member "text", or plain text)
#   ./jobs/quickstart.sh [...] -- --set train.steps=500      what follows -- goes to every darkfield call
#
# The last line on stdout is the report's path. Every command is printed before it runs; type them yourself if you like.
set -euo pipefail
here=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "jobs/quickstart.sh"; }
fail() { echo "quickstart: $*" >&2; exit 2; }
from_here() { case $1 in /*) echo "$1" ;; *) echo "$here/$1" ;; esac; }

base='' tuned='' text=''
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --base | --tuned | --text)
            [ $# -ge 2 ] || fail "$1 needs a path"
            printf -v "${1#--}" %s "$(from_here "$2")"
            shift 2 ;;
        --) shift; break ;;
        *) usage >&2; fail "unknown argument $1" ;;
    esac
done
options=("$@")
if [ -n "$base$tuned$text" ]; then
    [ -n "$base" ] && [ -n "$tuned" ] && [ -n "$text" ] || fail "--base, --tuned and --text go together"
    for folder in "$base" "$tuned"; do
        [ -r "$folder/config.json" ] || fail "$folder/config.json cannot be read: is $folder a Hugging Face model folder?"
    done
    [ -r "$text" ] || fail "$text cannot be read"
fi

say() { printf '\n# %s\n' "$*"; }
run() { printf '$ %s\n' "$*"; "$@"; }

cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which heeds them
export OMP_NUM_THREADS=1
[ "$(id -u)" -ne 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
darkfield() {
    run mpirun --oversubscribe --bind-to none -n "$cores" build/jobs/darkfield "$@" "${options[@]}" </dev/null
}

# The job file of a user's pair: the bundled one's settings, the last residual stream of the model.
write_job() { # FILE OUT NAME_A PATH_A NAME_B PATH_B
    local layers
    layers=$(python3 - "$base/config.json" 2>/dev/null <<'COUNT'
import json, sys
config = json.load(open(sys.argv[1]))
config = config.get("text_config", config)  # Gemma 3
print(next(config[key] for key in ("num_hidden_layers", "n_layer", "num_layers") if key in config))
COUNT
    ) || fail "$base/config.json does not say how many layers there are (num_hidden_layers, n_layer or num_layers)"
    cat >"$1" <<JOB
seed: 1
out: '${2//\'/\'\'}'
models:
  a: {name: $3, path: '${4//\'/\'\'}'}
  b: {name: $5, path: '${6//\'/\'\'}'}
text: {file: '${text//\'/\'\'}', heldout: 0.1}
site: blocks.$((layers - 1)).hook_resid_post
train: {activation: batchtopk, latents: 1024, k: 8, steps: 6000, decay: 3000, batch: 1024}
evaluate: {loss: true}
JOB
}

say "Packages: a compiler, Open MPI, parallel HDF5, ScaLAPACK, OpenBLAS, and Python for the report only."
run ./jobs/packages.sh </dev/null

say "Build (release) into build/."
run cmake -S . -B build -DCMAKE_BUILD_TYPE=Release -DDARKFIELD_TESTS=OFF
run cmake --build build -j "$cores"
start=$(date +%s)

if [ -z "$base" ]; then
    say "The null first: the base model against itself. Whatever a model diff reports here is not a difference," \
        "so this is the ruler for the real thing. Every living latent should come out shared."
    darkfield run jobs/quickstart/null.yaml
    say "Now the real pair: a small Llama before and after fine-tuning on a synthetic world whose every concept is" \
        "labelled. Both models read the same text; a crosscoder learns one sparse dictionary for both; latents whose" \
        "decoder is larger in the tuned model point at what the tuning changed. We know the truth, so the report's last" \
        "table can say whether they do. The spectra show what the dictionary leaves unexplained."
    darkfield run jobs/quickstart/pocket.yaml
    report=$PWD/runs/pocket/report.html
else
    mkdir -p runs/pair
    write_job runs/pair/null.yaml runs/pair-null base "$base" base "$base"
    echo 'stages: [harvest, train, evaluate, stats, diff]' >>runs/pair/null.yaml
    write_job runs/pair/pair.yaml runs/pair base "$base" tuned "$tuned"
    printf 'report: {null: runs/pair-null}\n' >>runs/pair/pair.yaml
    say "The null first: your base model against itself. Whatever a model diff reports here is not a difference."
    darkfield run runs/pair/null.yaml
    say "Now your pair: latents whose decoder is larger in one model point at what differs between them."
    darkfield run runs/pair/pair.yaml
    report=$PWD/runs/pair/report.html
fi

say "Done in $(($(date +%s) - start)) s after packages and build. Open the page in a browser; it needs no network."
echo "# The numbers behind it are HDF5 files beside it: h5ls -r ${report%/*}/diff.h5"
[ -s "$report" ] || { echo "quickstart: $report was not written" >&2; exit 1; }
echo "$report"
