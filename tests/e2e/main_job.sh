#!/usr/bin/env bash
# The main job from text to report with a small budget; what is complete is skipped; every file is sound.
source "$(dirname "$0")/../support/cases.sh"

out=$work/pocket
if darkfield 2 run "$pocket" "${small[@]}" --set out="$out" --set report.null="$work/none"; then ok main_job.run
else bad main_job.run "exit $?: $(tail -n 3 "$work/log")"; finish; fi

page=$out/report.html
if [ -s "$page" ]; then ok main_job.report; else bad main_job.report "$page was not written"; fi
# Self-contained: nothing is fetched, neither from the network nor from beside the page.
if grep -qiE '<(script|link|img|iframe)[^>]+(src|href)="?(https?:|//|[a-z0-9_]+\.(js|css|png|svg))' "$page"; then
    bad main_job.self_contained "$(grep -oiE '<(script|link|img)[^>]+' "$page" | head -n 1)"
else ok main_job.self_contained; fi

if ls "$out"/*.part >/dev/null 2>&1; then bad main_job.no_parts "left behind: $(ls "$out"/*.part)"; else ok main_job.no_parts; fi
for file in "$out"/*.h5; do
    name=main_job.check.$(basename "$file")
    if "$DARKFIELD" check "$file" >"$work/log" 2>&1 </dev/null; then ok "$name"; else bad "$name" "$(tail -n 2 "$work/log")"; fi
done

before=$(stat -c '%n %Y %s' "$out"/*.h5)
if darkfield 3 run "$pocket" "${small[@]}" --set out="$out" --set report.null="$work/none" &&
    [ "$before" = "$(stat -c '%n %Y %s' "$out"/*.h5)" ] && [ "$(grep -c 'skipped' "$work/log")" -ge 6 ]; then
    ok main_job.skips_complete
else bad main_job.skips_complete "a second run did work again: $(grep -i 'anew' "$work/log" | head -n 2)"; fi

# Another seed is another dictionary, and the stages after it follow.
if darkfield 2 train "$pocket" "${small[@]}" --set out="$out" --set train.steps=60 && ! grep -q 'skipped' "$work/log"; then
    ok main_job.changed_job_runs_again
else bad main_job.changed_job_runs_again "train with other steps was skipped or failed: $(tail -n 2 "$work/log")"; fi
finish
