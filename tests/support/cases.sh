# Sourced by the end-to-end tests. One line per case on stdout, which tests/run.sh counts:
#   ok NAME        FAIL NAME: why        skip NAME: why
# Every script works alone: DARKFIELD names the program, a folder of its own is made and removed.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1
script=$(basename "$0" .sh)

DARKFIELD=${DARKFIELD:-$root/build/check/jobs/darkfield}
[ -x "$DARKFIELD" ] || DARKFIELD=$root/build/jobs/darkfield
[ -x "$DARKFIELD" ] || { echo "FAIL $script: no program (build first, or set DARKFIELD)"; exit 1; }
export DARKFIELD OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_mpi_yield_when_idle=1
export OMP_NUM_THREADS=1
# A process without mpirun starts no daemon, whose end could take away the folder of the next one's; and none looks for
# the networks of a cluster, which takes longer than most cases.
export OMPI_MCA_ess_singleton_isolated=1 OMPI_MCA_pml=ob1

# The Python with h5py: a user's own may come first in PATH.
PYTHON=python3
"$PYTHON" -c 'import h5py' 2>/dev/null || PYTHON=/usr/bin/python3

failures=0
ok() { echo "ok $1"; }
bad() { failures=$((failures + 1)); echo "FAIL $1: $2"; }
skip() { echo "skip $1: $2"; }

work=$(mktemp -d "${TMPDIR:-/tmp}/darkfield-test.XXXXXX")
# What else a script must undo stands in `undo`; what it waits for, in `running`.
undo=: running=''
trap '[ -z "$running" ] || { kill "$running"; wait "$running"; } 2>/dev/null; eval "$undo"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# darkfield RANKS ARGUMENTS...: output in $work/log, its own exit code. A hang is a failure (124). In the background, so
# that a script that is told to end does so at once.
darkfield() {
    local ranks=$1 code
    shift
    timeout -k 10 "${LIMIT:-300}" mpirun --oversubscribe --bind-to none -n "$ranks" "$DARKFIELD" "$@" \
        >"$work/log" 2>&1 </dev/null &
    running=$!
    wait "$running"
    code=$?
    running=''
    return "$code"
}

# lose_a_rank FILES ARGUMENTS...: two ranks, of which one is killed as soon as a file of the pattern is there. False if
# they were done before.
lose_a_rank() {
    local files=$1 launched tries=0
    shift
    mpirun --oversubscribe --bind-to none -n 2 "$DARKFIELD" "$@" >"$work/log" 2>&1 </dev/null &
    launched=$!
    until compgen -G "$files" >/dev/null || [ "$tries" -ge 1500 ]; do sleep 0.02; tries=$((tries + 1)); done
    pkill -KILL -P "$launched" -n
    ! wait "$launched" 2>/dev/null && compgen -G "$files" >/dev/null
}

# The end of a log, for a message.
end_of() { grep -v '^$' "$1" | tail -n 3 | tr '\n' ' '; }

# must NAME COMMAND...: a command that fails is case SCRIPT.NAME.
must() {
    local name=$1
    shift
    "$@" && return 0
    bad "$script.$name" "exit $?: $(end_of "$work/log")"
    return 1
}

# judge NAME CODE PATTERN FOUND LOG: CODE and PATTERN are regular expressions; PATTERN must be in the message. Neither the
# output named by $absent nor a beginning of it may be left.
absent=
judge() {
    local name=$1 said
    said=$(end_of "$5")
    if [ "$4" -eq 124 ] || [ "$4" -eq 137 ]; then bad "$name" "hang: $said"
    elif ! [[ $4 =~ ^($2)$ ]]; then bad "$name" "exit $4, expected $2: $said"
    elif ! grep -qE -- "$3" "$5"; then bad "$name" "no '$3' in: $said"
    elif [ -n "$absent" ] && [ -e "$absent" ]; then bad "$name" "$absent was left behind"
    elif [ -n "$absent" ] && [ -e "$absent.part" ]; then bad "$name" "$absent.part was left behind"
    else return 0; fi
    return 1
}

# refused NAME CODE PATTERN COMMAND...: it fails as it should.
refused() {
    local name=$script.$1 code=$2 pattern=$3
    shift 3
    "$@"
    judge "$name" "$code" "$pattern" $? "$work/log" && ok "$name"
}

# The size after a phrase of a log ("1.25 GiB"), in bytes.
size_after() {
    sed -nE "s/.*$1[^0-9]*([0-9.]+) ?(B|KiB|MiB|GiB|TiB).*/\1 \2/p" "$2" | head -n 1 |
        awk '{ unit["B"] = 1; unit["KiB"] = 2^10; unit["MiB"] = 2^20; unit["GiB"] = 2^30; unit["TiB"] = 2^40; printf "%.0f", $1 * unit[$2] }'
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
