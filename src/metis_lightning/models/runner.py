"""Passes through a backbone for sequences of different lengths, at one step for all.

Sequences come one after another, in x (1, N, H), N their positions together. Shape letters: B sequences, T positions
of the padded ones, H hidden width, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metis_lightning.models.backbone import Backbone, Layout, rotary_embedding
from metis_lightning.models.graphs import Compute, Graphs, Recent


@dataclass(eq=False)
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


BUCKET = 64
"""Positions that padded sequences are rounded up to; rows are rounded up to powers of two, so that shapes are few."""

_MOST_PACKINGS = 64


@dataclass(frozen=True)
class _Packing:
    """Where sequences of given lengths stand when they are padded.

    shape: rows R and positions T.
    place: (N,), of their positions among R · T.
    mask: (R, 1, 1, T), True where a position is attended to; rows that hold no sequence attend to all of theirs.
    """

    shape: tuple[int, int]
    place: Tensor
    mask: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> _Packing:
        """Return that of lengths; made on the device, since to send it there would be to wait for the device."""
        rows, longest = 1 << (len(lengths) - 1).bit_length(), -(-max(lengths) // BUCKET) * BUCKET
        steps = [torch.arange(length, device=device) + row * longest for row, length in enumerate(lengths)]
        place = torch.cat(steps)
        attended = torch.zeros(rows * longest, dtype=torch.bool, device=device).index_fill(0, place, True)
        attended[len(lengths) * longest :].fill_(True)
        return cls((rows, longest), place, attended.view(rows, 1, 1, longest))


@dataclass(eq=False)
class PaddedRunner(Runner):
    """Runs a backbone on sequences padded to a few shapes, as a GPU wants them.

    graphs: replays passes; None computes each anew.
    compile: compile the backbone for each shape first.
    """

    graphs: Graphs | None = None
    compile: bool = False
    _compute: Compute = field(init=False)
    _packings: Recent[_Packing] = field(init=False, default_factory=lambda: Recent(_MOST_PACKINGS))
    _rotations: dict[int, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._compute = torch.compile(self._scaled, dynamic=False) if self.compile else self._scaled

    def _run(self, x: Tensor, lengths: tuple[int, ...], scales: Tensor) -> Tensor:
        packing = self._packings.get(lengths, lambda: _Packing.of(lengths, x.device))
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

    def _scaled(self, x: Tensor, mask: Tensor, scales: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.backbone.scaled(x, scales, Layout((cos, sin), mask))


def runner_for(backbone: Backbone, device: torch.device, compile: bool = False, graphs: Graphs | None = None) -> Runner:
    """Return what suits a device: padded sequences on a GPU, sequences as they are elsewhere.

    Args:
        backbone: what is run.
        device: where.
        compile: compile it for each shape first; that takes a minute a shape, and pays where many requests follow.
        graphs: replays passes on a GPU; without it sequences are not padded there either.
    """
    on_gpu = device.type == "cuda" and torch.cuda.is_available()
    graphs = graphs if on_gpu else None
    if compile or graphs is not None:
        return PaddedRunner(backbone, graphs=graphs, compile=compile)
    return Runner(backbone)
