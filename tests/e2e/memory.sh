#!/usr/bin/env bash
# Memory: our own allocations stay within 2 % of what --dry-run says, and the process (VmHWM) within 10 % of that plan
# plus the printed weight of the process before the job, for a training job of at least 1 GiB on one rank. Sizes are printed with one
# decimal, so the 2 % are checked on a job of some hundred MiB.
source "$(dirname "$0")/../support/cases.sh"
out=$work/out
job=("$pocket" --set text.max_documents=20 --set out="$out" --set train.batch=512 --set train.steps=2
    --set train.aux=0)
darkfield 1 harvest "${job[@]}" || { bad memory.harvest "exit $?: $(tail -n 3 "$work/log")"; finish; }

# The harvest says what it needs, and needs that.
plan_log=$work/harvest-plan.log
harvest=(harvest "$pocket" --set out="$work/more" --set text.max_documents=3000)
"$DARKFIELD" "${harvest[@]}" --dry-run >"$plan_log" 2>&1 </dev/null
darkfield 1 "${harvest[@]}" || { bad memory.harvest "exit $?: $(tail -n 3 "$work/log")"; finish; }
cp "$work/log" "$work/harvest.log"

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
# The size after a phrase of a log ("1.25 GiB"), in bytes.
size_after() {
    sed -nE "s/.*$1[^0-9]*([0-9.]+) ?(B|KiB|MiB|GiB|TiB).*/\1 \2/p" "$2" | head -n 1 |
        awk '{ unit["B"] = 1; unit["KiB"] = 2^10; unit["MiB"] = 2^20; unit["GiB"] = 2^30; unit["TiB"] = 2^40; printf "%.0f", $1 * unit[$2] }'
}
within() { awk -v a="$1" -v b="$2" -v share="$3" 'BEGIN { exit !(a > b * (1 - share) && a < b * (1 + share)) }'; }

# train LATENTS: sets plan, own, base, whole and figures of a training job.
train() {
    measure "$work/plan.log" train "${job[@]}" --set train.latents="$1" --dry-run >/dev/null || { bad memory.plan "$(tail -n 3 "$work/plan.log")"; finish; }
    plan=$(size_after 'memory per rank' "$work/plan.log")
    base=$(size_after 'process: at most [^,]*,' "$work/plan.log")
    whole=$(measure "$work/run.log" train "${job[@]}" --set train.latents="$1") || { bad memory.run "$(tail -n 3 "$work/run.log")"; finish; }
    own=$(size_after 'own memory on rank 0' "$work/run.log")
    figures="plan ${plan:-none}, own ${own:-none}, VmHWM $whole, base $base bytes"
}

harvest_plan=$(size_after 'own memory per rank' "$plan_log")
harvest_own=$(size_after 'own memory on rank 0' "$work/harvest.log")
if within "${harvest_own:-0}" "${harvest_plan:-1}" 0.02; then ok "memory.harvest (plan $harvest_plan, own $harvest_own)"
else bad memory.harvest "plan ${harvest_plan:-none}, own ${harvest_own:-none}"; fi
train 98304
if within "${own:-0}" "${plan:-1}" 0.02; then ok "memory.own ($figures)"; else bad memory.own "$figures"; fi
train 262144
if [ "${plan:-0}" -ge $((1 << 30)) ]; then ok "memory.size ($figures)"; else bad memory.size "a plan below 1 GiB: $figures"; fi
printed=$(size_after 'process: at most' "$work/run.log")
if within "${printed:-0}" "$whole" 0.01; then ok memory.printed; else bad memory.printed "prints ${printed:-none}, is $whole"; fi
if [ "${base:-0}" -gt 0 ] && within "$whole" $((${plan:-0} + base)) 0.10; then ok memory.process; else bad memory.process "$figures"; fi
finish
