"""A GPU that is none: tensors sent to it stay in memory, but meeting one from outside is an error, as on a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

GPU = torch.device("cuda", 0)
_MARK = "_is_on_the_pretended_gpu"


class PretendedGPU(TorchFunctionMode):
    """Within it, `GPU` works as a device: `to`, `device=` and `cpu` move tensors, and no function mixes devices.

    A number on the CPU may meet anything, as in torch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = list(_tensors((args, kwargs)))
        here = [is_there(tensor) for tensor in tensors if tensor.dim()]
        if any(here) and not all(here) and func is not Tensor.to:
            raise AssertionError(f"{getattr(func, '__name__', func)}: tensors on the CPU and on the GPU")
        if func == Tensor.device.__get__:
            return GPU if is_there(args[0]) else func(*args)
        there, moved = any(map(is_there, tensors)), True
        if func is Tensor.cpu:
            there = False
        elif kwargs.get("device") is not None:
            there = torch.device(kwargs.pop("device")).type == GPU.type
        elif func is Tensor.to and isinstance(args[1], str | torch.device):
            there, args = torch.device(args[1]).type == GPU.type, (args[0], "cpu", *args[2:])
        else:
            moved = False
        result = func(*args, **kwargs)
        # What is moved is another tensor than the one that stays.
        return _marked(result.clone() if moved else result, there)


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor is on the pretended GPU."""
    return getattr(tensor, _MARK, False)


def send(module: nn.Module) -> nn.Module:
    """Move a module there, in place."""
    for tensor in (*module.parameters(), *module.buffers()):
        setattr(tensor, _MARK, True)
    return module


def _marked(value: Any, there: bool) -> Any:
    for tensor in _tensors(value):
        setattr(tensor, _MARK, there)
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
