#!/usr/bin/env bash
# darkfield generate: with kept keys and without, on any ranks, the same text; latents change it, an empty change does not;
# samples follow the seed; wrong calls are named.
source "$(dirname "$0")/../support/cases.sh"
LIMIT=120
tuned=jobs/quickstart/tuned base=jobs/quickstart/base
out=$work/out

# said NAME RANKS ARGUMENTS...: the text in $text, without the line of speeds and the warning of a young threshold.
said() {
    local name=$1
    shift
    darkfield "$@" || { bad "generate.$name" "exit $?: $(end_of "$work/log")"; return 1; }
    text=$(sed '/tokens read, .* added in/d; /^warning: .* active per row/d' "$work/log")
}
same() { if [ "$2" = "$3" ]; then ok "generate.$1"; else bad "generate.$1" "'$3', expected '$2'"; fi }
differs() { if [ "$2" != "$3" ]; then ok "generate.$1"; else bad "generate.$1" "still '$3'"; fi }
prompt='The capital of'
say=(generate $tuned "$prompt" --tokens 24)
said greedy 1 "${say[@]}" || finish
greedy=$text
case $greedy in "$prompt"*) ok generate.greedy ;; *) bad generate.greedy "'$greedy'" ;; esac
said cache 1 "${say[@]}" --cache no && same cache "$greedy" "$text"
said ranks 3 "${say[@]}" && same ranks "$greedy" "$text"
said sampled 1 "${say[@]}" --temperature 1.5 --seed 3 || finish
sampled=$text
said sampled.again 2 "${say[@]}" --temperature 1.5 --seed 3 && same sampled.again "$sampled" "$text"
said sampled.other 1 "${say[@]}" --temperature 1.5 --seed 4 && differs sampled.other "$sampled" "$text"

darkfield 2 harvest $pocket "${small[@]}" --set out="$out" && darkfield 2 train $pocket "${small[@]}" --set out="$out" ||
    { bad generate.train "$(end_of "$work/log")"; finish; }
dict=(--dict "$out/crosscoder.dict.h5" --reader base=$base)
said nothing 1 "${say[@]}" "${dict[@]}" && same nothing "$greedy" "$text"
said latent 1 "${say[@]}" "${dict[@]}" --latent 17=30 --latent 3=0 || finish
changed=$text
differs latent "$greedy" "$changed"
said latent.cache 1 "${say[@]}" "${dict[@]}" --latent 17=30 --latent 3=0 --cache no && same latent.cache "$changed" "$text"
for ranks in 2 3 4; do
    said latent.ranks_$ranks $ranks "${say[@]}" "${dict[@]}" --latent 17=30 --latent 3=0 &&
        same latent.ranks_$ranks "$changed" "$text"
done
said splice 2 "${say[@]}" "${dict[@]}" --splice yes && ok generate.splice

refused no_prompt 2 'needs a model folder and a prompt' darkfield 1 generate $tuned
refused no_model 3 'config.json' darkfield 1 generate "$work" x
refused no_dict 2 'need --dict' darkfield 1 "${say[@]}" --latent 3=1
refused no_reader 2 'reads models base and tuned' darkfield 1 "${say[@]}" --dict "$out/crosscoder.dict.h5"
refused value 2 'as 17=8' darkfield 1 "${say[@]}" "${dict[@]}" --latent 17
refused latent_range 2 'latents 0 to 1023, not 1024' darkfield 1 "${say[@]}" "${dict[@]}" --latent 1024=1
refused too_long 2 'positions for 1..256' darkfield 1 generate $tuned x --tokens 300
refused foreign 2 'belongs to darkfield convert' darkfield 1 "${say[@]}" --heldout 0.1
finish
