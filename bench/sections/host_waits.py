"""Operations for which the process would wait for a GPU, counted on any device.

A GPU works off a queue. Whatever needs a number of it here empties the queue, and the GPU idles until it is filled.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAIT = {
    "aten::_local_scalar_dense",  # item(), int(), bool(), tolist() of a number
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::bincount",
    "aten::equal",
}
_INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_COPIES = {"aten::_to_copy", "aten::copy_"}


class HostWaits(TorchDispatchMode):
    """Counts them within the block, backward passes included.

    counts: how often each operation came.

    Args:
        device: where the tensors are that count; what lies in this process's memory is not waited for. On a CPU, which
            stands for a GPU then, those that a GPU would not have count too.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.kind = torch.device(device).type
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401  what torch calls it with, and whatever an operation gives
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Run an operation, and count it."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name in _COPIES:
            waits = len(_devices(args) | _devices(result)) > 1
        elif any(device.type == self.kind for device in _devices(args)):
            # How many elements a mask picks must be known before the result is allocated.
            masks = (torch.bool, torch.uint8)
            waits = name in _WAIT or (name in _INDEXING and any(i is not None and i.dtype in masks for i in args[1]))
        else:
            waits = False
        if waits:
            self.counts[name.removeprefix("aten::")] += 1
        return result


def _devices(values: Any) -> set[torch.device]:  # noqa: ANN401  as above
    return {value.device for value in tree_leaves(values) if isinstance(value, Tensor)}
