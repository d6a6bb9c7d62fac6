#!/usr/bin/env bash
# darkfield convert, through the program: small dictionaries trained on the pocket pair go out in every layout and come
# back to the bit, on any ranks; activations of others become a file that train reads; what cannot be read or said is
# named with the right exit code. Dictionaries that others trained: those of DARKFIELD_FIXTURES, where it is set.
source "$(dirname "$0")/../support/cases.sh"
LIMIT=60
out=$work/out
site=blocks.2.hook_resid_mid
job=("$pocket" --set text.max_documents=20 --set out="$out" --set site=$site --set train.latents=64
    --set train.steps=12 --set train.batch=256 --set train.threshold_start=0)

convert() { timeout -k 10 $LIMIT "$DARKFIELD" convert "$@" >"$work/log" 2>&1 </dev/null; }
# cannot NAME CODE PATTERN ARGUMENTS...: and OUT, the last argument, is not made where $new says that it was not there.
cannot() { absent=${new:+${*: -1}} refused "$1" "$2" "$3" convert "${@:4}"; }

# ---- dictionaries of every kind ------------------------------------------------------------------
must harvest darkfield 2 harvest "${job[@]}" --set harvest.sites="$site, blocks.1.hook_mlp_out, blocks.2.hook_mlp_out, blocks.1.hook_resid_mid" || finish
# train NAME OPTIONS...: out/KIND.dict.h5 becomes NAME.dict.h5.
train() {
    local name=$1
    shift
    must "train.$name" darkfield 2 train "${job[@]}" "$@" || return
    mv "$out"/*.dict.h5 "$work/$name.dict.h5" && rm -f "$out"/*.ckpt.h5
}
one=(--set train.model=base)
train relu "${one[@]}" --set train.activation=relu --set train.penalty_weight=0.01
train topk "${one[@]}" --set train.activation=topk
train token "${one[@]}" --set train.activation=topk --set train.token_norm=layer
train batchtopk "${one[@]}"
train jumprelu "${one[@]}" --set train.activation=jumprelu --set train.penalty_weight=0.01
train gated "${one[@]}" --set train.activation=gated --set train.penalty_weight=0.01
train matryoshka "${one[@]}" --set train.prefixes='16, 32, 64'
train transcoder "${one[@]}" --set train.kind=transcoder
train skip "${one[@]}" --set train.kind=skip-transcoder --set train.activation=topk
train clt "${one[@]}" --set train.kind=clt --set train.input='blocks.1.hook_resid_mid, blocks.2.hook_resid_mid'
train crosscoder

# ---- out and back --------------------------------------------------------------------------------
# ours NAME: NAME without its training history, which other layouts do not hold, in NAME.plain.dict.h5.
for file in "$work"/*.dict.h5; do must plain convert --to darkfield "$file" "${file%.dict.h5}.plain.dict.h5"; done
# round NAME FORMAT [READING OPTIONS...]
round() {
    local name=$1 format=$2 folder=$work/$2-$1
    shift 2
    must "$format.$name.out" convert --to "$format" "$work/$name.dict.h5" "$folder" || return
    must "$format.$name.back" convert --from "$format" --to darkfield "$@" "$folder" "$folder.dict.h5" || return
    grep -q 'restored to the bit' "$work/log" || { bad "convert.$format.$name" "not restored: $(tail -n 1 "$work/log")"; return; }
    "$DARKFIELD" check "$folder.dict.h5" >"$work/log" 2>&1 || { bad "convert.$format.$name" "$(tail -n 1 "$work/log")"; return; }
    if [ -n "$(digest "$folder.dict.h5")" ] && [ "$(digest "$folder.dict.h5")" = "$(digest "$work/$name.plain.dict.h5")" ]; then
        ok "convert.$format.$name"
    else bad "convert.$format.$name" "digest $(digest "$folder.dict.h5"), expected $(digest "$work/$name.plain.dict.h5")"; fi
}
for name in relu topk token batchtopk jumprelu gated matryoshka transcoder; do round $name saelens; done
for name in relu topk batchtopk jumprelu gated matryoshka; do round $name dictionary_learning; done
for name in topk skip; do round $name sparsify; done
for name in batchtopk jumprelu; do round $name gemma-scope; done
round transcoder gemma-scope --kind transcoder
for name in transcoder skip; do round $name circuit-tracer; done
round clt circuit-tracer-clt
round crosscoder crosscoder_learning

# The prefixes of a Matryoshka dictionary come back from darkfield.json.
prefixes() { "$PYTHON" -c 'import h5py, sys; print(*h5py.File(sys.argv[1])["prefixes"][:])' "$1" 2>&1; }
if [ "$(prefixes "$work/dictionary_learning-matryoshka.dict.h5")" = '16 32 64' ]; then ok convert.prefixes
else bad convert.prefixes "$(prefixes "$work/dictionary_learning-matryoshka.dict.h5")"; fi

# The same on three ranks, and what the layout is without being told.
if darkfield 3 convert --to saelens "$work/gated.dict.h5" "$work/three" &&
    darkfield 3 convert --to darkfield "$work/three" "$work/three.dict.h5" &&
    [ "$(digest "$work/three.dict.h5")" = "$(digest "$work/gated.plain.dict.h5")" ] &&
    diff -r "$work/three" "$work/saelens-gated" >/dev/null; then ok convert.ranks_3
else bad convert.ranks_3 "exit or digest: $(tail -n 2 "$work/log" | tr '\n' ' ')"; fi

# Without darkfield.json a folder is read like anybody's: it works on raw activations, with scales of 1.
rm -f "$work/three/darkfield.json"
if convert --to darkfield "$work/three" "$work/anybody.dict.h5" && ! grep -q restored "$work/log"; then ok convert.anybody
else bad convert.anybody "$(tail -n 1 "$work/log")"; fi

# ---- activations -----------------------------------------------------------------------------------
"$PYTHON" - "$out/base.acts.h5" "$work/theirs.safetensors" $site <<'PY'
import json, struct, sys
import h5py, numpy as np
with h5py.File(sys.argv[1]) as f:
    rows = f["documents/row"][:]
    tensors = {"resid": np.asarray(f["sites/" + sys.argv[3]][:], np.float32), "tokens": f["tokens"][:].astype(np.int64),
               "documents": np.repeat(np.arange(len(rows) - 1), np.diff(rows).astype(np.int64)).astype(np.int64)}
header, at = {}, 0
for name, a in tensors.items():
    header[name] = {"dtype": {"float32": "F32", "int64": "I64"}[a.dtype.name], "shape": a.shape, "data_offsets": [at, at + a.nbytes]}
    at += a.nbytes
text = json.dumps(header).encode()
with open(sys.argv[2], "wb") as f:
    f.write(struct.pack("<Q", len(text)) + text + b"".join(a.tobytes() for a in tensors.values()))
PY
mkdir -p "$work/imported"
import=(--to acts --model base --site $site --bos 0 --heldout 0.2 --seed 3 "$work/theirs.safetensors")
if must acts convert "${import[@]}" "$work/imported/base.acts.h5"; then
    if "$DARKFIELD" check "$work/imported/base.acts.h5" >"$work/log" 2>&1; then ok convert.acts.check
    else bad convert.acts.check "$(tail -n 1 "$work/log")"; fi
    darkfield 3 convert "${import[@]}" --force "$work/three.acts.h5"
    if [ "$(digest "$work/three.acts.h5")" = "$(digest "$work/imported/base.acts.h5")" ]; then ok convert.acts.ranks_3
    else bad convert.acts.ranks_3 "another digest"; fi
    for stage in train evaluate; do
        # rows that somebody else harvested: no model of ours is known to have made them
        darkfield 2 $stage "${job[@]}" "${one[@]}" --set out="$work/imported" --set evaluate.loss=false
        code=$?
        if [ $code -eq 0 ]; then ok convert.acts.$stage; else bad convert.acts.$stage "exit $code: $(tail -n 2 "$work/log" | tr '\n' ' ')"; fi
    done
fi
new=yes
cannot acts.name 2 'NAME.acts.h5' --to acts "$work/theirs.safetensors" "$work/x.h5"
cannot acts.site 2 'names 2 sites' --to acts --site a,b "$work/theirs.safetensors" "$work/x.acts.h5"
cannot acts.heldout 2 'heldout' --to acts --heldout 1 "$work/theirs.safetensors" "$work/x.acts.h5"
cannot acts.missing 3 'none.safetensors' --to acts "$work/none.safetensors" "$work/x.acts.h5"
cp "$work/theirs.safetensors" "$work/cut.safetensors"
"$PYTHON" tests/e2e/damage.py truncate "$work/cut.safetensors" 0.5
cannot acts.cut 3 'cut.safetensors' --to acts "$work/cut.safetensors" "$work/x.acts.h5"

# ---- what cannot be -------------------------------------------------------------------------------
sae=$work/saelens-topk
cannot usage.to 2 '\-\-to' "$sae" "$work/x"
cannot usage.format 2 'saelens' --to sealens "$work/topk.dict.h5" "$work/x"
cannot usage.from 2 'saelens' --from sealens --to darkfield "$sae" "$work/x.dict.h5"
cannot usage.name 2 'NAME.dict.h5' --to darkfield "$sae" "$work/x.h5"
cannot usage.kind 2 'sae or transcoder' --to darkfield --kind clt "$sae" "$work/x.dict.h5"
cannot usage.layer 2 'layer' --to darkfield --layer one "$sae" "$work/x.dict.h5"
cannot wrong.kind 3 'say which with --kind' --to darkfield "$work/gemma-scope-transcoder" "$work/x.dict.h5"
cannot cannot.say 2 'sparsify' --to sparsify "$work/relu.dict.h5" "$work/x"
cannot cannot.token 2 'train.token_norm: layer' --to sparsify "$work/token.dict.h5" "$work/x"
cannot cannot.write 2 'only read' --to crosslayer-transcoder "$work/clt.dict.h5" "$work/x"
cannot missing.dict 3 'none.dict.h5' --to saelens "$work/none.dict.h5" "$work/x"
cannot missing.folder 3 "$work/none" --to darkfield "$work/none" "$work/x.dict.h5"
cannot wrong.layout 3 "$sae" --from sparsify --to darkfield "$sae" "$work/x.dict.h5"
cannot wrong.file 3 'acts.h5' --to saelens "$out/base.acts.h5" "$work/x"
mkdir -p "$work/empty"
cannot wrong.empty 3 "$work/empty" --to darkfield "$work/empty" "$work/x.dict.h5"
new=
cannot exists.folder 2 'force' --to saelens "$work/relu.dict.h5" "$sae"
cannot exists.dict 2 'force' --to darkfield "$sae" "$sae.dict.h5"
must force convert --force --to saelens "$work/topk.dict.h5" "$sae" && ok convert.force
new=yes
# damaged NAME FILE HOW ARGUMENTS...: a copy of the folder, with one file damaged, is refused by name or, where only
# darkfield.json no longer fits, read like anybody's.
damaged() {
    local name=$1 file=$2
    shift 2
    rm -rf "$work/damaged" "$work/x.dict.h5" && cp -r "$sae" "$work/damaged"
    "$PYTHON" tests/e2e/damage.py "$1" "$work/damaged/$file" "${@:2}"
    cannot "damaged.$name" 3 "$work/damaged" --to darkfield "$work/damaged" "$work/x.dict.h5"
}
damaged cut sae_weights.safetensors truncate 0.6
damaged nan sae_weights.safetensors bytes $(($(stat -c %s "$sae/sae_weights.safetensors") - 4)) ffffffff
damaged width cfg.json json d_in 7
damaged latents cfg.json json d_sae 1e30
damaged negative cfg.json json d_sae -5
damaged unknown cfg.json json rotate_by_magic true
damaged text cfg.json json d_in '"sixty"'
damaged json cfg.json truncate 0.5

# ---- dictionaries of others ----------------------------------------------------------------------
theirs=${DARKFIELD_FIXTURES:-}/dictionaries
if [ ! -d "$theirs" ]; then skip convert.fixtures "DARKFIELD_FIXTURES names no folder with dictionaries/"; finish; fi
for layer in 1 3; do
    folder=$work/othello_$layer
    mkdir -p "$folder"
    cp "$theirs/othello-sae/L${layer}_x8_cfg.json" "$folder/cfg.json"
    cp "$theirs/othello-sae/L${layer}_x8.safetensors" "$folder/sae_weights.safetensors"
    if must othello.$layer convert --to darkfield "$folder" "$folder.dict.h5" &&
        must othello.$layer.back convert --to saelens "$folder.dict.h5" "$folder.back" &&
        must othello.$layer.again convert --to darkfield "$folder.back" "$folder.again.dict.h5"; then
        if "$DARKFIELD" check "$folder.dict.h5" >"$work/log" 2>&1 && cmp -s "$folder/cfg.json" "$folder.back/cfg.json" &&
            [ "$(digest "$folder.dict.h5")" = "$(digest "$folder.again.dict.h5")" ]; then ok "convert.fixtures.othello_$layer"
        else bad "convert.fixtures.othello_$layer" "it came back another"; fi
    fi
done
for folder in "$theirs"/clt-toy/*/; do
    name=$(basename "$folder")
    if must "fixtures.$name" convert --to darkfield "$folder" "$work/$name.dict.h5"; then
        if "$DARKFIELD" check "$work/$name.dict.h5" >"$work/log" 2>&1; then ok "convert.fixtures.$name"
        else bad "convert.fixtures.$name" "$(tail -n 1 "$work/log")"; fi
    fi
done
finish
