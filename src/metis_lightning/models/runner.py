"""Passes through a backbone for sequences of different lengths at one step: as they come, or padded for CUDA graphs.

Sequences stand one after another in x (1, N, H). Shape letters: N positions of all, R rows and T positions of padded
sequences, H hidden width, L layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from metis_lightning.models.backbone import Backbone, Layout, rotary_embedding

# Tensors to a tensor, by the same kernels whatever the values.
Compute = Callable[..., Tensor]

# For a pipeline: a graph of 16 rows of 20 s at the paper's sizes holds 100 MB of its own, input and result.
MOST_GRAPHS = 32
# Padded sequences are rounded up to such positions, rows to powers of two, so that shapes are few.
BUCKET = 64
_MOST_PACKINGS = 64
_WARM_UPS = 3
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 2e-2}


@dataclass(eq=False)
class Runner:
    """Runs a backbone on sequences as they come, without padding, and counts the passes (`forwards`)."""

    backbone: Backbone
    forwards: int = 0

    def __call__(self, x: Tensor, lengths: Sequence[int], scales: Tensor) -> Tensor:
        """Return hidden states (1, N, H) of x (1, N, H), given the `norm_scales` (2 L + 1, H) of the step."""
        self.forwards += 1
        tables = rotary_embedding(max(lengths), self.backbone.head_dim, x)
        cos, sin = (torch.cat([table[:length] for length in lengths]) for table in tables)
        return self.backbone.scaled(x, scales, Layout((cos, sin), lengths=tuple(lengths)))


@dataclass(frozen=True)
class _Packing:
    """Where sequences of given lengths stand when they are padded."""

    shape: tuple[int, int]  # rows R and positions T
    place: Tensor  # (N,), of their positions among R · T
    mask: Tensor  # (R, 1, 1, T), True where one is attended to; rows that hold no sequence attend to all of theirs

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> _Packing:
        rows, longest = 1 << (len(lengths) - 1).bit_length(), -(-max(lengths) // BUCKET) * BUCKET
        # Made on the device, since to send it there would be to wait for the device.
        place = torch.cat([torch.arange(length, device=device) + row * longest for row, length in enumerate(lengths)])
        mask = torch.zeros(rows * longest, dtype=torch.bool, device=device).index_fill(0, place, True)
        mask[len(lengths) * longest :].fill_(True)
        return cls((rows, longest), place, mask.view(rows, 1, 1, longest))


@dataclass(eq=False)
class PaddedRunner(Runner):
    """Runs a backbone on sequences padded to a few shapes, as a GPU wants them; without `graphs` each pass anew."""

    graphs: Graphs | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        self._compute: Compute = torch.compile(self._padded, dynamic=False) if self.compile else self._padded
        self._packing = lru_cache(_MOST_PACKINGS)(_Packing.of)
        self._rotations: dict[int, tuple[Tensor, Tensor]] = {}

    def __call__(self, x: Tensor, lengths: Sequence[int], scales: Tensor) -> Tensor:
        """Return hidden states (1, N, H), as `Runner` does."""
        self.forwards += 1
        packing = self._packing(tuple(lengths), x.device)
        rows, longest = packing.shape
        if longest not in self._rotations:
            self._rotations[longest] = rotary_embedding(longest, self.backbone.head_dim, x)
        padded = x.new_zeros(rows * longest, x.shape[-1]).index_copy(0, packing.place, x[0])
        inputs = (padded.view(rows, longest, -1), packing.mask, scales, *self._rotations[longest])
        if self.graphs is None:
            hidden = self._compute(*inputs)
        else:
            hidden = self.graphs.run((self.backbone, self.compile), self._compute, *inputs)
        return hidden.flatten(0, 1).index_select(0, packing.place)[None]

    def _padded(self, x: Tensor, mask: Tensor, scales: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.backbone.scaled(x, scales, Layout((cos, sin), mask))


def runner_for(backbone: Backbone, device: torch.device, compile: bool = False, graphs: Graphs | None = None) -> Runner:
    """Return the runner that suits a device: padded sequences where `graphs` replays passes on a GPU, else as they are.

    `compile` pads everywhere; it takes a minute a shape, and pays where many requests follow.
    """
    graphs = graphs if device.type == "cuda" and torch.cuda.is_available() else None
    if compile or graphs is not None:
        return PaddedRunner(backbone, graphs=graphs, compile=compile)
    return Runner(backbone)


@dataclass
class Graphs:
    """Replays computations on one device: one launch in the place of hundreds, a CUDA graph for each shape of inputs.

    All graphs take their memory from one pool: they run one after another, and the next may overwrite a result.
    """

    device: torch.device  # made the current one for captures and replays: kernels are captured from that
    most: int = MOST_GRAPHS  # graphs kept; the one that was not in use for longest goes first
    graphs: dict[Hashable, _Graph] = field(init=False, default_factory=dict)
    _stream: torch.cuda.Stream | None = field(init=False, default=None)
    _pool: Any = field(init=False, default=None)

    def run(self, owner: Hashable, compute: Compute, *inputs: Tensor) -> Tensor:
        """Return `compute(*inputs)`, which the next call overwrites; equal owners share their graphs."""
        key = (owner, *((tuple(tensor.shape), tensor.dtype) for tensor in inputs))
        with torch.cuda.device(self.device):
            graph = self.graphs.pop(key, None)
            if graph is None:
                # Room first: the memory of the graph that goes may be what the new one needs.
                while len(self.graphs) >= self.most:
                    del self.graphs[next(iter(self.graphs))]
                graph = self._captured(compute, inputs)
            self.graphs[key] = graph
            return graph.replay(inputs)

    def _captured(self, compute: Compute, inputs: tuple[Tensor, ...]) -> _Graph:
        if self._stream is None:
            # One stream for all captures: memory of a pool is passed on within a stream only.
            self._stream, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
        static = tuple(tensor.clone() for tensor in inputs)
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
    """A captured computation: the tensors that it reads and writes, and `compute`, which holds the others it reads."""

    graph: torch.cuda.CUDAGraph
    compute: Compute
    inputs: tuple[Tensor, ...]
    result: Tensor

    def replay(self, inputs: tuple[Tensor, ...]) -> Tensor:
        for static, value in zip(self.inputs, inputs, strict=True):
            static.copy_(value)
        self.graph.replay()
        return self.result

    def check(self) -> None:
        """Compare with the computation on inputs other than those that it was captured with."""
        others = tuple(map(_unlike_any_pass, self.inputs))
        expected = self.compute(*others).float()
        error = float((self.replay(others).float() - expected).norm() / expected.norm())
        # Written so that NaN fails, too.
        if not error <= _TOLERANCE[self.result.dtype]:
            shapes = [tuple(tensor.shape) for tensor in self.inputs]
            raise RuntimeError(
                f"the CUDA graph for inputs {shapes} on {self.result.device} gives another result than its computation "
                f"(relative error {error:.3g}): this is a bug, run with graphs=False"
            )


def _unlike_any_pass(tensor: Tensor) -> Tensor:
    """Return values that no pass has: a slope, which makes nothing vanish; of a mask, every second position."""
    if tensor.dtype == torch.bool:
        return (torch.arange(tensor.shape[-1], device=tensor.device) % 2 == 0).expand_as(tensor)
    return torch.linspace(0.5, 1.5, tensor.numel(), device=tensor.device).view_as(tensor).to(tensor.dtype)
