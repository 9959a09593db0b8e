"""Making a model ready for inference, in place: merged LoRA, fewer and faster products, another precision.

A model that went through this is no longer trained or saved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Attention, SwiGLU
from metis_lightning.models.linear import Int8Linear, PackedLinear
from metis_lightning.models.lora import merge_lora

Precision: TypeAlias = Literal["float32", "bfloat16", "int8"]
"""Of a stage's products; the codecs, the choice of tokens and the norms stay in float32."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Convert = Callable[[Tensor, Tensor | None], nn.Module]


def usual_precision(device: str | torch.device) -> Precision:
    """Return what commands compute in where the user does not say: a GPU is several times as fast in bfloat16."""
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def ready(model: nn.Module, precision: Precision = "float32") -> None:
    """Make a stage ready for inference in place.

    Args:
        model: stage 1, or a model of stage 2.
        precision: `float32` gives what the model gives, but for the last bits; `bfloat16` casts all of it; `int8`
            quantises the backbone's linear maps, see `Int8Linear`, on a CPU.

    Raises:
        UserError: if there is no such precision, or it does not run on the model's device.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    device = next(model.parameters()).device.type
    if precision == "int8" and device != "cpu":
        raise UserError(f"int8 weights run on the CPU, not on {device}; choose bfloat16")
    merge_lora(model)
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    elif precision == "int8":
        _convert_layers(model, Int8Linear)
    elif any(PackedLinear.suits(p) for p in model.parameters() if p.dim() == 2):
        _convert_layers(model, PackedLinear)


def _convert_layers(model: nn.Module, convert: Convert) -> None:
    """Replace the linear maps of a backbone in place; those that read the same input become one."""
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.qkv_proj = _joined(module, ("q_proj", "k_proj", "v_proj"), convert)
            module.add_module("o_proj", convert(module.o_proj.weight, None))
        elif isinstance(module, SwiGLU):
            module.gate_up_proj = _joined(module, ("gate_proj", "up_proj"), convert)
            module.add_module("down_proj", convert(module.down_proj.weight, None))
    _pack_others(model)


def _joined(parent: nn.Module, names: Sequence[str], convert: Convert) -> nn.Module:
    """Return one map in the place of several of one input, which are taken off, so that no weight is held twice."""
    joined = torch.cat([parent.get_submodule(name).get_parameter("weight").detach() for name in names])
    for name in names:
        delattr(parent, name)
    return convert(joined, None)


def _pack_others(model: nn.Module) -> None:
    """Pack the wide maps that read frames: heads, adapters and the condition's MLP."""
    for name, module in list(model.named_modules()):
        # The maps of steps and norms read one row a step, and only once a schedule.
        if not isinstance(module, nn.Linear) or name.endswith("to_weight") or "diff_step_mlp" in name:
            continue
        if PackedLinear.suits(module.weight):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, PackedLinear(module.weight, module.bias))
