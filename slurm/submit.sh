#!/usr/bin/env bash
# All stages of a job file as a chain of batch jobs.
#
#   slurm/submit.sh [--wait] JOB.yaml [sbatch options] [-- darkfield options]
#   slurm/submit.sh jobs/quickstart/pocket.yaml --ntasks=4 --time=2:00:00 -- --set train.steps=5000
#
#   harvest -> shuffle -> train -> evaluate, stats, spectrum (side by side) -> diff -> report
#   lens (where the job file has such a section) ------------------------------------> report
#
# A stage starts when those before it have ended well; when one fails, Slurm drops the rest of the chain. Stages that
# are complete return at once, so the same line continues a chain that broke. Prints one line per job, "STAGE JOBID".
# With --wait it returns when the chain has ended: 0 when the report was made. Environment: see slurm/job.sbatch.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2; }

wait_for_it=no
if [ "${1:-}" = --wait ]; then wait_for_it=yes; shift; fi
[ $# -ge 1 ] && [ "${1:0:1}" != - ] || usage
job_file=$1
shift
[ -r "$job_file" ] || { echo "submit: $job_file cannot be read" >&2; exit 2; }
sbatch_options=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do sbatch_options+=("$1"); shift; done
[ $# -eq 0 ] || shift
darkfield_options=("$@")

if [ -z "${DARKFIELD:-}" ] && [ -x "$here/../build/jobs/darkfield" ]; then
    DARKFIELD=$(cd "$here/../build/jobs" && pwd)/darkfield
    export DARKFIELD
fi

# submit STAGE "ID ID ..." [sbatch options]: prints the job's id.
submit() {
    local stage=$1 after=$2 options=()
    shift 2
    [ -z "$after" ] || options+=(--dependency="afterok:${after// /:}" --kill-on-invalid-dep=yes)
    sbatch --parsable --job-name="darkfield-$stage" "${sbatch_options[@]}" "${options[@]}" "$@" \
        "$here/job.sbatch" "$stage" "$job_file" "${darkfield_options[@]}" | cut -d';' -f1
}

lens=
if grep -q '^lens:' "$job_file"; then lens=$(submit lens ""); echo "lens $lens"; fi
harvest=$(submit harvest "");                            echo "harvest $harvest"
shuffle=$(submit shuffle "$harvest");                    echo "shuffle $shuffle"
train=$(submit train "$shuffle");                        echo "train $train"
evaluate=$(submit evaluate "$train");                    echo "evaluate $evaluate"
stats=$(submit stats "$train");                          echo "stats $stats"
spectrum=$(submit spectrum "$train");                    echo "spectrum $spectrum"
diff=$(submit diff "$evaluate $stats");                  echo "diff $diff"
# The page is made by one process.
report=$(submit report "$spectrum $diff${lens:+ $lens}" --ntasks=1); echo "report $report"

[ "$wait_for_it" = yes ] || exit 0
state() { scontrol show job "$1" 2>/dev/null | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p'; }
while :; do
    case $(state "$report") in
        COMPLETED) exit 0 ;;
        PENDING | CONFIGURING | RUNNING | COMPLETING | REQUEUED | SUSPENDED) sleep 1 ;;
        *) break ;;
    esac
done
for stage in harvest ${lens:+lens} shuffle train evaluate stats spectrum diff report; do
    echo "$stage ${!stage}: $(state "${!stage}")" >&2
done
exit 1
