"""Arithmetic in float32, whatever mixed precision surrounds it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager[object]:
    """Return a context without autocast on a tensor's device.

    What chooses codes runs in it: in bfloat16 up to a quarter of the codes of a residual stack are others, so that
    training would optimise, and count the use of, codes that inference does not choose.
    """
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()
