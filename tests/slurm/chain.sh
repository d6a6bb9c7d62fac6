#!/usr/bin/env bash
# The main job's stages as a chain of batch jobs, waiting for the report; and a chain whose first stage fails.
source "$(dirname "$0")/support.sh"
out=$work/pocket

cd "$work" || exit 1 # logs go to where sbatch was called
submit() { timeout 300 "$root/slurm/submit.sh" --wait "$@"; }
batch=(--ntasks=2 --time=10 --chdir="$root" --output="$work/%x-%j.log")
if submit "$root/$pocket" "${batch[@]}" -- "${small[@]}" --set out="$out" --set report.null="$work/none" >"$work/ids" 2>"$work/errors"; then
    if [ -s "$out/report.html" ]; then ok slurm.chain; else bad slurm.chain "no report at the end"; fi
else bad slurm.chain "$(tail -n 8 "$work/errors" | tr '\n' ' ') $(tail -n 3 "$work"/darkfield-*.log | tr '\n' ' ')"; fi

while read -r stage id; do
    if grep -q "darkfield $stage .* on [12] x 1" "$work/darkfield-$stage-$id.log" 2>/dev/null; then ok "slurm.chain.$stage"
    else bad "slurm.chain.$stage" "no log of this stage under job $id"; fi
done <"$work/ids"

if submit "$root/$pocket" "${batch[@]}" -- --set text.file="$work/none.jsonl" --set out="$work/broken" >"$work/ids" 2>"$work/errors"; then
    bad slurm.broken_chain "submit.sh --wait returned 0 though harvest fails"
elif grep -q 'harvest .*: FAILED' "$work/errors" && grep -q 'report .*: CANCELLED' "$work/errors"; then ok slurm.broken_chain
else bad slurm.broken_chain "$(tr '\n' ' ' <"$work/errors")"; fi
finish
