#!/usr/bin/env bash
# Trains every part of the nano bundle, in order, each on what the ones before it wrote.
# A run that was cut off goes on from its last checkpoint: call the script again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
bundle=src/metis_lightning/assets/nano
python=${PYTHON:-.venv/bin/python}

# train NAME CONFIG-OPTIONS…: fit, from the last checkpoint if there is one, then put the result into the bundle.
train() {
    local name=$1 last=runs/$1/checkpoints/last.ckpt
    shift
    if [[ -f $last ]]; then
        set -- "$@" --ckpt_path "$last"
    fi
    "$python" -m metis_lightning fit "$@"
    "$python" -m metis_lightning.weights.export "$last" "$bundle"
}

train semantic_codec -c configs/semantic_codec.yaml
train acoustic_codec -c configs/acoustic_codec.yaml
train pretrain -c configs/pretrain.yaml
train s2a_1layer -c configs/semantic_to_acoustic_1layer.yaml
train s2a_full -c configs/semantic_to_acoustic.yaml
train tse_long -c configs/tse_lora.yaml -c experiments/nano/tse_long.yaml -c experiments/nano/tse_easy.yaml
train tse_long -c configs/tse_lora.yaml -c experiments/nano/tse_long.yaml
"$python" -m metis_lightning evaluate --task tse --system nano --out evaluation/results/nano
