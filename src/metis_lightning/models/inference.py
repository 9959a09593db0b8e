"""Prepares a model for inference, in place: merged LoRA, fewer and faster products, another precision.

The model is then no longer trained or saved. On one thread of an EPYC with VNNI a pass of the backbone is 1.2 times as
fast with packed maps, 2 times in bfloat16, 3 times in eight bits (`python bench/variants.py`).
Shape letters: M rows of the input, K input width, N output width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from metis_lightning.errors import UserError
from metis_lightning.models.backbone import Attention, SwiGLU
from metis_lightning.models.lora import merge_lora
from metis_lightning.options import Precision

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# What multiplies integers of eight bits; without any of these, torch may do it one by one, for minutes.
INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8")
# Narrower maps gain nothing from another layout of their weights.
WORTH_PACKING = 512


class PackedLinear(nn.Module):
    """A linear map whose weights are stored as oneDNN's kernels read them (what torch.compile's freezing does, too).

    An `nn.Linear` lays them out at every call, which at an utterance's few hundred rows costs more than the products.
    Results differ from `nn.Linear`'s in the last bits, and are the same however many rows there are.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        # Opaque to everything but its kernel, so neither a parameter nor a buffer.
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().float().contiguous(), None)
        self._bias = None if bias is None else bias.detach().float()

    @staticmethod
    def suits(weight: Tensor) -> bool:
        """Return whether packing weights (N, K) is possible and pays."""
        available = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        return available and weight.device.type == "cpu" and weight.dim() == 2 and min(weight.shape) >= WORTH_PACKING

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, K) to (…, N)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


class Int8Linear(nn.Module):
    """A linear map in integers of eight bits: one scale for each output, and one for each row of the input.

    A row's scale follows from it alone, so a batch changes nothing.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scale = weight.detach().float().abs().amax(dim=1).clamp(min=1e-12) / 127
        self.register_buffer("weight", (weight.detach().float() / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, K) to (…, N)."""
        rows_MK = x.flatten(0, -2).float()
        scale_M1 = rows_MK.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        product = torch._int_mm((rows_MK / scale_M1).round().to(torch.int8), self.weight.T)
        result = product * scale_M1 * self.scale
        if self.bias is not None:
            result = result + self.bias
        return result.to(x.dtype).unflatten(0, x.shape[:-1])


def has_fast_int8() -> bool:
    """Return whether products of eight bits are faster here than those of float32, by what the processor has."""
    features = torch.cpu.get_capabilities()
    return torch.backends.mkldnn.is_available() and any(features.get(name, False) for name in INT8_FEATURES)


def usual_precision(device: str | torch.device) -> Precision:
    """Return what commands compute in where the user does not say: a GPU is several times as fast in bfloat16."""
    return "bfloat16" if torch.device(device).type == "cuda" else "float32"


def prepare_for_inference(model: nn.Module, precision: Precision = "float32") -> None:
    """Merge LoRA and convert the linear maps of stage 1, or of a model of stage 2, in place.

    `float32` gives what the model gives, but for the last bits; `bfloat16` casts all of it; `int8` quantises the
    backbone's linear maps. A `UserError` if there is no such precision, or it does not run on the model's device, or
    would be slower there.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    device = next(model.parameters()).device.type
    if precision == "int8" and device != "cpu":
        raise UserError(f"int8 weights run on the CPU, not on {device}; choose bfloat16")
    if precision == "int8" and not has_fast_int8():
        raise UserError("int8 is slower than float32 on this processor, which has neither VNNI nor AMX; choose float32")
    merge_lora(model)
    if precision == "bfloat16":
        model.to(torch.bfloat16)
    elif precision == "int8":
        _convert_layers(model, Int8Linear)
    elif any(map(PackedLinear.suits, model.parameters())):
        _convert_layers(model, PackedLinear)


def _convert_layers(model: nn.Module, convert: Callable[[Tensor], nn.Module]) -> None:
    """Replace the linear maps of a backbone; those that read the same input become one, and wide others are packed."""
    for module in list(model.modules()):
        if isinstance(module, Attention):
            module.qkv_proj = convert(_joined(module, ("q_proj", "k_proj", "v_proj")))
            module.add_module("o_proj", convert(module.o_proj.weight))
        elif isinstance(module, SwiGLU):
            module.gate_up_proj = convert(_joined(module, ("gate_proj", "up_proj")))
            module.add_module("down_proj", convert(module.down_proj.weight))
    for name, module in list(model.named_modules()):
        # The maps of steps and norms read one row a step, and only once a schedule.
        if not isinstance(module, nn.Linear) or name.endswith("to_weight") or "diff_step_mlp" in name:
            continue
        if PackedLinear.suits(module.weight):
            model.set_submodule(name, PackedLinear(module.weight, module.bias))


def _joined(parent: nn.Module, names: Sequence[str]) -> Tensor:
    """Return the weights of several maps of one input, which are taken off, so that no weight is held twice."""
    joined = torch.cat([parent.get_submodule(name).get_parameter("weight").detach() for name in names])
    for name in names:
        delattr(parent, name)
    return joined
