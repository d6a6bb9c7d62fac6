#!/usr/bin/env bash
# quickstart.sh in a copy of the sources, as a new user runs it but with a small budget: packages, build, report. Then on
# its output: what is complete is skipped; every file is sound. And the same script for a pair of one's own.
source "$(dirname "$0")/../support/cases.sh"

copy=$work/copy
mkdir -p "$copy"
tar -cf - --exclude=./build --exclude=./runs --exclude=./.git . | tar -xf - -C "$copy"
quickstart() { (cd "$work" && timeout 900 "$copy/jobs/quickstart.sh" "$@" >"$work/page" 2>"$work/log" </dev/null); }

out=$copy/runs/pocket
if quickstart -- "${small[@]}" && [ "$(tail -n 1 "$work/page")" = "$out/report.html" ]; then ok main_job.quickstart
else bad main_job.quickstart "exit $?: $(tail -n 3 "$work/page" "$work/log")"; finish; fi

table=$(grep -E '^ +(step|[0-9]+) +(loss|[0-9.e+-]+) ' "$work/page")
if [ "$(wc -l <<<"$table")" -ge 4 ] && ! grep -qE '^.{121}' <<<"$table"; then ok main_job.table
else bad main_job.table "no training table of at most 120 columns: $(head -n 2 <<<"$table")"; fi

page=$out/report.html
if [ -s "$page" ]; then ok main_job.report; else bad main_job.report "$page was not written"; fi
if grep -q '<td class="number"></td>' <(sed -n '/This run/,$p' "$page"); then bad main_job.facts "a figure of This run is empty"
else ok main_job.facts; fi
# Self-contained: nothing is fetched, neither from the network nor from beside the page.
if grep -qiE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:|//|[a-z0-9_]+\.(js|css|png|svg))' "$page"; then
    bad main_job.self_contained "$(grep -oiE '<(script|link|img)[^>]+' "$page" | head -n 1)"
else ok main_job.self_contained; fi

if ls "$out"/*.part >/dev/null 2>&1; then bad main_job.no_parts "left behind: $(ls "$out"/*.part)"; else ok main_job.no_parts; fi
for file in "$out"/*.h5; do
    name=main_job.check.$(basename "$file")
    if "$DARKFIELD" check "$file" >"$work/log" 2>&1 </dev/null; then ok "$name"; else bad "$name" "$(tail -n 2 "$work/log")"; fi
done

# The jobs wrote paths as quickstart's folder sees them; the later runs are there too.
cd "$copy" || exit 1
before=$(stat -c '%n %Y %s' "$out"/*.h5)
if darkfield 3 run "$pocket" "${small[@]}" &&
    [ "$before" = "$(stat -c '%n %Y %s' "$out"/*.h5)" ] && [ "$(grep -c 'skipped' "$work/log")" -ge 6 ]; then
    ok main_job.skips_complete
else bad main_job.skips_complete "a second run did work again: $(grep -i 'anew' "$work/log" | head -n 2)"; fi

# Another seed is another dictionary, and the stages after it follow.
if darkfield 2 train "$pocket" "${small[@]}" --set train.steps=60 && ! grep -q 'skipped' "$work/log"; then
    ok main_job.changed_job_runs_again
else bad main_job.changed_job_runs_again "train with other steps was skipped or failed: $(tail -n 2 "$work/log")"; fi

cp jobs/quickstart/text.jsonl "$work/my text.jsonl"
if quickstart --base copy/jobs/quickstart/base --tuned copy/jobs/quickstart/tuned --text "my text.jsonl" -- "${small[@]}" &&
    [ -s "$(tail -n 1 "$work/page")" ]; then ok main_job.own_pair
else bad main_job.own_pair "exit $?: $(tail -n 3 "$work/page" "$work/log")"; fi
# Any family will do: the number of layers has many names.
gpt2=$work/gpt2
mkdir -p "$gpt2"
cp "$root"/tests/golden/family/gpt2/{config.json,model.safetensors} "$gpt2"
"$PYTHON" - "$gpt2/tokenizer.json" <<'P'
import json, string, sys
letters = [*string.ascii_lowercase, "Ġ", "."]
model = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}
end = {"id": len(letters), "content": "<|endoftext|>", "special": True, "normalized": False,
       "single_word": False, "lstrip": False, "rstrip": False}
level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
json.dump({"version": "1.0", "added_tokens": [end], "normalizer": None, "pre_tokenizer": level,
           "post_processor": None, "decoder": level, "model": model}, open(sys.argv[1], "w"))
P
for i in {1..60}; do printf '{"text": "number %s is a cat that sat on a mat."}\n' "$(tr 0-9 a-j <<<"$i")"; done >"$work/cats.jsonl"
if quickstart --base gpt2 --tuned gpt2 --text cats.jsonl -- "${small[@]}" --set train.batch=64 --set harvest.context=64 &&
    [ -s "$(tail -n 1 "$work/page")" ]; then ok main_job.own_gpt2
else bad main_job.own_gpt2 "exit $?: $(tail -n 3 "$work/page" "$work/log")"; fi
echo '{}' >"$gpt2/config.json"
if ! quickstart --base gpt2 --tuned gpt2 --text cats.jsonl && grep -q 'does not say how many layers' "$work/log"; then
    ok main_job.no_layers
else bad main_job.no_layers "$(tail -n 2 "$work/log")"; fi

for wrong in '--base copy/jobs --tuned copy/jobs --text x' '--base copy' '--bsae copy'; do
    quickstart $wrong
    code=$?
    if [ $code -eq 2 ] && grep -q '^quickstart: ' "$work/log"; then ok "main_job.usage ($wrong)"
    else bad "main_job.usage ($wrong)" "exit $code: $(tail -n 2 "$work/log")"; fi
done

# Where packages cannot be installed: a clear message and the list. Stand-ins for the tools it asks; no sudo in PATH.
stub=$work/stub
mkdir -p "$stub"
printf '#!/bin/sh\nexit 1\n' >"$stub/dpkg-query"
printf '#!/bin/sh\necho 1000\n' >"$stub/id"
chmod +x "$stub"/*
told() { # NAME PATTERN
    PATH=$stub /bin/bash "$copy/jobs/packages.sh" >"$work/log" 2>&1
    code=$?
    if [ $code -eq 1 ] && grep -q "$2" "$work/log" && grep -q 'libhdf5-openmpi-dev' "$work/log"; then ok "main_job.$1"
    else bad "main_job.$1" "exit $code: $(head -n 3 "$work/log")"; fi
}
if grep -q '^VERSION_ID="12"' /etc/os-release; then told no_root_no_sudo 'neither root nor sudo'
else told other_distribution 'not Debian 12'; fi
printf 'ID=other\nVERSION_ID="1"\n' >"$work/os-release"
sed -i "s|/etc/os-release|$work/os-release|" "$copy/jobs/packages.sh"
told another_distribution 'not Debian 12 but other 1'
finish
