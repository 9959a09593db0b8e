#!/usr/bin/env bash
# Two of the paper's claims at nano's size, on equal steps: pre-training against none (SE, TSE), and LoRA of rank 4, 16 and
# 32 against full fine-tuning (SE). All begin at the pre-trained stage 1, or at random weights.
#   BASE=runs/nano/pretrained experiments/nano/claims.sh
# BASE is a bundle whose stage 1 was pre-trained and nothing else. STEPS and ARGS (of evaluate, as '--limit 12') shorten it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
base=${BASE:?the bundle with the pre-trained stage 1}
python=${PYTHON:-.venv/bin/python}
runs=${RUNS:-runs/nano}/claims
steps=${STEPS:-400}
muon=(--model.optimizer.class_path metis_lightning.tasks.optimization.MuonAdamW)

# tune NAME CONFIG OPTIONS…: fit, unless it has been done.
tune() {
    local name=$1 config=$2 last=$runs/$1/checkpoints/last.ckpt
    shift 2
    [[ -f $last ]] && set -- "$@" --ckpt_path "$last"
    "$python" -m metis_lightning fit -c "$config" --model.base "$base" --model.masks_per_row 3 --model.gate_init 1.0 \
        --data.batch_seconds 20 --trainer.precision bf16-mixed --trainer.max_steps "$steps" --trainer.val_check_interval "$steps" \
        --trainer.logger.init_args.save_dir "$runs" --trainer.logger.init_args.name "$name" "$@"
}

# score TASK TEST-SET NAMES…: their outputs and the input's, item by item the same, with paired differences.
score() {
    local task=$1 set=$2 systems=(input)
    shift 2
    for name in "$@"; do systems+=("$name=$runs/$name/checkpoints/last.ckpt"); done
    # shellcheck disable=SC2086
    "$python" -m metis_lightning evaluate --task "$task" --system "${systems[@]}" --base "$base" --test-sets "$set" \
        --max-failed-share 1 --out "evaluation/results/claims_$task" ${ARGS:-}
}

for rank in 4 16 32; do tune "se_lora_$rank" "experiments/table_04/se_lora_$rank.yaml"; done
tune se_full configs/se.yaml "${muon[@]}" --model.optimizer.init_args.lr 1.2e-3
tune se_scratch configs/se.yaml "${muon[@]}" --model.optimizer.init_args.lr 1.2e-3 --model.from_scratch true
tune tse_full configs/tse.yaml "${muon[@]}" --model.optimizer.init_args.lr 1.2e-3
tune tse_scratch configs/tse.yaml "${muon[@]}" --model.optimizer.init_args.lr 1.2e-3 --model.from_scratch true
score se test-unseen-se se_lora_4 se_lora_16 se_lora_32 se_full se_scratch
score tse test-unseen tse_full tse_scratch
"$python" -m metis_lightning tables
