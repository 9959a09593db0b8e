"""Operations for which the process would wait for a GPU, counted on any device.

A GPU works off a queue. Whatever needs a number of it here empties the queue, and the GPU idles until it is filled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

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

    found: how often each operation came.

    Args:
        device: where the tensors are that count; what lies in this process's memory is not waited for. On a CPU, which
            stands for a GPU then, those that a GPU would not have count too.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self.kind = torch.device(device).type
        self.found: Counter[str] = Counter()

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
            waits = _moves(args, result)
        else:
            is_here = any(each.device.type == self.kind for each in _tensors(args))
            waits = is_here and (name in _WAIT or (name in _INDEXING and _is_mask(args[1])))
        if waits:
            self.found[name.removeprefix("aten::")] += 1
        return result


def _is_mask(indices: Any) -> bool:  # noqa: ANN401  as above
    """Whether any index is a mask: how many elements it picks must be known before the result is allocated."""
    return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)


def _moves(args: tuple[Any, ...], result: Tensor) -> bool:
    devices = {each.device for each in _tensors((args, result))}
    return len(devices) > 1


def _tensors(value: Any) -> Iterator[Tensor]:  # noqa: ANN401  as above
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
