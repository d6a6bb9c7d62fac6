#!/usr/bin/env bash
# The lens of the pocket pair: the same file on any ranks and threads, what it refuses, when `run` makes it, and what the
# report and the notebook reader make of it.
source "$(dirname "$0")/../support/cases.sh"
small=(--set text.max_documents=60 --set lens.windows=5 --set lens.context=100 --set lens.sequences=6 --set lens.period=20)
lens() { # RANKS FOLDER ARGUMENTS...
    local ranks=$1 folder=$2
    shift 2
    darkfield "$ranks" lens "$work/job.yaml" "${small[@]}" --set out="$work/$folder" "$@"
}
# No site: the lens needs none.
cat >"$work/job.yaml" <<JOB
seed: 3
models:
  a: {name: base, path: jobs/quickstart/base}
  b: {name: tuned, path: jobs/quickstart/tuned}
text: {file: jobs/quickstart/text.jsonl}
JOB

must run lens 1 1x1 || finish
if "$DARKFIELD" check "$work/1x1/lens.h5" >"$work/log" 2>&1; then ok lens.check; else bad lens.check "$(end_of "$work/log")"; fi
reference=$(digest "$work/1x1/lens.h5")
for layout in 2x1 3x1 4x1 1x2 2x2; do
    must "$layout" lens "${layout%x*}" "$layout" --set threads="${layout#*x}" || continue
    found=$(digest "$work/$layout/lens.h5")
    if [ -n "$found" ] && [ "$found" = "$reference" ]; then ok "lens.equal.$layout"; else bad "lens.equal.$layout" "${found:-none}, not $reference"; fi
done
must again lens 2 1x1 && if grep -q skipped "$work/log"; then ok lens.skips_complete; else bad lens.skips_complete "it ran again"; fi
must against lens 1 against --set lens.against=a && if grep -q 'wrote' "$work/log"; then ok lens.against; else bad lens.against "$(end_of "$work/log")"; fi

absent=$work/none/lens.h5
refused heldout 3 'held out' lens 2 none --set text.heldout=0
refused context 2 'lens.context is 100000' lens 2 none --set lens.context=100000
refused period 2 'positions for|different tokens' lens 2 none --set lens.period=5000
refused token 2 'no token "no such token"' lens 2 none --set lens.against='no such token'
refused model 3 "$work/missing" lens 2 none --set models.b.path="$work/missing"
refused names 2 'one name' lens 2 none --set models.b.name=base
absent=

# `run` makes it when a key of its section is given, and only then.
plan() { darkfield 1 run "$pocket" --set out="$work/plan" --dry-run "$@"; }
must plan plan && if grep -q '== lens' "$work/log"; then bad lens.unasked "it is part of a run"; else ok lens.unasked; fi
must plan plan --set lens.windows=2 && if grep -q '== lens' "$work/log"; then ok lens.asked; else bad lens.asked "it is no part of a run"; fi

must report darkfield 1 run "$work/job.yaml" "${small[@]}" --set stages="lens, report" --set out="$work/1x1" || finish
if grep -q 'strongest heads' "$work/1x1/report.html"; then ok lens.report; else bad lens.report "the page has no lens"; fi
if found=$("$PYTHON" - "$work/1x1/lens.h5" 2>&1 <<'PY'
import sys
sys.path.insert(0, "analysis")
from darkfield_io import Results
lens = Results(sys.argv[1], "darkfield-lens")
for at in (lens.attributes["model0"], lens.attributes["model1"]):
    parts = sum(lens[f"{at}/attribution/{name}"].sum() for name in ("head", "mlp", "attention_bias"))
    whole = lens[f"{at}/attribution/whole"]
    assert abs(parts + whole[:3].sum() - whole[3]) < 1e-5, (parts, whole)
    assert abs(lens[f"{at}/logit_lens/kl"][-1]) == 0 and lens[f"{at}/logit_lens/top1"][-1] == 1
    assert lens.names(f"{at}/attribution")[3] == "logit"
PY
); then ok lens.reader; else bad lens.reader "$(tail -n 1 <<<"$found")"; fi

# Heads that others trained and whose work is known: an induction head behind a previous-token head, and the same pair
# fine-tuned until the former fails while the latter stays. And weights with grouped heads, of a story model.
fixtures=${DARKFIELD_FIXTURES:-} known="$PYTHON tests/e2e/lens_known.py"
compare() { # NAME ARGUMENTS...
    local name=$1 said
    shift
    if said=$($known "$@" 2>&1); then ok "lens.$name${said:+ ($said)}"; else bad "lens.$name" "$(tail -n 1 <<<"$said")"; fi
}
indhead() {
    local pair=$fixtures/models/indhead/indhead_finetuned_model at
    if [ ! -r "${pair}_0.safetensors" ]; then skip lens.indhead "DARKFIELD_FIXTURES names no folder with models/indhead/"; return; fi
    for at in 0 100; do $known fold "${pair}_$at.safetensors" "$work/indhead-$at"; done && $known text "$work" ||
        { bad lens.indhead "its checkpoints cannot be made"; return; }
    cat >"$work/indhead.yaml" <<JOB
seed: 3
models:
  a: {name: intact, path: $work/indhead-0}
  b: {name: broken, path: $work/indhead-100}
text: {file: $work/task.npy, heldout: 1}
harvest: {packing: document, bos: none}
lens: {windows: 0, context: 8, period: 4, sequences: 1000}
JOB
    must indhead darkfield 2 lens "$work/indhead.yaml" --set out="$work/indhead" || return
    compare indhead.intact heads "$work/indhead/lens.h5" intact "${pair}_0.safetensors" "$work" intact
    compare indhead.broken heads "$work/indhead/lens.h5" broken "${pair}_100.safetensors" "$work" broken
}
stories() {
    local pair=$fixtures/stories-pair
    if [ ! -r "$pair/base/config.json" ]; then skip lens.stories "DARKFIELD_FIXTURES names no folder with stories-pair/"; return; fi
    must stories darkfield 2 lens "$work/job.yaml" --set models.a.path="$pair/base" --set models.b.path="$pair/tuned" --set out="$work/stories" \
        --set text.file="$pair/text.jsonl" "${small[@]}" || return
    compare stories.base weights "$work/stories/lens.h5" base "$pair/base"
    compare stories.tuned weights "$work/stories/lens.h5" tuned "$pair/tuned"
}
indhead
stories
finish
