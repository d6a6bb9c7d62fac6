#!/usr/bin/env bash
# The data of training, through the program: every order of rows gives one dictionary on any ranks and after a kill on two
# ranks and a resume on three, and so does every kind of dictionary; the shuffled file is the same on any ranks and memory; several files make one data set;
# training from the models themselves is training from their harvest, and a harvest in parts that in one file; what cannot
# be used is named, and activations of the same job and other bytes are told apart.
source "$(dirname "$0")/../support/cases.sh"
LIMIT=120
out=$work/out
train=(--set text.max_documents=200 --set train.steps=150 --set train.latents=256 --set train.batch=512 --set out="$out")
global=(--set train.shuffle=global)

same() { # NAME A B: digests
    if [ -n "$2" ] && [ "$2" = "$3" ]; then ok "data.$1"; else bad "data.$1" "digest ${3:-none}, expected ${2:-none}"; fi
}

must harvest darkfield 2 harvest "$pocket" "${train[@]}" || finish

# ---- the global shuffle ------------------------------------------------------------------------
refused shuffle.not_yet 3 'darkfield shuffle' darkfield 2 train "$pocket" "${train[@]}" "${global[@]}"
must shuffle darkfield 1 shuffle "$pocket" "${train[@]}" "${global[@]}" || finish
first=$(digest "$out/shuffled.rows.h5")
for ranks in 2 3 4; do
    must shuffle.$ranks darkfield $ranks shuffle "$pocket" "${train[@]}" "${global[@]}" --set shuffle.memory=1 --force &&
        same "shuffle.ranks_$ranks" "$first" "$(digest "$out/shuffled.rows.h5")"
done
must shuffle.current darkfield 2 shuffle "$pocket" "${train[@]}" "${global[@]}"
grep -q 'skipped' "$work/log" && ok data.shuffle.skipped || bad data.shuffle.skipped "a current file was made again"
refused shuffle.other_rows 3 'darkfield shuffle' darkfield 2 train "$pocket" "${train[@]}" "${global[@]}" --set train.skip_first=4

# ---- every order: one rank, a kill on two ranks, three ranks go on --------------------------------
# killed KIND OPTIONS...: two ranks lose one as soon as a checkpoint of the kind is there.
killed() { lose_a_rank "$out/$1.*.ckpt.h5" train "$pocket" "${@:2}" --set train.checkpoint_minutes=0.0001; }
for how in exact buffer global; do
    order=(--set train.shuffle=$how --set train.buffer_rows=2048)
    [ $how != global ] || order+=(--set train.centre=true --set train.normalise=norm --set train.token_norm=layer)
    rm -f "$out"/crosscoder.*
    must $how.alone darkfield 1 train "$pocket" "${train[@]}" "${order[@]}" || continue
    alone=$(digest "$out/crosscoder.dict.h5")
    rm -f "$out"/crosscoder.*
    killed crosscoder "${train[@]}" "${order[@]}" || { bad "data.$how.kill" "nothing to resume: $(end_of "$work/log")"; continue; }
    must $how.resume darkfield 3 train "$pocket" "${train[@]}" "${order[@]}" || continue
    grep -q 'resuming at step' "$work/log" || bad "data.$how.resume" "it began anew"
    same "$how.killed_on_2_resumed_on_3" "$alone" "$(digest "$out/crosscoder.dict.h5")"
done

# ---- rows that the models make as training asks for them -------------------------------------------
# Two sites of two models, in bf16, some rows left out, centred: from the harvest's files on one rank, then without any.
made=("${train[@]}" --set harvest.dtype=bf16 --set train.input="blocks.1.hook_resid_post, blocks.3.hook_resid_post"
    --set harvest.context=32 --set train.shuffle=buffer --set train.buffer_rows=3000 --set train.skip_tokens=5
    --set train.steps=40 --set text.max_documents=100 --set train.centre=true --set train.normalise=deviation
    --set train.token_norm=norm)
rm -rf "$work/files" "$work/made"
must made.harvest darkfield 2 harvest "$pocket" "${made[@]}" --set out="$work/files" &&
    must made.files darkfield 1 train "$pocket" "${made[@]}" --set out="$work/files" || finish
alone=$(digest "$work/files/crosscoder.dict.h5")
# Of rows that models make the recipe alone is known: that fits.
must made.current darkfield 1 train "$pocket" "${made[@]}" --set out="$work/files" --set train.from_models=true &&
    { grep -q 'skipped' "$work/log" && ok data.made.current || bad data.made.current "trained again"; }
made+=(--set out="$work/made" --set train.from_models=true)
for layout in 1x1 2x2 3x1 4x1; do
    must made.$layout darkfield "${layout%x*}" train "$pocket" "${made[@]}" --set threads="${layout#*x}" --force &&
        same made.$layout "$alone" "$(digest "$work/made/crosscoder.dict.h5")"
done
# Once for the scales, and once more, since one buffer holds all rows.
must made.once darkfield 1 train "$pocket" "${made[@]}" --set text.max_documents=400 --set harvest.context=128 --set train.buffer_rows=100000 --set train.batch=64 --force &&
    if awk '/rank 0 ran/ { models++; right += $6 > $NF && $6 <= 2 * $NF } END { exit !(models == 2 && right == 2) }' "$work/log"; then ok data.made.once
    else bad data.made.once "$(grep 'rank 0 ran' "$work/log" | tr '\n' ' ')"; fi
rm -f "$work/made"/*
if lose_a_rank "$work/made/crosscoder.*.ckpt.h5" train "$pocket" "${made[@]}" --set train.checkpoint_minutes=0.0001; then
    must made.resume darkfield 3 train "$pocket" "${made[@]}" &&
        { grep -q 'resuming at step' "$work/log" || bad data.made.resume "it began anew"; } &&
        same made.killed_on_2_resumed_on_3 "$alone" "$(digest "$work/made/crosscoder.dict.h5")"
else bad data.made.kill "nothing to resume: $(end_of "$work/log")"; fi
refused made.evaluate 3 'harvest, which train.from_models does not need, this stage does' \
    darkfield 2 evaluate "$pocket" "${made[@]}"
refused made.exact 2 'set train.shuffle to buffer' darkfield 2 train "$pocket" "${made[@]}" --set train.shuffle=exact
refused made.pipeline 2 'leave harvest.pipeline at 1' darkfield 2 train "$pocket" "${made[@]}" --set harvest.pipeline=2
refused made.memory 2 'harvest.memory at 0' darkfield 2 train "$pocket" "${made[@]}" --set harvest.memory=4096
refused made.files 2 'reads no files' darkfield 2 train "$pocket" "${made[@]}" --set train.files.a=x --set train.files.b=y
rm -rf "$work/files" "$work/made"

# ---- the same job, other bytes -----------------------------------------------------------------------
# A harvest on another kind of CPU is of the same job and other bytes: what was trained on the first is told from it.
bytes=(--set text.max_documents=60 --set train.steps=60 --set train.latents=128 --set train.batch=256 --set out="$work/bytes")
must bytes.harvest darkfield 1 harvest "$pocket" "${bytes[@]}" && must bytes.train darkfield 1 train "$pocket" "${bytes[@]}" || finish
first=$(digest "$work/bytes/base.acts.h5")
must bytes.current darkfield 2 train "$pocket" "${bytes[@]}" && grep -q 'skipped' "$work/log" && ok data.bytes.current ||
    bad data.bytes.current "trained again"
mkdir "$work/first" && mv "$work/bytes"/*.acts.h5 "$work/first"
for core in Haswell Nehalem Prescott; do
    OPENBLAS_CORETYPE=$core darkfield 1 harvest "$pocket" "${bytes[@]}" --force && second=$(digest "$work/bytes/base.acts.h5")
    [ "$second" = "$first" ] || break
done
if [ "$second" = "$first" ]; then skip data.bytes.other "every kernel of this BLAS harvests the same bytes"
else
    for stage in evaluate stats spectrum; do
        refused bytes.$stage 3 'base.acts.h5 of content .* now, by the same job: train again' darkfield 2 $stage "$pocket" "${bytes[@]}"
        refused bytes.$stage.plan 3 'train again' darkfield 1 $stage "$pocket" "${bytes[@]}" --dry-run
    done
    must bytes.again darkfield 2 train "$pocket" "${bytes[@]}"
    grep -q 'will be made anew: .*base.acts.h5 of content' "$work/log" && ok data.bytes.trained_again || bad data.bytes.trained_again "$(end_of "$work/log")"
    must bytes.evaluate darkfield 2 evaluate "$pocket" "${bytes[@]}" && ok data.bytes.evaluate
fi
rm -rf "$work/bytes" "$work/first"

# ---- a harvest in parts is one data set ------------------------------------------------------------
cut=("${train[@]}" --set harvest.context=32 --set harvest.interval=0)
must cut.one darkfield 2 harvest "$pocket" "${cut[@]}" --set out="$work/one" || finish
train_cut=("${cut[@]}")
cut+=(--set out="$work/cut" --set harvest.file_size=1MB)
lose_a_rank "$work/cut/base.acts.h5.progress" harvest "$pocket" "${cut[@]}" || bad data.cut.kill "$(end_of "$work/log")"
if must cut.harvest darkfield 3 harvest "$pocket" "${cut[@]}"; then
    grep -q 'going on where' "$work/log" && ok data.cut.resumed || bad data.cut.resumed "it began anew"
    [ "$(ls "$work/cut"/base.*.acts.h5 | wc -l)" -gt 2 ] && ok data.cut.parts || bad data.cut.parts "$(ls "$work/cut")"
    for model in base tuned; do
        same cut.$model "$(digest "$work/one/$model.acts.h5")" "$(digest "$work/cut/$model.acts.h5")"
    done
    for where in "$work/one" "$work/cut"; do
        must cut.train darkfield 2 train "$pocket" "${train_cut[@]}" --set out="$where" &&
            must cut.stats darkfield 2 stats "$pocket" "${train_cut[@]}" --set out="$where"
    done
    same cut.dictionary "$(digest "$work/one/crosscoder.dict.h5")" "$(digest "$work/cut/crosscoder.dict.h5")"
    same cut.stats "$(digest "$work/one/stats.h5")" "$(digest "$work/cut/stats.h5")"
    "$PYTHON" - "$work/one/base.acts.h5" "$work/cut/base.acts.h5" >"$work/log" 2>&1 <<'PY' && ok data.cut.notebook || bad data.cut.notebook "$(tail -n 1 "$work/log")"
import sys
sys.path.insert(0, "analysis")
import numpy as np
from darkfield_io import Activations
one, cut = (Activations(name) for name in sys.argv[1:])
assert one.sites == cut.sites and np.array_equal(one.tokens, cut.tokens)
for site in one.sites:
    assert np.array_equal(one.site(site), cut.site(site)) and one.site(site).any()
    assert np.array_equal(one.site(site, slice(1000, 7000)), cut.site(site, slice(1000, 7000)))
PY
    cp "$work/cut/base.001.acts.h5" "$work/spare"
    "$PYTHON" tests/e2e/damage.py h5data "$work/cut/base.001.acts.h5" sites
    refused cut.damaged 3 'base.001.acts.h5: dataset /sites' darkfield 1 check "$work/cut/base.acts.h5"
    cp "$work/cut/base.002.acts.h5" "$work/cut/base.001.acts.h5"
    refused cut.exchanged 3 'base.001.acts.h5 is not part 1 of' darkfield 2 train "$pocket" "${cut[@]}" --force
    rm "$work/cut/base.001.acts.h5"
    refused cut.missing 3 'base.001.acts.h5' darkfield 2 stats "$pocket" "${cut[@]}" --force
    cp "$work/spare" "$work/cut/base.001.acts.h5"
    "$DARKFIELD" check "$work/cut/base.acts.h5" >"$work/log" 2>&1 && ok data.cut.check || bad data.cut.check "$(end_of "$work/log")"
fi
rm -rf "$work/one" "$work/cut" "$work/spare"

# ---- several files, filters ----------------------------------------------------------------------
rm -f "$out"/crosscoder.*
files=(--set train.files.a="$out/base.acts.h5, $out/base.acts.h5" --set train.files.b="$out/tuned.acts.h5, $out/tuned.acts.h5")
must files darkfield 2 train "$pocket" "${train[@]}" "${files[@]}" && ok data.files
must files.evaluate darkfield 2 evaluate "$pocket" "${train[@]}" "${files[@]}" && ok data.files.evaluate
for stage in stats spectrum diff; do
    must files.$stage darkfield 2 $stage "$pocket" "${train[@]}" "${files[@]}" && ok data.files.$stage
done
# Every row twice: every latent fires twice as often as on one of the files.
twice=$(digest "$out/stats.h5")
must files.stats_3 darkfield 3 stats "$pocket" "${train[@]}" "${files[@]}" --force && same files.stats.ranks_3 "$twice" "$(digest "$out/stats.h5")"
cp "$out/stats.h5" "$work/twice.h5"
must files.once darkfield 2 stats "$pocket" "${train[@]}" && if problem=$("$PYTHON" - "$out/stats.h5" "$work/twice.h5" 2>&1 <<'PY'
import sys
import h5py, numpy as np
one, two = (h5py.File(name) for name in sys.argv[1:])
for name in "latents/fires", "latents/histogram", "concepts/inside":
    assert np.array_equal(2 * one[name][:], two[name][:]), name
assert np.array_equal(one["latents/max"][:], two["latents/max"][:])
PY
); then ok data.files.twice; else bad data.files.twice "$(tail -n 1 <<<"$problem")"; fi
refused files.uneven.stats 2 'belong together' darkfield 2 stats "$pocket" "${train[@]}" --set train.files.a="$out/base.acts.h5, x"
refused files.uneven 2 'belong together' darkfield 2 train "$pocket" "${train[@]}" --set train.files.a="$out/base.acts.h5, x"
refused skip.text 2 'skip_first' darkfield 2 train "$pocket" "${train[@]}" --set train.skip_first=some
refused skip.token 2 'no token id' darkfield 2 train "$pocket" "${train[@]}" --set train.skip_tokens=the
refused skip.everything 3 'no training rows' darkfield 2 train "$pocket" "${train[@]}" --set train.skip_first=100000
must skip.tokens darkfield 2 train "$pocket" "${train[@]}" --set train.skip_tokens="1, 2" --set train.skip_first=bos && ok data.skip.tokens

# ---- a full disk, a cut input ---------------------------------------------------------------------
"$PYTHON" tests/e2e/damage.py truncate "$out/shuffled.rows.h5" 0.7
refused shuffle.cut 3 'shuffled.rows.h5' darkfield 2 train "$pocket" "${train[@]}" "${global[@]}"
mkdir -p "$work/full"
if mount -t tmpfs -o size="$(($(cat "$out"/*.acts.h5 | wc -c) / 1024 + 64))k" darkfield-test "$work/full" 2>/dev/null; then
    undo="umount '$work/full'"
    cp "$out"/*.acts.h5 "$work/full"
    refused shuffle.full_disk 1 "$work/full" darkfield 2 shuffle "$pocket" "${train[@]}" "${global[@]}" --set out="$work/full"
    if ls "$work/full"/shuffled* >/dev/null 2>&1; then bad data.shuffle.left_over "$(ls "$work/full")"; else ok data.shuffle.left_over; fi
    umount "$work/full"
    undo=:
else skip data.shuffle.full_disk "no right to mount a tmpfs here"; fi

# ---- transcoders of one model: one rank, three ranks, and a kill on two ---------------------------
layers='blocks.1.hook_resid_mid, blocks.2.hook_resid_mid'
one=("${train[@]}" --set train.model=base --set site=blocks.2.hook_resid_mid)
must kinds.harvest darkfield 2 harvest "$pocket" "${one[@]}" --force \
    --set harvest.sites="$layers, blocks.1.hook_mlp_out, blocks.2.hook_mlp_out" || finish
for kind in transcoder skip-transcoder clt; do
    of=("${one[@]}" --set train.kind=$kind)
    [ $kind != clt ] || of+=(--set train.input="$layers")
    for ranks in 1 3; do
        must $kind.$ranks darkfield $ranks train "$pocket" "${of[@]}" --force || continue 2
        [ $ranks -ne 1 ] || alone=$(digest "$out/$kind.dict.h5")
    done
    same "$kind.ranks_3" "$alone" "$(digest "$out/$kind.dict.h5")"
    "$DARKFIELD" check "$out/$kind.dict.h5" >"$work/log" 2>&1 || bad data.$kind.check "$(tail -n 1 "$work/log")"
done
rm -f "$out"/clt.*
if killed clt "${of[@]}"; then
    must clt.resume darkfield 3 train "$pocket" "${of[@]}" &&
        { grep -q 'resuming at step' "$work/log" || bad data.clt.resume "it began anew"; } &&
        same clt.killed_on_2_resumed_on_3 "$alone" "$(digest "$out/clt.dict.h5")"
else bad data.clt.kill "nothing to resume: $(end_of "$work/log")"; fi
must kinds.evaluate darkfield 2 evaluate "$pocket" "${of[@]}" && ok data.clt.evaluate

# ---- synthetic rows need no file --------------------------------------------------------------------
for toy in a b; do
    must synthetic.$toy darkfield 2 run jobs/synthetic/toy-$toy.yaml --set train.steps=200 --set out="$work/toy" &&
        same synthetic.$toy "$(digest "$work/toy/evaluate.h5")" "$(darkfield 3 run jobs/synthetic/toy-$toy.yaml \
            --set train.steps=200 --set out="$work/toy3"; digest "$work/toy3/evaluate.h5")"
    rm -rf "$work/toy" "$work/toy3"
done
finish
