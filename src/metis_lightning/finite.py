"""Weights are numbers: NaN and infinity are refused wherever weights are read or written."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from metis_lightning.errors import UserError


def is_finite(tensor: Tensor) -> bool:
    """Return whether all numbers of a tensor are finite; whole numbers are, and what has no storage yet."""
    return tensor.is_meta or not tensor.is_floating_point() or bool(tensor.isfinite().all())


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Refuse tensors that hold NaN or infinity.

    Args:
        tensors: by name.
        what: what they are, as a message begins.

    Raises:
        UserError: naming the first such tensor, and how many others there are.

    >>> import torch
    >>> check_finite({"w": torch.tensor([1.0, float("nan")])}, "bundle x")
    Traceback (most recent call last):
    metis_lightning.errors.UserError: bundle x: 'w' holds NaN or infinity (1 of 2 numbers); the run diverged
    """
    bad = [name for name, tensor in tensors.items() if not is_finite(tensor)]
    if bad:
        first = tensors[bad[0]]
        others = f", and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        count = int((~first.isfinite()).sum())
        raise UserError(
            f"{what}: {bad[0]!r} holds NaN or infinity ({count} of {first.numel()} numbers{others}); the run diverged"
        )
