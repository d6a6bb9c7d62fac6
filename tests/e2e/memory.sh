#!/usr/bin/env bash
# Memory: our own allocations stay within 2 % of what --dry-run says, for every stage on one rank and on two; and the
# process (VmHWM) within 10 % of that plan plus the printed weight of the process before the job, for a training job of at
# least 1 GiB on one rank. Sizes are printed with one decimal, so the 2 % are checked on jobs of some ten MiB and more.
source "$(dirname "$0")/../support/cases.sh"
out=$work/out
job=("$pocket" --set text.max_documents=20 --set out="$out" --set train.batch=512 --set train.steps=2
    --set train.aux=0)
all=(--set train.latents=8192 --set train.activation=topk --set train.shuffle=global --set text.max_documents=200)
stages=(shuffle train evaluate stats diff spectrum lens)

within() { awk -v a="$1" -v b="$2" -v share="$3" 'BEGIN { exit !(a > b * (1 - share) && a < b * (1 + share)) }'; }
own_is() { # NAME PLAN LOG: what the run in LOG took is what was planned
    local own
    own=$(size_after 'own memory on rank 0' "$3")
    if within "${own:-0}" "${2:-1}" 0.02; then ok "memory.$1 (plan $2, own $own)"
    else bad "memory.$1" "plan ${2:-none}, own ${own:-none}"; fi
}

# ---- every stage ---------------------------------------------------------------------------------
# planned STAGE OUTPUT: the plan of a stage in the log of a dry run.
for ranks in 1 2; do
    # Rows that are normalised one by one take room of their own in some stages.
    [ $ranks = 1 ] || all+=(--set train.token_norm=layer)
    darkfield $ranks harvest "${job[@]}" "${all[@]}" --dry-run || { bad memory.plan.harvest "exit $?: $(end_of "$work/log")"; finish; }
    plan=$(size_after 'own memory per rank' "$work/log")
    darkfield $ranks harvest "${job[@]}" "${all[@]}" --force || { bad memory.harvest "exit $?: $(end_of "$work/log")"; finish; }
    own_is "harvest.ranks_$ranks" "$plan" "$work/log"
    # Plans of all stages need the files that they will read.
    listed=(--set stages="$(IFS=,; echo "${stages[*]}")")
    darkfield $ranks run "${job[@]}" "${all[@]}" "${listed[@]}" || { bad memory.run "exit $?: $(end_of "$work/log")"; finish; }
    darkfield $ranks run "${job[@]}" "${all[@]}" "${listed[@]}" --dry-run || { bad memory.plan "exit $?: $(end_of "$work/log")"; finish; }
    cp "$work/log" "$work/plans.log"
    for stage in "${stages[@]}"; do
        case $stage in
            shuffle) file=shuffled.rows.h5 ;;
            train) file=crosscoder.dict.h5 ;;
            *) file=$stage.h5 ;;
        esac
        plan=$(size_after "plan: .*\/$file .*own memory per rank" "$work/plans.log")
        darkfield $ranks "$stage" "${job[@]}" "${all[@]}" --force || { bad "memory.$stage" "exit $?: $(end_of "$work/log")"; continue; }
        own_is "$stage.ranks_$ranks" "$plan" "$work/log"
        disk=$(size_after "plan: .*\/$file" "$work/plans.log") # of the living latents of diff at most
        if within "$(stat -c %s "$out/$file")" "${disk:-0}" 0.25; then ok "memory.disk.$stage.ranks_$ranks"
        else bad "memory.disk.$stage" "plan ${disk:-none}, is $(stat -c %s "$out/$file")"; fi
    done
    rm -rf "$out"
    # Rows that the models make as training asks for them, for two data groups.
    live=("${job[@]}" --set text.max_documents=200 --set train.from_models=true --set train.shuffle=buffer --set train.latents=4096
        --set train.centre=true --set train.data_groups=2)
    darkfield $ranks train "${live[@]}" --dry-run || { bad memory.plan.made "exit $?: $(end_of "$work/log")"; finish; }
    plan=$(size_after 'own memory per rank' "$work/log")
    darkfield $ranks train "${live[@]}" || { bad memory.made "exit $?: $(end_of "$work/log")"; finish; }
    own_is "made.ranks_$ranks" "$plan" "$work/log"
    rm -rf "$out"
done

# ---- a start from a sample of rows, which takes more than the steps -------------------------------
for ranks in 1 2; do
    begun=("$root/jobs/synthetic/toy-a.yaml" --set out="$out" --set train.preset=openai-topk --set train.synthetic.width=512
        --set train.latents=512 --set train.batch=256 --set train.steps=4 --set train.k=8)
    darkfield $ranks train "${begun[@]}" --dry-run || { bad memory.plan.begun "exit $?: $(end_of "$work/log")"; finish; }
    plan=$(size_after 'own memory per rank' "$work/log")
    darkfield $ranks train "${begun[@]}" || { bad memory.begun "exit $?: $(end_of "$work/log")"; finish; }
    own_is "begun.ranks_$ranks" "$plan" "$work/log"
    rm -rf "$out"
done

# ---- a harvest in parts ----------------------------------------------------------------------------
cut=("${job[@]}" --set text.max_documents=900 --set harvest.file_size=4MB)
darkfield 2 harvest "${cut[@]}" --dry-run || { bad memory.plan.cut "exit $?: $(end_of "$work/log")"; finish; }
plan=$(size_after 'plan: .*\/base.acts.h5' "$work/log")
darkfield 2 harvest "${cut[@]}" || { bad memory.cut "exit $?: $(end_of "$work/log")"; finish; }
own=$(cat "$out"/base.*acts.h5 | wc -c)
if within "$own" "${plan:-0}" 0.02; then ok "memory.disk.cut (plan $plan, is $own)"; else bad memory.disk.cut "plan ${plan:-none}, is $own"; fi
rm -rf "$out"

# ---- a model spread over two ranks, with and without bf16: the first stage's plan -------------------
for compute in f32 bf16; do
    deep=(harvest "${job[@]}" --set harvest.pipeline=2 --set harvest.context=256 --set harvest.compute=$compute
        --set harvest.sites=blocks.0.mlp.hook_post,blocks.1.attn.hook_result,blocks.3.hook_resid_post)
    # One process plans for any number of ranks.
    darkfield 1 "${deep[@]}" --dry-run || { bad memory.plan.pipeline "exit $?: $(end_of "$work/log")"; finish; }
    plan=$(size_after 'stage 1: .*memory' "$work/log")
    if [ "$(grep -c '% of the cost' "$work/log")" -eq $((2 * $(grep -c '^model ' "$work/log"))) ]; then ok memory.plan.pipeline.$compute
    else bad memory.plan.pipeline.$compute "no placement: $(end_of "$work/log")"; fi
    darkfield 2 "${deep[@]}" --force || { bad memory.pipeline "exit $?: $(end_of "$work/log")"; finish; }
    own_is "pipeline.$compute" "$plan" "$work/log"
    rm -rf "$out"
done

# ---- a threshold that selects more than k, up to twice as many and a few: after two steps of BatchTopK
half=(--set train.latents=8192 --set train.activation=batchtopk --set train.k=32 --set train.threshold_start=0
    --set text.max_documents=200)
for stage in harvest train; do
    darkfield 1 $stage "${job[@]}" "${half[@]}" || { bad memory.threshold "exit $?: $(end_of "$work/log")"; finish; }
done
for stage in evaluate stats; do
    darkfield 1 $stage "${job[@]}" "${half[@]}" --dry-run || { bad memory.threshold "exit $?: $(end_of "$work/log")"; finish; }
    plan=$(size_after 'own memory per rank' "$work/log")
    darkfield 1 $stage "${job[@]}" "${half[@]}" || { bad memory.threshold "exit $?: $(end_of "$work/log")"; finish; }
    own_is "threshold.$stage" "$plan" "$work/log"
done
rm -rf "$out"

# ---- a large one, and the process ----------------------------------------------------------------
# measure LOG ARGUMENTS...: one process without mpirun; its VmHWM in bytes on stdout.
measure() {
    "$PYTHON" - "$@" <<'PY'
import os, resource, subprocess, sys
with open(sys.argv[1], "w") as log:
    code = subprocess.run([os.environ["DARKFIELD"], *sys.argv[2:]], stdout=log, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)
sys.exit(code)
PY
}
large=(train "${job[@]}" --set train.latents=262144)
darkfield 1 harvest "${job[@]}" || { bad memory.harvest "exit $?: $(end_of "$work/log")"; finish; }
measure "$work/plan.log" "${large[@]}" --dry-run >/dev/null || { bad memory.plan "$(end_of "$work/plan.log")"; finish; }
whole=$(measure "$work/run.log" "${large[@]}") || { bad memory.large "$(end_of "$work/run.log")"; finish; }
plan=$(size_after 'own memory per rank' "$work/plan.log")
base=$(size_after 'process: at most [^,]*,' "$work/plan.log")
figures="plan ${plan:-none}, VmHWM $whole, base $base bytes"
own_is large "$plan" "$work/run.log"
if [ "${plan:-0}" -ge $((1 << 30)) ]; then ok "memory.size ($figures)"; else bad memory.size "a plan below 1 GiB: $figures"; fi
printed=$(size_after 'process: at most' "$work/run.log")
if within "${printed:-0}" "$whole" 0.01; then ok memory.printed; else bad memory.printed "prints ${printed:-none}, is $whole"; fi
if [ "${base:-0}" -gt 0 ] && within "$whole" $((${plan:-0} + base)) 0.10; then ok memory.process; else bad memory.process "$figures"; fi
finish
