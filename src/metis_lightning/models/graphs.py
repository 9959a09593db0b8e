"""Computations as CUDA graphs: one launch in the place of hundreds, one graph for each shape of the inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

Compute = Callable[..., Tensor]
"""Tensors -> a tensor, by the same kernels whatever the values."""

Value = TypeVar("Value")

MOST_GRAPHS = 32
"""Kept for a pipeline. A graph of 16 rows of 20 s at the paper's sizes holds 100 MB of its own, input and result."""

_WARM_UPS = 3
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


class Recent(Generic[Value]):
    """Values by key, at most `most` of them: the one that was not asked for longest goes first."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._values: dict[Hashable, Value] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key, made if it is not there."""
        if key in self._values:
            value = self._values.pop(key)
        else:
            # Room first: what is thrown away may be what the new one needs.
            while len(self._values) >= self.most:
                del self._values[next(iter(self._values))]
            value = make()
        self._values[key] = value
        return value


@dataclass
class Graphs:
    """Replays computations on one device, and captures each shape of their inputs when it comes first.

    All graphs take their memory from one pool, which is right as long as they run one after another and a result is
    read before the next replay: the next one may overwrite it.

    device: where; it is made the current one for captures and replays, as kernels are captured from the current one.
    most: graphs kept.
    """

    device: torch.device
    most: int = MOST_GRAPHS
    _kept: Recent[_Graph] = field(init=False)
    _stream: torch.cuda.Stream | None = field(init=False, default=None)
    _pool: Any = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._kept = Recent(self.most)

    def __len__(self) -> int:
        return len(self._kept)

    def run(self, owner: Hashable, compute: Compute, *inputs: Tensor) -> Tensor:
        """Return `compute(*inputs)`, which the next call of any kind overwrites.

        Args:
            owner: whose computation it is; equal owners share their graphs.
            compute: what is captured.
            inputs: on the device.
        """
        key = (owner, *((tuple(each.shape), each.dtype) for each in inputs))
        with torch.cuda.device(self.device):
            return self._kept.get(key, lambda: self._captured(compute, inputs)).replay(inputs)

    def _captured(self, compute: Compute, inputs: tuple[Tensor, ...]) -> _Graph:
        """Return a graph of a computation, checked on inputs other than those that it was captured with.

        Raises:
            RuntimeError: if a replay does not give what the computation gives.
        """
        if self._stream is None:
            # One stream for all captures: memory of a pool is passed on within a stream only.
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        static = tuple(each.clone() for each in inputs)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # Libraries choose their kernels and take their workspaces before the capture.
            for _ in range(_WARM_UPS):
                compute(*static)
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        with warnings.catch_warnings():
            # Nothing was captured, as on a wrong device: replays would give the first result for ever.
            warnings.filterwarnings("error", message="The CUDA Graph is empty")
            # Other threads, such as those that pin the memory of batches, may do what they like meanwhile.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = compute(*static)
        captured = _Graph(graph, compute, static, result)
        captured.check()
        return captured


@dataclass(frozen=True)
class _Graph:
    """What was captured: the tensors that it reads and writes, and `compute`, which holds the others that it reads."""

    graph: torch.cuda.CUDAGraph
    compute: Compute
    inputs: tuple[Tensor, ...]
    result: Tensor

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for own, given in zip(self.inputs, inputs, strict=True):
            own.copy_(given)
        self.graph.replay()
        return self.result

    def check(self) -> None:
        others = tuple(map(_other, self.inputs))
        expected = self.compute(*others).float()
        error = float((self.replay(others).float() - expected).norm() / expected.norm())
        # Written so that NaN fails, too.
        if not error <= _TOLERANCE[self.result.dtype]:
            shapes = [tuple(each.shape) for each in self.inputs]
            raise RuntimeError(
                f"the CUDA graph for inputs {shapes} on {self.result.device} gives another result than its computation "
                f"(relative error {error:.3g}): this is a bug, run with graphs=False"
            )


def _other(value: Tensor) -> Tensor:
    """Return values that no pass has: a slope, which makes nothing vanish; of a mask, every second position."""
    if value.dtype == torch.bool:
        return (torch.arange(value.shape[-1], device=value.device) % 2 == 0).expand_as(value)
    return torch.linspace(0.5, 1.5, value.numel(), device=value.device).view_as(value).to(value.dtype)
