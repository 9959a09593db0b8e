#!/usr/bin/env bash
# Trains every part of the nano bundle, in order, each on what the ones before it wrote.
# A run that was cut off goes on from its last checkpoint: call the script again.
# UTTERANCES=0 leaves the synthetic speech out; LIMIT=2 tries the chain: so many steps of every run, and so many
# utterances of each speaker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bundle=${BUNDLE:-src/metis_lightning/assets/nano}
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-runs/nano}
data=(--data.root "$runs/corpus")
tokens=(--data.tokens "$runs/tokens")
part=(--model.tokenizer "$bundle")

# fit NAME CONFIG-OPTIONS…: from the last checkpoint if there is one.
fit() {
    local name=$1 last=$runs/$1/checkpoints/last.ckpt
    shift
    set -- "$@" --trainer.logger.init_args.save_dir "$runs" --trainer.logger.init_args.name "$name"
    if [[ -n ${LIMIT:-} ]]; then
        set -- "$@" --trainer.max_steps "$LIMIT" --trainer.val_check_interval "$LIMIT" --trainer.limit_val_batches 1
    fi
    if [[ -f $last ]]; then
        set -- "$@" --ckpt_path "$last"
    fi
    "$python" -m metis_lightning fit "$@"
}

# put NAME EXPORT-OPTIONS…: put a run's result into the bundle.
put() {
    local last=$runs/$1/checkpoints/last.ckpt
    shift
    "$python" -m metis_lightning.weights.export "$last" "$bundle" --dtype int8 "$@"
}

# train NAME CONFIG-OPTIONS…: fit, then put the result into the bundle.
train() {
    fit "$@"
    put "$1"
}

"$python" experiments/nano/corpus.py --out "$runs/corpus" --cache "$runs/packages" --utterances "${UTTERANCES:-6000}" \
    ${LIMIT:+--limit "$LIMIT"}
if [[ ! -d $runs/tokens ]]; then
    "$python" experiments/nano/front_end.py --bundle "$bundle" --cache "$runs/packages"
    "$python" experiments/nano/k_means.py --bundle "$bundle" ${LIMIT:+--utterances $((20 * LIMIT))}
fi
train acoustic_codec -c configs/acoustic_codec.yaml "${data[@]}"
"$python" -m metis_lightning prepare tokens -c configs/semantic_to_acoustic.yaml "${data[@]}" "${part[@]}" --out "$runs/tokens"
train pretrain -c configs/pretrain.yaml "${data[@]}" "${tokens[@]}" "${part[@]}"
train s2a_1layer -c configs/semantic_to_acoustic_1layer.yaml "${data[@]}" "${tokens[@]}" "${part[@]}"
train s2a_full -c configs/semantic_to_acoustic.yaml "${data[@]}" "${tokens[@]}" "${part[@]}" \
    --model.start_from "$runs/s2a_1layer/checkpoints/last.ckpt"
# What claims.sh starts from: the stage 1 that was pre-trained and nothing else.
rm -rf "$runs/pretrained"
cp -r "$bundle" "$runs/pretrained"
fit omni -c configs/omni.yaml -c experiments/nano/omni.yaml "${data[@]}" "${tokens[@]}" --model.base "$runs/pretrained"
# Its stage 1 is then the bundle's, for LoRA of single tasks to start at.
put omni --as-base

# Lip to speech, of drawn mouths, and its control, which is no part of the bundle; it needs the extras offline and video.
if ! "$python" -c 'import av, pocketsphinx' 2>/dev/null; then
    echo "no lip to speech: pip install '.[offline,video]'"
    exit 0
fi
mouths=$runs/mouths
"$python" experiments/nano/mouths.py --out "$mouths" ${LIMIT:+--limit "$LIMIT"}
if [[ ! -d $mouths/lips ]]; then
    "$python" experiments/nano/eigenmouths.py --manifest "$mouths/clips.jsonl" --bundle "$bundle"
fi
"$python" -m metis_lightning prepare video --root "$mouths" --list "$mouths/clips.jsonl" --out "$mouths/mouths.jsonl" \
    --features "$mouths/lips" --encoder "$bundle"
"$python" experiments/nano/blind.py features "$mouths/lips" "$mouths/blank"
lips=(-c configs/l2s.yaml -c experiments/nano/l2s.yaml --model.base "$bundle" --data.manifest "$mouths/mouths.jsonl")
train l2s "${lips[@]}" "${tokens[@]}" --data.recipe.folder "$mouths/lips"
fit l2s_blind "${lips[@]}" "${tokens[@]}" --data.recipe.folder "$mouths/blank"
"$python" experiments/nano/blind.py weights "$runs/l2s_blind/checkpoints/last.ckpt" "$runs/blind.ckpt"
