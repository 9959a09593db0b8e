"""Arithmetic in float32, whatever mixed precision surrounds it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on a tensor's device.

    What chooses codes runs in it: in bfloat16 up to a quarter of the codes of a residual stack are others, so that
    training would optimise, and count the use of, codes that inference does not choose.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def arithmetic(device: torch.device) -> str:
    """Return what frozen front ends compute in: `float32`, or `tf32` on a GPU where the user allows it.

    `torch.set_float32_matmul_precision("high")` does, for products of matrices and for convolutions alike. On a CPU it
    changes nothing here.
    """
    products: Any = torch.backends.cuda.matmul
    return "tf32" if device.type == "cuda" and products.fp32_precision == "tf32" else "float32"


@contextmanager
def settled_products(like: Tensor) -> Iterator[None]:
    """Within the block all products of float32 on a tensor's device follow `arithmetic`.

    Convolutions on a GPU would round to TF32 by torch's default, which gives up to 2 tokens of a hundred others than a
    CPU, and products of matrices on some CPUs where the user allows it for a GPU.
    """
    backends: Any = torch.backends
    is_gpu = like.device.type == "cuda"
    kinds = [backends.cudnn.conv] if is_gpu else [backends.mkldnn.matmul, backends.mkldnn.conv]
    chosen = "tf32" if arithmetic(like.device) == "tf32" else "ieee"
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = chosen
        yield
    finally:
        for kind, value in zip(kinds, before, strict=True):
            kind.fp32_precision = value
