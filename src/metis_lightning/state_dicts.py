"""Checks of state dicts: their numbers are finite, and their names and shapes are those that a model needs."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor

from metis_lightning.errors import UserError


def check_finite(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise a `UserError` that begins with `what` if tensors hold NaN or infinity: of which name, and how many others.

    >>> import torch
    >>> check_finite({"w": torch.tensor([1.0, float("nan")])}, "bundle x")
    Traceback (most recent call last):
    metis_lightning.errors.UserError: bundle x: 'w' holds NaN or infinity (1 of 2 numbers); the run diverged
    """
    # Whole numbers are finite; what has no storage yet has no numbers.
    floating = {name: value for name, value in tensors.items() if value.is_floating_point() and not value.is_meta}
    bad = [name for name, value in floating.items() if not value.isfinite().all()]
    if bad:
        first = tensors[bad[0]]
        others = f", and {len(bad) - 1} more tensors" if len(bad) > 1 else ""
        part = f"{int((~first.isfinite()).sum())} of {first.numel()} numbers{others}"
        raise UserError(f"{what}: {bad[0]!r} holds NaN or infinity ({part}); the run diverged")


def difference(needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return every name that is missing, unexpected or of another shape, layers together; empty if the weights fit.

    >>> import torch
    >>> difference({"0.w": torch.zeros(2), "1.w": torch.zeros(2)}, {"b": torch.zeros(1)})
    "they lack '*.w' (2 such); unexpected 'b'"
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(needed.keys() | given.keys()):
        # How the weight differs, with a place for its name.
        template = "they lack {}" if name not in given else "unexpected {}"
        if name in given and name in needed:
            theirs, ours = tuple(given[name].shape), tuple(needed[name].shape)
            if theirs == ours:
                continue
            template = f"{{}} has shape {theirs}, the model needs {ours}"
        groups[re.sub(r"\d+", "*", name), template].append(name)
    return "; ".join(
        template.format(f"'{pattern}' ({len(names)} such)" if len(names) > 1 else f"'{names[0]}'")
        for (pattern, template), names in groups.items()
    )
