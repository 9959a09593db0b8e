"""What differs between the weights that are there and those that a model needs, name by name."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from torch import Tensor


def difference(needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return every name that is missing, unexpected or of another shape; empty if the weights fit.

    Names that differ in their numbers alone, as those of a model's layers do, and in the same way share an entry.

    >>> import torch
    >>> difference({"0.w": torch.zeros(2), "1.w": torch.zeros(2)}, {"b": torch.zeros(1)})
    "they lack '*.w' (2 such); unexpected 'b'"
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in sorted(needed.keys() | given.keys()):
        if template := _mismatch(name, needed, given):
            groups[re.sub(r"\d+", "*", name), template].append(name)
    return "; ".join(
        template.format(f"'{pattern}' ({len(names)} such)" if len(names) > 1 else f"'{names[0]}'")
        for (pattern, template), names in groups.items()
    )


def _mismatch(name: str, needed: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str | None:
    """Return how the weight `name` differs, with a place for its name; None if it fits."""
    if name not in given:
        return "they lack {}"
    if name not in needed:
        return "unexpected {}"
    theirs, ours = tuple(given[name].shape), tuple(needed[name].shape)
    return None if theirs == ours else f"{{}} has shape {theirs}, the model needs {ours}"
