#!/usr/bin/env bash
# The same content on 1, 2, 3, 4 ranks and 1 or 2 threads, of every HDF5 output. What ScaLAPACK computes (the spectrum)
# is compared to the tolerances of the contract instead.
source "$(dirname "$0")/../support/cases.sh"

budget=(--set text.max_documents=200 --set train.steps=60)
# run_layout RANKSxTHREADS [PREFIX OPTIONS...]: into PREFIXRANKSxTHREADS.
run_layout() {
    local layout=$1 out=$work/${2:-}$1
    shift $(($# > 1 ? 2 : 1))
    darkfield "${layout%x*}" run "$pocket" "${budget[@]}" --set out="$out" --set threads="${layout#*x}" \
        --set stages="harvest, train, evaluate, stats, diff, spectrum" "$@"
}

# Harvest of a model that is spread over ranks: RANKSxTHREADSxDEPTH.
deep_layout() {
    local ranks=${1%%x*} depth=${1##*x} threads
    threads=${1#*x}
    darkfield "$ranks" harvest "$pocket" "${budget[@]}" --set out="$work/$1" --set threads="${threads%x*}" \
        --set harvest.pipeline="$depth"
}

# equal NAME REFERENCE OTHER: two output folders.
equal() {
    local file hash other problem
    digests "$work/$2" >"$work/reference"
    digests "$work/$3" >"$work/other"
    while read -r file hash; do
        other=$(awk -v file="$file" '$1 == file { print $2 }' "$work/other")
        if [ "$file" = spectrum.h5 ]; then
            if problem=$("$PYTHON" tests/e2e/compare_spectrum.py "$work/$2/$file" "$work/$3/$file" 2>&1); then
                ok "equality.$1.$file"
            else bad "equality.$1.$file" "$problem"; fi
        elif [ -n "$hash" ] && [ "$hash" = "$other" ]; then ok "equality.$1.$file"
        else bad "equality.$1.$file" "digest ${other:-none}, expected ${hash:-none}"; fi
    done <"$work/reference"
    rm -rf "${work:?}/$3"
}

reference=1x1
run_layout $reference || { bad equality.$reference "exit $?: $(end_of "$work/log")"; finish; }
for layout in 2x1 3x1 4x1 1x2 2x2; do
    if run_layout $layout; then equal $layout $reference $layout
    else bad equality.$layout "exit $?: $(end_of "$work/log")"; fi
done
# Of rows that are normalised one by one, which numpy follows too.
token=(token- --set train.token_norm=layer --set train.normalise=none)
run_layout $reference "${token[@]}" || { bad equality.token.$reference "exit $?: $(end_of "$work/log")"; finish; }
if problem=$("$PYTHON" tests/e2e/token_known.py "$work/token-$reference" 2>&1); then ok equality.token.numpy
else bad equality.token.numpy "$problem"; fi
for layout in 2x1 3x1 4x2; do
    if run_layout $layout "${token[@]}"; then equal token.$layout token-$reference token-$layout
    else bad equality.token.$layout "exit $?: $(end_of "$work/log")"; fi
done
digests "$work/$reference" >"$work/reference"
grep acts "$work/reference" >"$work/harvested"
for layout in 2x1x2 2x2x2 3x1x3 4x1x4 4x1x2; do
    if ! deep_layout $layout; then bad equality.pipeline.$layout "exit $?: $(end_of "$work/log")"
    elif digests "$work/$layout" | cmp -s - "$work/harvested"; then ok equality.pipeline.$layout
    else bad equality.pipeline.$layout "other digests than on $reference"; fi
    rm -rf "${work:?}/$layout"
done
finish
