#!/usr/bin/env bash
# Bad input, case by case: the right exit code on every rank, a message that names the file, no hang, and nothing left
# under an output's final name. bad_input.sh [MUTATIONS]: also that many seeded random damages of every kind of file.
source "$(dirname "$0")/../support/cases.sh"
mutations=${1:-${DARKFIELD_MUTATIONS:-6}}
LIMIT=60
case_out=$work/out
mkdir "$work/tmp"
tiny=(--set text.max_documents=40 --set train.steps=20 --set train.latents=64 --set out="$case_out")

# expect NAME CODE PATTERN ARGUMENTS...: on three ranks and, side by side unless $apart says otherwise, on one; a harvest
# has an output folder of its own then.
expect() {
    local name=bad_input.$1 code=$2 pattern=$3 three one other='' own=()
    shift 3
    [ "${1:-}" != harvest ] || [ -n "${apart:-}" ] || own=(--set out="$case_out-alone")
    # In a temporary folder of its own: the other's end must not take away the one that Open MPI makes there.
    alone() { TMPDIR=$work/tmp timeout -k 10 "$LIMIT" "$DARKFIELD" "$@" "${own[@]}" >"$work/alone" 2>&1 </dev/null; }
    if [ -z "${apart:-}" ]; then alone "$@" & other=$!; fi
    darkfield 3 "$@"
    three=$?
    if [ -n "$other" ]; then wait "$other"; else alone "$@"; fi
    one=$?
    judge "$name" "$code" "$pattern" "$three" "$work/log" &&
        absent=${absent:+${absent/#$case_out\//$case_out-alone/}} judge "$name.alone" "$code" "$pattern" "$one" "$work/alone" &&
        ok "$name"
}

# ---- the command line and the job file: exit 2, before any work ------------------------------------
expect usage.nothing 2 'darkfield --help'
expect usage.stage 2 'harvest' harvset "$pocket"
expect usage.option 2 'dry-run' harvest "$pocket" --dryrun
expect job.missing 2 "$work/none.yaml" train "$work/none.yaml"
expect job.folder 2 "$work" train "$work"
expect job.unknown_key 2 'lambda|latents|train\.' train "$pocket" --set train.latnets=3
expect job.type 2 'train.steps' train "$pocket" --set train.steps=many
expect job.range 2 'text.heldout' train "$pocket" --set text.heldout=1.5
decoupled=(--set train.code_norm=decoupled --set train.subtract_bias=false)
for dry in '' --dry-run; do
    expect "job.decoupled.penalty$dry" 2 'decoupled takes none' train "$pocket" "${decoupled[@]}" --set train.penalty=l1 $dry
    expect "job.decoupled.multi$dry" 2 'not decoupled' train "$pocket" "${decoupled[@]}" --set train.activation=topk --set train.multi_topk=0.1 $dry
    expect "job.token_norm$dry" 2 'token_norm is for dictionaries that read what they write' train "$pocket" --set train.kind=transcoder --set train.model=base --set train.token_norm=layer $dry
    expect "job.fired$dry" 2 'fired_above must then be 0' train "$pocket" --set train.activation=topk --set train.fired=selected --set train.fired_above=0.1 $dry
    expect "job.k$dry" 2 'train.k is 1000' train "$pocket" --set train.k=1000 --set train.latents=500 $dry
done
expect job.pipeline.blocks 2 'harvest.pipeline is 6, but model base has 4 blocks' harvest "$pocket" "${tiny[@]}" --set harvest.pipeline=6
expect job.pipeline.ranks 2 'groups of 4 ranks' harvest "$pocket" "${tiny[@]}" --set harvest.pipeline=4
expect job.pipeline.memory 2 'harvest.memory' harvest "$pocket" "${tiny[@]}" --set harvest.memory=1
job_case() { # NAME PATTERN, the file on stdin
    cat >"$work/job.yaml"
    expect "job.$1" 2 "$work/job.yaml.*$2" harvest "$work/job.yaml"
}
job_case unknown_key_line ':3:' <<<$'seed: 1\nout: runs/x\nsede: 2'
job_case duplicate ':2:' <<<$'seed: 1\nseed: 2'
job_case anchor '' <<<$'seed: &a 1\nout: *a'
job_case tag '' <<<$'seed: !!int 1'
job_case not_yaml '' <<<$'seed: [1, 2\nout: }'
job_case list '' <<<$'- 1\n- 2'
job_case binary '' < <(head -c 300 jobs/quickstart/base/model.safetensors)
job_case truncated '' < <(head -c 400 "$pocket")
job_case missing_key 'out|models|text' <<<$'seed: 1'

# ---- models: exit 3 --------------------------------------------------------------------------------
# a_model NAME: a copy of the base model in $work/model to be damaged.
a_model() { rm -rf "$work/model"; cp -r jobs/quickstart/base "$work/model"; }
model_case() { # NAME PATTERN: harvest with the damaged model
    rm -rf "$case_out" "$case_out-alone"
    absent=$case_out/base.acts.h5 expect "model.$1" 3 "$work/model/?.*$2" harvest "$pocket" "${tiny[@]}" \
        --set models.a.path="$work/model"
}
damage() { "$PYTHON" tests/e2e/damage.py "$@"; }

rm -rf "$work/model"; model_case no_folder ''
a_model; rm "$work/model/config.json"; model_case no_config 'config.json'
a_model; rm "$work/model/tokenizer.json"; model_case no_tokenizer 'tokenizer.json'
a_model; rm "$work/model/model.safetensors"; model_case no_weights 'safetensors'
a_model; damage truncate "$work/model/config.json" 0.5; model_case config_truncated 'config.json'
a_model; damage json "$work/model/config.json" num_hidden_layers '"four"'; model_case config_type 'config.json.*num_hidden_layers'
a_model; damage json "$work/model/config.json" hidden_size -64; model_case config_negative 'config.json.*hidden_size'
a_model; damage json "$work/model/config.json" hidden_size 4000000000; model_case config_huge ''
a_model; damage json "$work/model/config.json" num_hidden_layers 9; model_case config_more_layers ''
a_model; damage json "$work/model/config.json" architectures '["MambaForCausalLM"]'; damage json "$work/model/config.json" model_type '"mamba"'; model_case architecture 'mamba|Mamba'
a_model; damage truncate "$work/model/tokenizer.json" 0.5; model_case tokenizer_truncated 'tokenizer.json'
a_model; echo '{}' >"$work/model/tokenizer.json"; model_case tokenizer_empty 'tokenizer.json'
a_model; damage tokens "$work/model/tokenizer.json" 5000; model_case tokenizer_mismatched 'tokenizer.json.*5000'
a_model; damage truncate "$work/model/model.safetensors" 0.6; model_case weights_truncated 'model.safetensors'
a_model; damage bytes "$work/model/model.safetensors" 0 ffffffffffffff7f; model_case weights_header_length 'model.safetensors'
a_model; damage bytes "$work/model/model.safetensors" 8 7b7b7b7b; model_case weights_header_json 'model.safetensors'
a_model; damage tensor "$work/model/model.safetensors" shape; model_case weights_shape 'model.safetensors'
a_model; damage tensor "$work/model/model.safetensors" name; model_case weights_name 'model.safetensors|tensor'
a_model; damage tensor "$work/model/model.safetensors" offsets; model_case weights_offsets 'model.safetensors'
a_model; damage tensor "$work/model/model.safetensors" type; model_case weights_type 'model.safetensors'
a_model; damage tensor "$work/model/model.safetensors" nan; model_case weights_nan '.*finite.*nan'

# ---- text: exit 3 ----------------------------------------------------------------------------------
text_case() { # NAME PATTERN
    rm -rf "$case_out" "$case_out-alone"
    absent=$case_out/base.acts.h5 expect "text.$1" 3 "$work/text.jsonl.*$2" harvest "$pocket" "${tiny[@]}" \
        --set text.file="$work/text.jsonl"
}
rm -f "$work/text.jsonl"; text_case missing ''
: >"$work/text.jsonl"; text_case empty ''
printf '{"text": "a b"}\n{"text": "c\n' >"$work/text.jsonl"; text_case not_json '2'
printf '{"txt": "a b"}\n' >"$work/text.jsonl"; text_case no_field 'text'
printf '{"text": 5}\n' >"$work/text.jsonl"; text_case field_type 'text'
head -c 5000 jobs/quickstart/text.jsonl >"$work/text.jsonl"; text_case truncated "$(($(wc -l <"$work/text.jsonl") + 1))"
# Bytes that are no UTF-8 are replaced, with a warning: real corpora have them.
printf '{"text": "a \xff\xfe b"}\n' >"$work/text.jsonl"
absent='' expect text.not_utf8 0 "$work/text.jsonl.*UTF-8" harvest "$pocket" "${tiny[@]}" --set text.file="$work/text.jsonl"
absent='' expect site.unknown '2|3' 'blocks.9' harvest "$pocket" "${tiny[@]}" --set site=blocks.9.hook_resid_post

# ---- our own files: exit 3 -------------------------------------------------------------------------
good=$work/good
absent=''
darkfield 2 run "$pocket" "${tiny[@]}" --set out="$good" --set stages="harvest, train, stats" ||
    { bad bad_input.good "exit $?: $(end_of "$work/log")"; finish; }
a_run() { rm -rf "$case_out"; mkdir -p "$case_out"; cp "$good"/*.h5 "$case_out"; }
own_case() { # NAME FILE STAGE OUTPUT PATTERN OPTIONS...
    absent=$case_out/$4 expect "own.$1" 3 "$5" "$3" "$pocket" "${tiny[@]}" "${@:6}"
}
acts_case() { rm -f "$case_out/crosscoder.dict.h5"; own_case "$1" tuned.acts.h5 train crosscoder.dict.h5 "tuned.acts.h5$2"; }
a_run; rm "$case_out/tuned.acts.h5"; acts_case acts_missing ''
a_run; damage truncate "$case_out/tuned.acts.h5" 0.5; acts_case acts_truncated ''
a_run; damage truncate "$case_out/tuned.acts.h5" 0.99; acts_case acts_truncated_a_little ''
a_run; head -c 100000 /dev/urandom >"$case_out/tuned.acts.h5"; acts_case acts_not_hdf5 ''
a_run; cp "$case_out/crosscoder.dict.h5" "$case_out/tuned.acts.h5"; acts_case acts_is_a_dictionary ''
a_run; damage h5data "$case_out/tuned.acts.h5" sites; acts_case acts_flipped_byte '.*(blocks|checksum)'
a_run; damage h5attr "$case_out/tuned.acts.h5" complete; acts_case acts_incomplete ''
a_run; damage h5nan "$case_out/tuned.acts.h5"; acts_case acts_nan '.*row.*NaN.*finite'
darkfield 2 harvest "$pocket" "${tiny[@]}" --set out="$work/other" --set text.max_documents=30 || bad bad_input.other "exit $?"
a_run; cp "$work/other/tuned.acts.h5" "$case_out"; acts_case acts_misaligned '|align'
dict_case() { rm -f "$case_out/evaluate.h5"; own_case "$1" crosscoder.dict.h5 evaluate evaluate.h5 "crosscoder.dict.h5$2"; }
# A window whose rows in use are of one document: told before the models run, and by the plan.
for dry in '' --dry-run; do
    a_run; own_case "loss_halves$dry" crosscoder.dict.h5 evaluate evaluate.h5 '0 rows to change in one half.*evaluate.loss_nulls' \
        --set evaluate.loss_windows=1 --set evaluate.skip_first=100 $dry
done
a_run; rm "$case_out/crosscoder.dict.h5"; dict_case dict_missing ''
a_run; damage truncate "$case_out/crosscoder.dict.h5" 0.7; dict_case dict_truncated ''
a_run; damage h5data "$case_out/crosscoder.dict.h5" group; dict_case dict_flipped_byte ''
a_run; cp "$good/base.acts.h5" "$case_out/crosscoder.dict.h5"; dict_case dict_is_activations ''
# A dictionary of another site, for every stage that encodes with one.
darkfield 2 run "$pocket" "${tiny[@]}" --set out="$work/other" --set site=blocks.1.hook_resid_post \
    --set stages="harvest, train" || bad bad_input.other_site "exit $?"
for stage in evaluate stats spectrum; do
    a_run; rm -f "$case_out/$stage.h5"; cp "$work/other/crosscoder.dict.h5" "$case_out"
    named='acts.h5.*blocks.1'
    [ $stage != evaluate ] || named='evaluating .*crosscoder.dict.h5'
    own_case "dict_of_another_site.$stage" crosscoder.dict.h5 $stage $stage.h5 "$named"
done
# Inputs that are not those the activations were made from.
stats_case() { # NAME PATTERN OPTIONS...
    local name=$1 pattern=$2
    shift 2
    a_run; rm -f "$case_out/stats.h5"
    absent=$case_out/stats.h5 expect "own.$name" 3 "$pattern" stats "$pocket" "${tiny[@]}" "$@"
}
head -n 100 jobs/quickstart/text.jsonl | tail -n 60 >"$work/text.jsonl"
stats_case stats_of_another_text "$work/text.jsonl.*corpus" --set text.file="$work/text.jsonl"
sed '5s/\[\["[a-z ]*", *[0-9]*/[["speaker", 99999/' jobs/quickstart/text.jsonl >"$work/text.jsonl"
sed -i '3s/"concepts": *\[/"concepts": ["speaker", /' "$work/text.jsonl"
stats_case stats_labels "$work/text.jsonl.*concepts" --set text.file="$work/text.jsonl"
stats_case stats_of_another_model "jobs/quickstart/tuned.*model" --set models.a.path=jobs/quickstart/tuned
a_run; rm -f "$case_out/diff.h5"
darkfield 2 train "$pocket" "${tiny[@]}" --set train.steps=5 || bad bad_input.other_dictionary "exit $?"
own_case stats_of_another_dictionary stats.h5 diff diff.h5 'stats.h5.*dictionary' --set train.steps=5
a_run; rm -f "$case_out/diff.h5"; damage truncate "$case_out/stats.h5" 0.5; own_case stats_truncated stats.h5 diff diff.h5 'stats.h5'
for damaged in "truncate $case_out/stats.h5 0.9" "h5data $case_out/stats.h5 latents"; do
    a_run; damage $damaged
    absent='' expect "check.${damaged%% *}" 3 'stats.h5' check "$case_out/stats.h5"
done
# Damaged checkpoints and progress cost work, not the run.
spare() { # NAME STAGE PATTERN OPTIONS...: goes on without the damaged file, to the same content
    local name=$1 stage=$2 pattern=$3 result=$4
    shift 4
    if darkfield 3 "$stage" "$pocket" "${tiny[@]}" "$@" && grep -q "$pattern" "$work/log" &&
        [ "$(digest "$case_out/$result")" = "$(digest "$good/$result")" ]; then ok "bad_input.spare.$name"
    else bad "bad_input.spare.$name" "exit $?, or no '$pattern', or other content: $(end_of "$work/log")"; fi
}
a_run; rm "$case_out/crosscoder.dict.h5"
darkfield 2 train "$pocket" "${tiny[@]}" --set time_limit=0.000001
damage random "$(ls "$case_out"/*.ckpt.h5)" 1
spare checkpoint train 'cannot be used' crosscoder.dict.h5
rm -rf "$case_out"
darkfield 2 harvest "$pocket" "${tiny[@]}" --set text.max_documents=300 --set time_limit=0.000001
damage truncate "$case_out/base.acts.h5.part" 0.5
darkfield 3 harvest "$pocket" "${tiny[@]}" --set text.max_documents=300 && ! grep -q 'going on' "$work/log" &&
    "$DARKFIELD" check "$case_out"/*.acts.h5 >"$work/log" 2>&1 && ok bad_input.spare.part ||
    bad bad_input.spare.part "$(end_of "$work/log")"
absent='' expect check.missing 3 'none.h5' check "$work/none.h5"

# ---- where outputs go ------------------------------------------------------------------------------
: >"$work/a-file"
apart=yes expect out.under_a_file 1 "$work/a-file" harvest "$pocket" "${tiny[@]}" --set out="$work/a-file/x"
mkdir -p "$work/full"
if mount -t tmpfs -o size=600k darkfield-test "$work/full" 2>/dev/null; then
    undo="umount '$work/full'"
    apart=yes
    absent=$work/full/base.acts.h5 expect out.full_disk.harvest 1 "$work/full" harvest "$pocket" "${tiny[@]}" --set out="$work/full" --set text.max_documents=300
    rm -rf "$work/full"/*
    mount -o remount,size="$(($(cat "$good"/*.acts.h5 | wc -c) / 1024 + 64))k" "$work/full" && cp "$good"/*.acts.h5 "$work/full"
    absent=$work/full/crosscoder.dict.h5 expect out.full_disk.train 1 "$work/full" train "$pocket" "${tiny[@]}" --set out="$work/full" --set train.latents=1024
    absent=$work/full/crosscoder.dict.h5 expect out.full_disk.checkpoint 1 "$work/full" train "$pocket" "${tiny[@]}" --set out="$work/full" --set train.latents=1024 --set train.checkpoint_minutes=0.001
    # Nothing at all is left for the shorter stages.
    rm -rf "$work/full"/* && mount -o remount,size=20m "$work/full" && cp "$good"/*.h5 "$work/full" && rm "$work/full/stats.h5"
    head -c 30m /dev/zero >"$work/full/ballast" 2>/dev/null
    for stage in evaluate stats spectrum; do
        absent=$work/full/$stage.h5 expect out.full_disk.$stage 1 "$work/full.*space" $stage "$pocket" "${tiny[@]}" --set out="$work/full"
    done
    rm "$work/full/ballast"
    darkfield 2 run "$pocket" "${tiny[@]}" --set out="$work/full" --set report.null="$work/none" || bad bad_input.full.rest "exit $?"
    rm -f "$work/full/report.html"
    head -c 30m /dev/zero >"$work/full/ballast" 2>/dev/null
    absent=$work/full/report.html expect out.full_disk.report 1 'space' report "$pocket" "${tiny[@]}" --set out="$work/full" --set report.null="$work/none"
    umount "$work/full"
    undo=: apart=
else skip bad_input.out.full_disk "no right to mount a tmpfs here"; fi

# ---- random damage: any code of the contract, never a crash or a hang ----------------------------------
mutate() { # NAME FILE STAGE ARGUMENTS...: the file is put back each time
    local name=$1 file=$2 stage=$3 seed code
    shift 3
    cp "$file" "$work/whole"
    for seed in $(seq "$mutations"); do
        cp "$work/whole" "$file"
        damage random "$file" "$seed"
        darkfield 2 "$stage" "$pocket" "${tiny[@]}" --force "$@"
        code=$?
        case $code in
            0 | 1 | 2 | 3) ;;
            *) bad "mutate.$name.$seed" "exit $code: $(end_of "$work/log")"; cp "$work/whole" "$file"; return ;;
        esac
    done
    cp "$work/whole" "$file"
    ok "mutate.$name ($mutations seeds)"
}
a_model
for file in config.json tokenizer.json model.safetensors; do
    mutate "$file" "$work/model/$file" harvest --set models.a.path="$work/model" --set text.max_documents=5
done
head -n 20 jobs/quickstart/text.jsonl >"$work/text.jsonl"
mutate text.jsonl "$work/text.jsonl" harvest --set text.file="$work/text.jsonl" --set text.max_documents=5
a_run
mutate acts.h5 "$case_out/base.acts.h5" train
a_run
mutate dict.h5 "$case_out/crosscoder.dict.h5" evaluate
mutate stats.h5 "$case_out/stats.h5" diff
finish
