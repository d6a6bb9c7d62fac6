#!/usr/bin/env bash
# All tests: packages, builds, unit and MPI suites, sanitizers, fuzzers, end to end, kills, Slurm. Under 20 minutes on
# two cores; needs no terminal and no stdin. The closing line is "N passed, N failed, N skipped".
#
#   ./tests/run.sh                  what CI runs
#   ./tests/run.sh --full           long kill schedules, chains of requeues, long fuzzing, more damaged files (35 minutes)
#   ./tests/run.sh --only STEP,...  of: unit sanitize fuzz e2e kills slurm, or an end-to-end script: equality, chain, ...
#
# DARKFIELD_FIXTURES names a folder with stories-pair/ and models/ (really trained models); without it those tests are skipped.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' tests/run.sh >&2; exit 2; }

full=no
steps=unit,sanitize,fuzz,e2e,kills,slurm
while [ $# -gt 0 ]; do
    case $1 in
        --full) full=yes; shift ;;
        --only) [ $# -ge 2 ] || usage; steps=$2; shift 2 ;;
        *) usage ;;
    esac
done
known=" unit sanitize fuzz e2e kills slurm $(basename -as .sh tests/e2e/*.sh tests/slurm/*.sh | grep -v support | tr '\n' ' ')"
for step in ${steps//,/ }; do
    case $known in *" $step "*) ;; *) echo "tests/run.sh: no step is called $step; there are:$known" >&2; exit 2 ;; esac
done
exec </dev/null
cores=$(env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc) # which heeds them
if [ $full = yes ]; then
    fuzz_seconds=150 kills=30 requeues=3
    export DARKFIELD_MUTATIONS=25 DARKFIELD_KILL_STEPS=1200
else
    fuzz_seconds=30 kills=10 requeues=1
fi
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1
# Open MPI's jobs share a folder, which the last one to end takes away, maybe from under one that starts: not with ours in it.
kept=${TMPDIR:-/tmp}/ompi.$(uname -n).$(id -u)/kept-by-tests-$$
mkdir -p "$kept"
logs=build/test-logs
mkdir -p $logs
rm -f $logs/*.code
results=$logs/results.txt times=$logs/times.txt
: >$results
: >$times
began=$(date +%s)

wanted() { case ",$steps," in *,"$1",*) return 0 ;; *) return 1 ;; esac; }
# A heading starts a section; the closing table says how long each took.
section='' section_began=$began
end_section() {
    local now
    now=$(date +%s)
    [ -z "$section" ] || printf '%6d s  %s\n' $((now - section_began)) "$section" >>$times
    section=$* section_began=$now
}
heading() { end_section "$*"; printf '\n== %s  [%d s]\n' "$*" $(($(date +%s) - began)); }
# One line of a result: shown and counted.
result() { echo "$*" | tee -a $results; }

close() {
    local passed failed skipped
    passed=$(grep -c '^ok ' $results)
    failed=$(grep -c '^FAIL ' $results)
    skipped=$(grep -c '^skip ' $results)
    heading "closing"
    grep '^skip ' $results
    grep '^FAIL ' $results
    sort -rn $times
    echo "took $(($(date +%s) - began)) s"
    echo "$passed passed, $failed failed, $skipped skipped"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
    exit
}

# build FOLDER [cmake options...] [-- targets...]: quiet when it works.
build() {
    local folder=$1 options=() targets=()
    shift
    while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
    [ $# -le 1 ] || { shift; targets=(--target "$@"); }
    if cmake -S . -B "build/$folder" -DDARKFIELD_WERROR=ON "${options[@]}" >"$logs/build-$folder.log" 2>&1 &&
        cmake --build "build/$folder" -j "$cores" "${targets[@]}" >>"$logs/build-$folder.log" 2>&1; then
        result "ok build.$folder"
    else
        grep -E -m 10 'error|Error' "$logs/build-$folder.log" || tail -n 20 "$logs/build-$folder.log"
        result "FAIL build.$folder: see $logs/build-$folder.log"
        return 1
    fi
}

# suite FOLDER PREFIX [ctest options]: every ctest test is a result; cmocka's own skips are named too.
suite() {
    local folder=$1 prefix=$2 log=$logs/$1.log
    shift 2
    # Not those tests that failed, but ctest itself: it found none, or was killed before it had run them all.
    ctest --test-dir "build/$folder" -j $((2 * cores)) -V --no-tests=error "$@" >"$log" 2>&1 ||
        grep -q '^The following tests FAILED' "$log" || { tail -n 5 "$log"; result "FAIL ${prefix}ctest: see $log"; }
    while read -r line; do result "$line"; done < <(awk -v prefix="$prefix" '
        /^ *[0-9]+\/[0-9]+ Test +#[0-9]+: / {
            sub(/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: /, ""); name = prefix $1
            if (/ Passed /) print "ok " name
            else if (/Skipped|Disabled/) print "skip " name ": skipped by ctest"
            else { match($0, /\*\*\*[A-Za-z ]+/); print "FAIL " name ": " substr($0, RSTART + 3, RLENGTH - 3) }
        }' "$log")
    while read -r line; do result "$line"; done < <(awk -v prefix="$prefix" '
        /^test [0-9]+$/ { number = $2; next }
        /^ +Start +[0-9]+: / { split($0, part, ": "); sub(/[^0-9]*/, "", part[1]); names[part[1]] = part[2] }
        /\[  SKIPPED \] [A-Za-z_]/ && !/listed below/ {
            split($0, part, ":"); key = prefix names[part[1]] "." $NF
            if (!(key in seen)) { seen[key] = 1; print "skip " key ": skips itself" }
        }' "$log")
    # What a failed test printed.
    awk '/^ *[0-9]+\/[0-9]+ Test +#[0-9]+: .*\*\*\*(Failed|Timeout|Exception|Not Run)/ {
            match($0, /#[0-9]+/); failed[substr($0, RSTART + 1, RLENGTH - 1)] = 1 }
         { lines[NR] = $0 }
         END { for (i = 1; i <= NR; i++) { split(lines[i], part, ":"); if (part[1] in failed && lines[i] !~ /Environment variables|^[0-9]+:  [A-Z_]+=|Working Directory/ && shown[part[1]]++ < 60) print lines[i] } }' "$log"
}

# start NAME COMMAND...: an end-to-end script in the background, at most an hour, its output in a log; its pid in $running.
running=''
start() {
    : >"$logs/$1.log"
    timeout -k 30 3600 "${@:2}" >"$logs/$1.log" 2>&1 &
    running=$!
}
# The results in a script's log, and what is wrong with the script as a whole.
script_results() { # NAME EXIT_CODE
    local log=$logs/$1.log
    grep -E '^(ok|FAIL|skip) ' "$log" >>$results || result "FAIL $1: ran no case"
    [ "$2" -eq 0 ] || grep -q '^FAIL ' "$log" || result "FAIL $1: exit $2, see $log"
}
# script STEP FILE [ARGUMENT]: an end-to-end script, if its step or its own name is wanted; its lines are the results.
script() {
    local name code shown
    name=$(basename "$2" .sh)
    wanted "$1" || wanted "$name" || return
    heading "$name"
    start "$name" "${@:2}"
    tail -n +1 -f -s 0.2 --pid=$running "$logs/$name.log" | sed -u '/^\(ok\|FAIL\|skip\) /!s/^/   /' &
    shown=$!
    wait "$running"
    code=$?
    running=''
    wait "$shown"
    script_results "$name" "$code"
}

# beside STEP FILE [ARGUMENT]: the same beside what follows begin_beside, one of them at a time: for scripts that mostly
# wait. Each has a temporary folder of its own: Open MPI's jobs clean up after one another there.
waiting=() lane=''
beside() {
    wanted "$1" || wanted "$(basename "$2" .sh)" || return
    waiting+=("${*:2}")
}
begin_beside() {
    [ ${#waiting[@]} -gt 0 ] || return
    (
        trap 'stop_running; rm -rf "$scratch"; exit 143' TERM
        for command in "${waiting[@]}"; do
            name=$(basename "${command%% *}" .sh)
            scratch=$(mktemp -d)
            export TMPDIR=$scratch
            start "$name" $command
            wait "$running"
            echo $? >"$logs/$name.code"
            running=''
            rm -rf "$scratch"
            unset TMPDIR
        done
    ) &
    lane=$!
}
end_beside() {
    local command name
    for command in "${waiting[@]}"; do
        name=$(basename "${command%% *}" .sh)
        heading "$name (began beside the others)"
        while [ ! -s "$logs/$name.code" ] && kill -0 "$lane" 2>/dev/null; do sleep 0.5; done
        cat "$logs/$name.log"
        script_results "$name" "$(cat "$logs/$name.code" 2>/dev/null || echo 137)" # no code: the lane itself was killed
    done
    lane=''
}

# Nothing is left running when this script is told to end.
stop_running() { [ -z "$running" ] || { kill "$running"; wait "$running"; } 2>/dev/null; }
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'stop_running; [ -z "$lane" ] || { kill "$lane"; wait "$lane"; } 2>/dev/null; rmdir "$kept"' EXIT

fuzz_one() {
    local name=$1 folder=build/fuzz/tests/fuzz found=build/fuzz/found/$1
    mkdir -p "$found"
    if "$folder/fuzz_$name" -max_total_time=$fuzz_seconds -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$found-" "$found" "tests/fuzz/seeds/$name" >"$logs/fuzz-$name.log" 2>&1; then
        result "ok fuzz.$name ($(sed -n 's/.*number_of_executed_units: *//p' "$logs/fuzz-$name.log") inputs in $fuzz_seconds s)"
    else
        grep -E -m 3 'ERROR|SUMMARY|runtime error' "$logs/fuzz-$name.log"
        result "FAIL fuzz.$name: see $logs/fuzz-$name.log"
    fi
}

heading "packages"
if ./jobs/packages.sh --tests >$logs/packages.log 2>&1; then tail -n 1 $logs/packages.log
else cat $logs/packages.log; result "FAIL packages: see above"; close; fi

heading "build, warnings as errors"
build check -DCMAKE_BUILD_TYPE=Release || close
export DARKFIELD=$PWD/build/check/jobs/darkfield

if wanted unit; then
    heading "unit and MPI suites, guards"
    suite check ''
fi
if wanted sanitize; then
    heading "unit suite under AddressSanitizer and UndefinedBehaviorSanitizer"
    build sanitize -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDARKFIELD_SANITIZE=ON -- unit_tests && suite sanitize sanitize. -L unit
fi
if wanted fuzz; then
    heading "fuzzers, $fuzz_seconds s each"
    names=$(ls tests/fuzz/fuzz_*.c | sed 's|.*/fuzz_||; s|\.c$||')
    if build fuzz -DCMAKE_C_COMPILER=clang -DCMAKE_BUILD_TYPE=RelWithDebInfo -DDARKFIELD_FUZZ=ON \
        -- $(printf 'fuzz_%s ' $names); then
        export -f fuzz_one result
        export fuzz_seconds logs results
        echo "$names" | xargs -P $((cores + 1)) -I{} bash -c 'fuzz_one {}'
    fi
fi
beside slurm tests/slurm/chain.sh
beside slurm tests/slurm/requeue.sh $requeues
beside e2e tests/e2e/bad_input.sh
begin_beside
script e2e tests/e2e/main_job.sh
script e2e tests/e2e/equality.sh
script e2e tests/e2e/data.sh
script e2e tests/e2e/sweep.sh
script e2e tests/e2e/convert.sh
script e2e tests/e2e/generate.sh
script e2e tests/e2e/stops.sh
script e2e tests/e2e/lens.sh
script e2e tests/e2e/memory.sh
script e2e tests/e2e/stories.sh
script kills tests/e2e/kills.sh $kills
end_beside
close
