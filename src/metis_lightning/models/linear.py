"""Linear maps for inference alone: repacked for the processor, or with weights of eight bits.

Shape letters: M rows of the input, K input width, N output width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WORTH_PACKING = 512
"""Narrower maps gain nothing from another layout of their weights."""


class PackedLinear(nn.Module):
    """A linear map whose weights are stored as oneDNN's kernels read them (what torch.compile's freezing does, too).

    A plain `nn.Linear` lays them out anew at every call, which at the few hundred rows of an utterance costs more than
    the products. Results differ from `nn.Linear`'s in the last bits, and are the same however many rows there are.
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
        return available and weight.device.type == "cpu" and min(weight.shape) >= WORTH_PACKING

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, K) to (…, N)."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


class Int8Linear(nn.Module):
    """A linear map in integers of eight bits: one scale for each output, and one for each row of the input.

    A row's scale follows from the row alone, so a batch changes nothing. On a CPU with VNNI or AMX it is several times
    as fast as float32; on others it may be slower.
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        scale = weight.detach().float().abs().amax(dim=1).clamp(min=1e-12) / 127
        quantised = (weight.detach().float() / scale[:, None]).round().to(torch.int8)
        self.register_buffer("weight", quantised)
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
