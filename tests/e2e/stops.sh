#!/usr/bin/env bash
# Requests to stop: SIGUSR1, SIGTERM, a time limit and a halt file end harvest and train at a safe point with exit code
# 75 and a checkpoint, and the run that goes on from it, on other rank counts, ends with the content of one that was
# never stopped. darkfield run stops between stages too.
source "$(dirname "$0")/../support/cases.sh"
LIMIT=180
job=("$pocket" --set text.max_documents=1200 --set train.latents=128 --set train.batch=256 --set train.steps=5000
    --set train.log_every=10 --set harvest.interval=0)
out=$work/stopped
log=$work/background.log

# start RANKS ARGUMENTS...: in the background; mpirun's pid in $launched.
start() {
    local ranks=$1
    shift
    timeout -k 10 "$LIMIT" mpirun --oversubscribe --bind-to none -n "$ranks" "$DARKFIELD" "$@" --set out="$out" \
        >"$log" 2>&1 </dev/null &
    guard=$!
    for _ in $(seq 100); do
        launched=$(pgrep -P "$guard" mpirun) && return
        sleep 0.05
    done
}

# Waits until the condition (a command) holds or the run has ended.
until_holds() {
    while kill -0 "$guard" 2>/dev/null && ! "$@"; do sleep 0.02; done
}
training() { grep -qE '^ *[0-9]+ +[0-9]' "$log"; } # a line of the training table

# stopped NAME CODES: the background run ends with one of these codes and says how to go on when it is 75.
stopped() {
    local code
    wait "$guard"
    code=$?
    if ! [[ $code =~ ^($2)$ ]]; then bad "stops.$1" "exit $code, expected $2: $(end_of "$log")"
    elif [ "$code" -eq 75 ] && ! grep -q 'stopped on request.*run' "$log"; then
        bad "stops.$1" "no word on how to go on: $(end_of "$log")"
    elif [ -e "$out/${3:-}" ] && [ -n "${3:-}" ]; then bad "stops.$1" "$3 stands under its final name"
    else ok "stops.$1"; fi
}

darkfield 2 run "${job[@]}" --set out="$work/whole" --set stages='harvest, train' ||
    { bad stops.reference "exit $?: $(end_of "$work/log")"; finish; }

# ---- harvest: a round of units is the safe point ---------------------------------------------------
harvest_has_progress() { [ -s "$out/base.acts.h5.progress" ]; }
start 2 harvest "${job[@]}" --set time_limit=0.000001
stopped harvest.time_limit 75 base.acts.h5
start 3 harvest "${job[@]}" --set harvest.interval=1000
until_holds grep -q '^model base' "$log"
kill -USR1 "$launched" 2>/dev/null
stopped harvest.usr1 75 tuned.acts.h5
start 4 harvest "${job[@]}" --set harvest.interval=1000 --set harvest.pipeline=2
until_holds grep -q '^model base' "$log"
kill -USR1 "$launched" 2>/dev/null
stopped harvest.pipeline 75 tuned.acts.h5
if darkfield 1 harvest "${job[@]}" --set out="$out" && [ "$(digests "$out")" = "$(digests "$work/whole" | grep acts)" ] &&
    ! harvest_has_progress; then
    ok stops.harvest.content
else bad stops.harvest.content "other content than an uninterrupted run, or exit $?: $(end_of "$work/log")"; fi

# ---- train: one run, stopped in every way -----------------------------------------------------------
dictionary=crosscoder.dict.h5
start 2 train "${job[@]}"
until_holds training
kill -USR1 "$launched" 2>/dev/null
stopped train.usr1 75 $dictionary
start 3 train "${job[@]}" --set halt_file="$work/halt"
until_holds training
: >"$work/halt"
stopped train.halt_file 75 $dictionary
start 1 train "${job[@]}" --set time_limit=0.005
stopped train.time_limit 75 $dictionary
# One rank alone is told; all stop.
start 2 train "${job[@]}"
until_holds training
kill -TERM "$(pgrep -P "$launched" | tail -n 1)" 2>/dev/null
stopped train.term_of_a_rank 75 $dictionary
# mpirun gives its ranks a moment only: the work since the last checkpoint may be lost, nothing else.
start 2 train "${job[@]}"
until_holds training
kill -TERM "$launched" 2>/dev/null
stopped train.term_of_mpirun '1|75|143' $dictionary
if darkfield 4 train "${job[@]}" --set out="$out" && grep -qE '^ *5000 ' "$work/log" && ! grep -qE '^ *10 ' "$work/log" &&
    [ "$(digest "$out/$dictionary")" = "$(digest "$work/whole/$dictionary")" ]; then ok stops.train.content
else bad stops.train.content "other content than an uninterrupted run, or exit $?: $(end_of "$work/log")"; fi
if ls "$out"/*.ckpt* "$out"/*.part >/dev/null 2>&1; then bad stops.train.cleans_up "left: $(ls "$out")"
else ok stops.train.cleans_up; fi

# ---- run: between stages ------------------------------------------------------------------------------
start 2 run "${job[@]}" --set stages='train, evaluate, stats, diff' --set halt_file="$work/halt"
stopped run.between_stages 75 stats.h5
finish
