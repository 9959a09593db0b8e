"""Weights that several processes hold a part of each (FSDP2, `torch.distributed.fsdp.fully_shard`)."""

from __future__ import annotations

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

from metis_lightning.models.backbone import AdaptiveRMSNorm, Backbone

# What training calls of a stage 1, and not `forward`: hooks within hooks would put the weights away too soon.
_ENTRIES = ("embed", "hidden")


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Share the weights of a model of either stage among a mesh's processes, in place.

    A block of the transformer is gathered when it computes, and so are the maps of all norms together, which are used
    once a pass; what is left, embeddings and heads, stays gathered from the first use to the end of the backward pass.
    """
    for backbone in [part for part in model.modules() if isinstance(part, Backbone)]:
        fully_shard([part.to_weight for part in backbone.modules() if isinstance(part, AdaptiveRMSNorm)], mesh=mesh)
        for block in backbone.layers:
            fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for name in _ENTRIES:
        register_fsdp_forward_method(model, name)
