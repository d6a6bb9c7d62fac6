#!/usr/bin/env bash
# A sweep through the program: every member is the dictionary that it is alone, on any ranks and after a kill on two ranks and
# a resume on three; what is complete is skipped, one by one; memory is as planned; the report ranks them; bad sweeps are named.
source "$(dirname "$0")/../support/cases.sh"
LIMIT=120
out=$work/out
base=(--set text.max_documents=150 --set train.batch=256 --set train.steps=80 --set train.latents=128 --set train.sweep=none)
members=(k4 wide tuned-m64 relu)
sweep='[{k: 4}, {name: wide, latents: 512, seed: 7}, {model: tuned, latents: 64}, {name: relu, activation: relu, penalty: l1, penalty_weight: 0.1}]'
job=("$pocket" "${base[@]}" --set train.sweep="$sweep" --set out="$out")

all_digests() { for member in "${members[@]}"; do digest "$out/train-$member.dict.h5"; done; }
same() { # NAME: the members' digests are those of the dictionaries made alone
    local found
    found=$(all_digests)
    if [ "$found" = "$alone" ]; then ok "sweep.$1"; else bad "sweep.$1" "digests $(echo $found), expected $(echo $alone)"; fi
}
bad_sweep() { # NAME PATTERN LINES-OF-THE-SECTION
    printf 'seed: 1\nout: %s\nmodels: {a: {path: jobs/quickstart/base}}\ntext: {file: jobs/quickstart/text.jsonl}\nsite: blocks.3.hook_resid_post\ntrain:\n%b\n' \
        "$out" "$3" >"$work/bad.yaml"
    refused "refused.$1" 2 "$2" darkfield 1 train "$work/bad.yaml"
}

must harvest darkfield 2 harvest "${job[@]}" || finish

# ---- alone ---------------------------------------------------------------------------------------
alone_of() { # NAME KIND OPTIONS...
    local name=$1 kind=$2
    shift 2
    must "alone.$name" darkfield 1 train "$pocket" "${base[@]}" --set out="$out" "$@" || finish
    digest "$out/$kind.dict.h5"
    rm "$out/$kind.dict.h5"
}
alone=$(
    alone_of k4 crosscoder --set train.k=4
    alone_of wide crosscoder --set train.latents=512 --set train.seed=7
    alone_of tuned sae --set train.model=tuned --set train.latents=64
    alone_of relu crosscoder --set train.activation=relu --set train.penalty=l1 --set train.penalty_weight=0.1
) || { echo "$alone"; exit 1; }

# ---- the plan, ranks, a kill -----------------------------------------------------------------------
must plan darkfield 1 train "${job[@]}" --dry-run && plan=$(size_after 'memory per rank' "$work/log")
must one darkfield 1 train "${job[@]}" && same ranks_1
own=$(size_after 'own memory on rank 0' "$work/log")
if awk -v a="${own:-0}" -v b="${plan:-1}" 'BEGIN { exit !(a > b * 0.98 && a < b * 1.02) }'; then ok "sweep.memory (plan $plan, own $own)"
else bad sweep.memory "plan ${plan:-none}, own ${own:-none}"; fi
must ranks_4 darkfield 4 train "${job[@]}" --force && same ranks_4

rm -f "$out"/train-*
lose_a_rank "$out/train-relu.*.ckpt.h5" train "${job[@]}" --set train.checkpoint_minutes=0.0001 ||
    bad sweep.kill "it was over before the kill"
must resume darkfield 3 train "${job[@]}" && same killed_on_2_resumed_on_3
if grep -q 'from step' "$work/log"; then ok sweep.resumed; else bad sweep.resumed "it began anew"; fi

touch "$work/halt"
darkfield 2 train "${job[@]}" --force --set halt_file="$work/halt"
code=$?
if [ $code -eq 75 ] && grep -q 'stopped on request' "$work/log"; then ok sweep.stop; else bad sweep.stop "exit $code"; fi
rm -f "$out"/train-*
must again darkfield 2 train "${job[@]}" && same from_the_start

# ---- skipping, later stages ------------------------------------------------------------------------
rm "$out/train-wide.dict.h5"
must skip darkfield 2 train "${job[@]}" && same only_what_is_missing
if [ "$(grep -c 'is complete and current: skipped' "$work/log")" -eq 3 ] && [ "$(grep -c 'train: wrote' "$work/log")" -eq 1 ]; then ok sweep.skipped
else bad sweep.skipped "$(grep -E 'skipped|wrote' "$work/log" | tr '\n' ' ')"; fi
must run darkfield 2 run "${job[@]}" --set train.use=wide && ok sweep.run
page=$out/report.html
for member in "${members[@]}"; do
    [ -s "$out/evaluate-$member.h5" ] && grep -q "<td>$member</td>\|<b>$member</b>" "$page" || bad "sweep.report.$member" "not in the report"
done
if grep -q 'studies <b>wide</b>' "$page" && grep -q 'Pareto front' "$page"; then ok sweep.report; else bad sweep.report "no front or member in $page"; fi
front=$("$PYTHON" - <<'PY'
import sys
sys.path.insert(0, "analysis")
from report import pareto
print(pareto([(1, 5), (2, 3), (2, 4), (3, 3), (4, 1), (4, 1)]))
PY
)
if [ "$front" = "[True, True, False, False, True, True]" ]; then ok sweep.pareto; else bad sweep.pareto "$front"; fi

# ---- bad sweeps ------------------------------------------------------------------------------------
bad_sweep unknown "bad.yaml:7: unknown key 'train.latens'; did you mean 'train.latents'" '  sweep: {latens: [4, 8]}'
bad_sweep empty 'bad.yaml:8: train.sweep: expected a list of values' '  sweep:\n    k: []'
bad_sweep none 'bad.yaml:7: train.sweep: the sweep has no members' '  sweep: {}'
bad_sweep twice 'bad.yaml:7: train.sweep: members 1 and 2 are both called k4' '  sweep: {k: [4, 4]}'
bad_sweep alike 'bad.yaml:7: train.sweep: members a and b have the same settings' '  sweep: [{name: a, k: 8}, {name: b}]'
bad_sweep fixed 'bad.yaml:7: train.sweep: train.batch cannot be swept' '  sweep: {batch: [256, 512]}'
bad_sweep scale 'bad.yaml:7: train.sweep: train.normalise cannot be swept' '  sweep: {normalise: [rms, none]}'
bad_sweep use 'bad.yaml:8: train.use: no member of the sweep is called "k5".*did you mean k4' '  sweep: {k: [4, 8]}\n  use: k5'
bad_sweep value 'bad.yaml:8: train.k: expected a value from 1' '  sweep:\n  - {k: 0}'
bad_sweep member 'bad.yaml:7: train.k is 9, more than the 8 latents' '  sweep: {k: [4, 9], latents: [8]}'
finish
