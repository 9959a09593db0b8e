#!/usr/bin/env bash
# One run on all devices of one machine, or of several: the same line on each.
#   experiments/launch/torchrun.sh -c configs/pretrain.yaml -c configs/scale/paper.yaml
#   NODES=4 MASTER=node0:29500 experiments/launch/torchrun.sh -c configs/pretrain.yaml -c configs/scale/paper.yaml
# DEVICES   processes on each machine (default: one for each GPU)
# RESTARTS  how often the run starts again, from its newest sound checkpoint, after a process was lost (default 3)
# The run's folder, data and token store must be the same on all machines. With TokensPerUpdate, as in scale/paper.yaml,
# an update sees as many tokens whatever the number of devices.
set -euo pipefail
: "${NODES:=1}" "${DEVICES:=auto}" "${MASTER:=localhost:29500}" "${RESTARTS:=3}" "${RUN:=metis}" "${PYTHON:=python}"

# With a store that outlives a restart, processes look for each other where the lost ones were, and wait for ever (torch 2.13).
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec "$PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$DEVICES" --max-restarts "$RESTARTS" \
    --rdzv-backend c10d --rdzv-endpoint "$MASTER" --rdzv-id "$RUN" \
    -m metis_lightning fit "$@" --trainer.num_nodes "$NODES" --trainer.devices "$DEVICES" --resume auto
