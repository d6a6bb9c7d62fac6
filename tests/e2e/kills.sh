#!/usr/bin/env bash
# SIGKILL of one rank at random seeded points of harvest and train, then a resume on another number of ranks, until the
# stage is complete: the content must be that of an uninterrupted run. kills.sh [KILLS [SEED]]
source "$(dirname "$0")/../support/cases.sh"
kills=${1:-${DARKFIELD_KILLS:-12}}
seed=${2:-20261123}
RANDOM=$seed
harvest_options=(--set text.max_documents=800 --set harvest.interval=0.2)
train_options=(--set text.max_documents=300 --set train.steps=${DARKFIELD_KILL_STEPS:-400})

now() { date +%s%N; }

# One process of a launched mpirun's ranks, by number; they are its direct children.
rank_pid() { pgrep -P "$1" | sed -n "$((1 + $2))p"; }

# start RANKS STAGE OPTIONS...: in the background; its pid in $launched.
start() {
    local ranks=$1
    shift
    mpirun --oversubscribe --bind-to none -n "$ranks" "$DARKFIELD" "$@" >"$work/log" 2>&1 </dev/null &
    launched=$!
}

# Ends within $1 seconds, or is counted as a hang and killed.
ends_within() {
    local until=$(($(date +%s) + $1))
    while kill -0 "$launched" 2>/dev/null; do
        [ "$(date +%s)" -lt "$until" ] || { kill -KILL "$launched"; wait "$launched" 2>/dev/null; return 1; }
        sleep 0.05
    done
}

# A depth of a pipeline that so many ranks can have.
depth_for() {
    local depth
    while depth=$((1 + RANDOM % 4)); [ $(($1 % depth)) -ne 0 ]; do :; done
    echo "$depth"
}

# kill_once STAGE FILE MILLISECONDS: a run on a random number of ranks loses a random rank after that time.
# 0: killed; 1: it ended before; 2: something is wrong (case already reported).
kill_once() {
    local stage=$1 result=$2 after=$3 ranks=$((1 + RANDOM % 4)) victim pid
    victim=$((RANDOM % ranks))
    last_point="$stage, rank $victim of $ranks after $after ms"
    start "$ranks" "$stage" "$pocket" "${options[@]}" --set harvest.pipeline="$(depth_for "$ranks")"
    sleep "$((after / 1000)).$(printf %03d $((after % 1000)))"
    pid=$(rank_pid "$launched" "$victim")
    if [ -z "$pid" ] || ! kill -KILL "$pid" 2>/dev/null; then
        ends_within 120 || { bad "kills.$case" "no end after missing $last_point"; return 2; }
        wait "$launched"
        return 1
    fi
    ends_within 60 || { bad "kills.$case" "hang after the kill of $last_point"; return 2; }
    if wait "$launched"; then bad "kills.$case" "mpirun returned 0 after the kill of $last_point"; return 2; fi
    # The result may stand only when it is complete.
    if [ -e "$result" ] && ! "$DARKFIELD" check "$result" >/dev/null 2>&1 </dev/null; then
        bad "kills.$case" "an unsound $(basename "$result") after the kill of $last_point"
        return 2
    fi
    return 0
}

# schedule STAGE FILE...: kills in groups of one to three, each group followed by a resume to the end.
schedule() {
    local stage=$1 total=$2 reference=$3 out=$4 done_kills=0 file begin length group points ranks
    shift 4
    local results=("$@")
    while [ "$done_kills" -lt "$total" ]; do
        case=$stage.$((done_kills + 1))
        for file in "$out"/*; do case $(basename "$file") in ${keep:-nothing}) ;; *) rm -rf "$file" ;; esac; done
        group=$((1 + RANDOM % 3)) points=''
        while [ "$group" -gt 0 ] && [ "$done_kills" -lt "$total" ]; do
            group=$((group - 1))
            # Between the start of MPI and the end of the run that was timed.
            kill_once "$stage" "$out/${results[-1]}" $((300 + (RANDOM * 32768 + RANDOM) % length_ms))
            case $? in
                0) done_kills=$((done_kills + 1)); points+="$last_point; " ;;
                1) break ;; # it was faster: the group ends here
                2) return ;;
            esac
        done
        [ -n "$points" ] || continue
        ranks=$((1 + RANDOM % 4))
        if ! darkfield $ranks "$stage" "$pocket" "${options[@]}" --set harvest.pipeline="$(depth_for $ranks)"; then
            bad "kills.$case" "resume: exit $? after $points: $(end_of "$work/log")"
            return
        fi
        for file in "${results[@]}"; do
            if [ "$(digest "$out/$file")" = "$(digest "$reference/$file")" ]; then ok "kills.$case.$file ($points)"
            else bad "kills.$case.$file" "other content after $points"; fi
        done
    done
}

# timed OUT STAGE: the uninterrupted run; sets length_ms.
timed() {
    local begin
    begin=$(now)
    darkfield 2 "$2" "$pocket" "${options[@]}" --set out="$1" || { bad "kills.$2.reference" "exit $?: $(end_of "$work/log")"; finish; }
    length_ms=$((($(now) - begin) / 1000000))
}

echo "kills: $kills kills, seed $seed"
options=("${harvest_options[@]}")
timed "$work/harvest" harvest
options+=(--set out="$work/harvest-killed")
mkdir -p "$work/harvest-killed"
schedule harvest $((kills / 2)) "$work/harvest" "$work/harvest-killed" base.acts.h5 tuned.acts.h5

options=("${train_options[@]}")
mkdir -p "$work/train"
darkfield 2 harvest "$pocket" "${options[@]}" --set out="$work/train" || { bad kills.train.harvest "$(end_of "$work/log")"; finish; }
cp -r "$work/train" "$work/train-killed"
timed "$work/train" train
options+=(--set out="$work/train-killed" --set train.checkpoint_minutes=0.01)
keep='*.acts.h5'
schedule train $((kills - kills / 2)) "$work/train" "$work/train-killed" crosscoder.dict.h5
finish
