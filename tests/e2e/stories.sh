#!/usr/bin/env bash
# A really trained story model and its Shakespeare fine-tune, found through DARKFIELD_FIXTURES: another tokenizer, grouped
# attention, tied embeddings, and activations nobody designed.
source "$(dirname "$0")/../support/cases.sh"
pair=${DARKFIELD_FIXTURES:-}/stories-pair
if [ ! -r "$pair/base/config.json" ]; then
    skip stories "DARKFIELD_FIXTURES names no folder with stories-pair/"
    exit 0
fi
# What llama2.c says with the same weights.
known="Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, she saw a big, red ball."
if darkfield 1 generate "$pair/base" "Once upon a time" --tokens 50 && grep -qF "$known" "$work/log"; then ok stories.generate
else bad stories.generate "$(head -n 3 "$work/log" | tr '\n' ' ')"; fi
out=$work/stories
cat >"$work/stories.yaml" <<JOB
seed: 1
out: $out
models:
  a: {name: base, path: $pair/base}
  b: {name: tuned, path: $pair/tuned}
text: {file: $pair/text.jsonl, heldout: 0.1, max_documents: ${DARKFIELD_STORIES_DOCUMENTS:-150}}
site: blocks.2.hook_resid_post
train: {activation: batchtopk, latents: 1024, k: 12, steps: ${DARKFIELD_STORIES_STEPS:-400}, batch: 1024}
JOB
if darkfield 2 run "$work/stories.yaml"; then ok stories.run; else bad stories.run "exit $?: $(end_of "$work/log")"; finish; fi
if [ -s "$out/report.html" ]; then ok stories.report; else bad stories.report "no page"; fi
fvu=$(sed -nE 's/.*FVU of [a-z]+ at [^:]*: ([0-9.]+).*/\1/p' "$work/log" | sort -g | tail -n 1)
if awk -v fvu="${fvu:-9}" 'BEGIN { exit !(fvu < 0.25) }'; then ok "stories.fvu ($fvu)"; else bad stories.fvu "FVU ${fvu:-none}, expected below 0.25"; fi
finish
