#!/usr/bin/env bash
# Trains every part of the nano bundle, in order, each on what the ones before it wrote.
# A run that was cut off goes on from its last checkpoint: call the script again.
# UTTERANCES=0 leaves the synthetic speech out; LIMIT=20 shortens every run to so many steps, to try the chain.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bundle=${BUNDLE:-src/metis_lightning/assets/nano}
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-runs/nano}
data=(--data.root "$runs/corpus")
tokens=(--data.tokens "$runs/tokens")
part=(--model.tokenizer "$bundle")

# train NAME CONFIG-OPTIONS…: fit, from the last checkpoint if there is one, then put the result into the bundle.
train() {
    local name=$1 last=$runs/$1/checkpoints/last.ckpt
    shift
    set -- "$@" --trainer.logger.init_args.save_dir "$runs" --trainer.logger.init_args.name "$name"
    if [[ -n ${LIMIT:-} ]]; then
        set -- "$@" --trainer.max_steps "$LIMIT" --trainer.val_check_interval "$LIMIT"
    fi
    if [[ -f $last ]]; then
        set -- "$@" --ckpt_path "$last"
    fi
    "$python" -m metis_lightning fit "$@"
    "$python" -m metis_lightning.weights.export "$last" "$bundle" --dtype int8
}

"$python" experiments/nano/corpus.py --out "$runs/corpus" --cache "$runs/packages" --utterances "${UTTERANCES:-6000}"
if [[ ! -d $runs/tokens ]]; then
    "$python" experiments/nano/front_end.py --bundle "$bundle" --cache "$runs/packages"
    "$python" experiments/nano/k_means.py --bundle "$bundle"
fi
train acoustic_codec -c configs/acoustic_codec.yaml "${data[@]}"
"$python" -m metis_lightning prepare tokens -c configs/semantic_to_acoustic.yaml "${data[@]}" "${part[@]}" --out "$runs/tokens"
train pretrain -c configs/pretrain.yaml "${data[@]}" "${tokens[@]}" "${part[@]}"
train s2a_1layer -c configs/semantic_to_acoustic_1layer.yaml "${data[@]}" "${tokens[@]}" "${part[@]}"
train s2a_full -c configs/semantic_to_acoustic.yaml "${data[@]}" "${tokens[@]}" "${part[@]}"
train omni -c configs/omni.yaml -c experiments/nano/omni.yaml "${data[@]}" "${tokens[@]}" --model.base "$bundle"
