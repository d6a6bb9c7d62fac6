#!/usr/bin/env bash
# A training job stopped before its time limit by USR1, put back into the queue, and continued to the same dictionary as
# an uninterrupted run. requeue.sh [REQUEUES]: how often at least (1).
source "$(dirname "$0")/support.sh"
wanted=${1:-1}
job=("$pocket" --set text.max_documents=300)

darkfield 2 harvest "${job[@]}" --set out="$work/whole" || { bad slurm.requeue "harvest: exit $?: $(end_of "$work/log")"; finish; }
# Slurm's shortest limit is a minute, and USR1 comes within about 25 s of the start: the training must last longer, on a
# machine that may be twice as fast later as it is now (other tests run beside this one).
steps=1000 seconds=0
while :; do
    begin=$(date +%s)
    if ! darkfield 2 train "${job[@]}" --set out="$work/whole" --set train.steps=$steps; then
        bad slurm.requeue "uninterrupted run: exit $?: $(end_of "$work/log")"
        finish
    fi
    seconds=$(($(date +%s) - begin))
    [ "$seconds" -lt $((50 * wanted)) ] || break
    steps=$((steps * 54 * wanted / (seconds > 0 ? seconds : 1) + 100))
done
job+=(--set train.steps=$steps)
mkdir -p "$work/stopped"
cp "$work/whole"/*.acts.h5 "$work/stopped"
# As often as it takes: beside other tests three ranks may get far less done before each stop than two did above.
id=$(DARKFIELD_REQUEUES=1000 sbatch --parsable --ntasks=3 --time=1 --signal=USR1@40 --output="$work/batch.log" slurm/job.sbatch \
    train "${job[@]}" --set out="$work/stopped")
state=$(wait_for_job "$id" $((600 * wanted)))
restarts=$(job_field "$id" Restarts)
if [ "$state" != COMPLETED ]; then bad slurm.requeue "job ended as $state: $(end_of "$work/batch.log")"
elif [ "${restarts:-0}" -lt "$wanted" ]; then bad slurm.requeue "requeued ${restarts:-0} times, expected $wanted"
elif [ "$(digest "$work/stopped/crosscoder.dict.h5")" != "$(digest "$work/whole/crosscoder.dict.h5")" ]; then
    bad slurm.requeue "other content than the uninterrupted run"
else ok "slurm.requeue (put back $restarts times, ended on 3 ranks, same content as 2 ranks uninterrupted)"; fi

# A job that never gets done is not put back for ever.
id=$(DARKFIELD_REQUEUES=0 sbatch --parsable --ntasks=1 --time=5 --output="$work/limit.log" slurm/job.sbatch train "${job[@]}" \
    --set out="$work/stopped" --set train.steps=1000000 --set halt_file="$root/README.md")
state=$(wait_for_job "$id" 60)
if [ "$state" = FAILED ] && grep -q 'giving up' "$work/limit.log"; then ok slurm.requeue_limit
else bad slurm.requeue_limit "job ended as $state: $(end_of "$work/limit.log")"; fi
finish
