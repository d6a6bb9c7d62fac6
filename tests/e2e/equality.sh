#!/usr/bin/env bash
# The same content on 1, 2, 3, 4 ranks and 1 or 2 threads, of every HDF5 output. What ScaLAPACK computes (the spectrum)
# is compared to the tolerances of the contract instead.
source "$(dirname "$0")/../support/cases.sh"

# layout: RANKSxTHREADS
budget=(--set text.max_documents=200 --set train.steps=60)
run_layout() {
    local ranks=${1%x*} threads=${1#*x}
    darkfield "$ranks" run "$pocket" "${budget[@]}" --set out="$work/$1" --set threads="$threads" \
        --set stages="harvest, train, evaluate, stats, diff, spectrum"
}

# Harvest of a model that is spread over ranks: RANKSxTHREADSxDEPTH.
deep_layout() {
    local ranks=${1%%x*} depth=${1##*x} threads
    threads=${1#*x}
    darkfield "$ranks" harvest "$pocket" "${budget[@]}" --set out="$work/$1" --set threads="${threads%x*}" \
        --set harvest.pipeline="$depth"
}

reference=1x1
run_layout $reference || { bad equality.$reference "exit $?: $(end_of "$work/log")"; finish; }
digests "$work/$reference" >"$work/reference"
for layout in 2x1 3x1 4x1 1x2 2x2; do
    if ! run_layout $layout; then bad equality.$layout "exit $?: $(end_of "$work/log")"; continue; fi
    digests "$work/$layout" >"$work/other"
    while read -r file hash; do
        other=$(awk -v file="$file" '$1 == file { print $2 }' "$work/other")
        if [ "$file" = spectrum.h5 ]; then
            if problem=$("$PYTHON" tests/e2e/compare_spectrum.py "$work/$reference/$file" "$work/$layout/$file" 2>&1); then
                ok "equality.$layout.$file"
            else bad "equality.$layout.$file" "$problem"; fi
        elif [ -n "$hash" ] && [ "$hash" = "$other" ]; then ok "equality.$layout.$file"
        else bad "equality.$layout.$file" "digest ${other:-none}, on $reference ${hash:-none}"; fi
    done <"$work/reference"
    rm -rf "${work:?}/$layout"
done
grep acts "$work/reference" >"$work/harvested"
for layout in 2x1x2 2x2x2 3x1x3 4x1x4 4x1x2; do
    if ! deep_layout $layout; then bad equality.pipeline.$layout "exit $?: $(end_of "$work/log")"
    elif digests "$work/$layout" | cmp -s - "$work/harvested"; then ok equality.pipeline.$layout
    else bad equality.pipeline.$layout "other digests than on $reference"; fi
    rm -rf "${work:?}/$layout"
done
finish
