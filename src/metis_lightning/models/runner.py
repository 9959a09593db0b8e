"""Passes through a backbone for sequences of different lengths, at one step for all.

Sequences come one after another, in x (1, N, H), N their positions together. Shape letters: B sequences, T positions
of the padded ones, H hidden width, L layers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metis_lightning.models.backbone import Backbone, Layout, rotary_embedding


@dataclass
class Runner:
    """Runs a backbone on sequences as they come, without padding: each gets what it would get alone.

    forwards: passes so far.
    """

    backbone: Backbone
    forwards: int = 0

    def __call__(self, x: Tensor, lengths: Sequence[int], scales: Tensor) -> Tensor:
        """Return hidden states (1, N, H) of x (1, N, H), given the `norm_scales` (2 L + 1, H) of the step."""
        self.forwards += 1
        return self._run(x, tuple(lengths), scales)

    def _run(self, x: Tensor, lengths: tuple[int, ...], scales: Tensor) -> Tensor:
        cos, sin = rotary_embedding(max(lengths), self.backbone.head_dim, x)
        rotation = tuple(torch.cat([table[:length] for length in lengths]) for table in (cos, sin))
        return self.backbone.scaled(x, scales, Layout((rotation[0], rotation[1]), lengths=lengths))


Compute = Callable[[Tensor, Tensor, Tensor], Tensor]
"""x (B, T, H), mask (B, 1, 1, T), scales (2 L + 1, H) -> hidden states (B, T, H)."""

BUCKET = 64
"""Positions that padded sequences are rounded up to: each length bucket has a graph of its own."""


@dataclass
class PaddedRunner(Runner):
    """Runs a backbone on sequences padded to a bucket's length, as a GPU wants them.

    prepare: makes what computes a shape, such as a CUDA graph; called once a shape.
    """

    prepare: Callable[[Compute, Tensor, Tensor, Tensor], Compute] | None = None
    _prepared: dict[tuple[int, int], Compute] = field(default_factory=dict)

    def _run(self, x: Tensor, lengths: tuple[int, ...], scales: Tensor) -> Tensor:
        longest = -(-max(lengths) // BUCKET) * BUCKET
        place = _places(lengths, longest, x.device)
        padded = x.new_zeros(len(lengths) * longest, x.shape[-1]).index_copy(0, place, x[0])
        attended = torch.zeros(len(lengths) * longest, dtype=torch.bool, device=x.device).index_fill(0, place, True)
        inputs = (padded.view(len(lengths), longest, -1), attended.view(len(lengths), 1, 1, longest), scales)
        shape = (len(lengths), longest)
        if shape not in self._prepared:
            self._prepared[shape] = self._compute if self.prepare is None else self.prepare(self._compute, *inputs)
        return self._prepared[shape](*inputs).flatten(0, 1).index_select(0, place)[None]

    def _compute(self, x: Tensor, mask: Tensor, scales: Tensor) -> Tensor:
        rotation = rotary_embedding(x.shape[1], self.backbone.head_dim, x)
        return self.backbone.scaled(x, scales, Layout(rotation, mask))


def _places(lengths: Sequence[int], longest: int, device: torch.device) -> Tensor:
    """Return where the positions of sequences (N,) stand when each is padded to `longest`."""
    steps = [torch.arange(length) + row * longest for row, length in enumerate(lengths)]
    return torch.cat(steps).to(device)


def cuda_graph(compute: Compute, *inputs: Tensor) -> Compute:
    """Return `compute` as a CUDA graph: a pass is one launch in the place of hundreds.

    Its inputs must keep the shapes of `inputs`; its result is overwritten by the next pass.
    """
    static = [tensor.clone() for tensor in inputs]
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        # Libraries choose their kernels and take their workspaces before the capture.
        for _ in range(3):
            compute(*static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = compute(*static)

    def replay(*inputs: Tensor) -> Tensor:
        for own, given in zip(static, inputs, strict=True):
            own.copy_(given)
        graph.replay()
        return result

    return replay


def compiled(compute: Compute, *inputs: Tensor) -> Compute:
    """Return `compute` compiled for one shape; on a GPU as a CUDA graph of the compiled kernels."""
    fast: Compute = torch.compile(compute, dynamic=False)
    if inputs[0].device.type != "cuda":
        return fast
    return cuda_graph(fast, *inputs)


def runner_for(backbone: Backbone, device: torch.device, compile: bool = False) -> Runner:
    """Return what suits a device: CUDA graphs on a GPU, sequences without padding elsewhere.

    Args:
        backbone: what is run.
        device: where.
        compile: compile it for each shape first; that takes a minute a shape, and pays where many requests follow.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    if compile:
        return PaddedRunner(backbone, prepare=compiled)
    return PaddedRunner(backbone, prepare=cuda_graph) if on_gpu else Runner(backbone)
