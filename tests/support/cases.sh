# Sourced by the end-to-end tests. One line per case on stdout, which tests/run.sh counts:
#   ok NAME        FAIL NAME: why        skip NAME: why
# Every script works alone: DARKFIELD names the program, a folder of its own is made and removed.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1

DARKFIELD=${DARKFIELD:-$root/build/check/jobs/darkfield}
[ -x "$DARKFIELD" ] || DARKFIELD=$root/build/jobs/darkfield
[ -x "$DARKFIELD" ] || { echo "FAIL $(basename "$0" .sh): no program (build first, or set DARKFIELD)"; exit 1; }
export DARKFIELD OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMP_NUM_THREADS=1
# A process without mpirun starts no daemon, whose end could take away the folder of the next one's.
export OMPI_MCA_ess_singleton_isolated=1

# The Python with h5py: a user's own may come first in PATH.
PYTHON=python3
"$PYTHON" -c 'import h5py' 2>/dev/null || PYTHON=/usr/bin/python3

failures=0
ok() { echo "ok $1"; }
bad() { failures=$((failures + 1)); echo "FAIL $1: $2"; }
skip() { echo "skip $1: $2"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/darkfield-test.XXXXXX")
# What else a script must undo stands in `undo`.
undo=:
trap 'eval "$undo"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# darkfield RANKS ARGUMENTS...: output in $work/log, its own exit code. A hang is a failure (124).
darkfield() {
    local ranks=$1
    shift
    timeout -k 10 "${LIMIT:-300}" mpirun --oversubscribe --bind-to none -n "$ranks" "$DARKFIELD" "$@" \
        >"$work/log" 2>&1 </dev/null
}

# A small budget of the main job: enough that every stage has something to do.
small=(--set text.max_documents=300 --set train.steps=120)
pocket=jobs/quickstart/pocket.yaml

# The content hash of a file we wrote, and those of all HDF5 outputs of a folder, by name.
digest() { "$DARKFIELD" check --digest "$1" 2>/dev/null </dev/null | cut -d' ' -f1; }
digests() {
    local file
    for file in "$1"/*.h5; do
        case $file in *.ckpt.h5) ;; *) echo "$(basename "$file") $(digest "$file")" ;; esac
    done
}

finish() { [ "$failures" -eq 0 ]; exit; }
