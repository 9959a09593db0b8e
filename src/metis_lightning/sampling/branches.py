"""One pass through a backbone for all rows of a batch, and for both branches of the guidance.

Shape letters: P positions before the frames, T frames of a row, N frames of all rows, M positions of all branches,
H hidden width, K masked frames, L layers, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from metis_lightning.models.runner import Runner
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Sampling, State


@dataclass(frozen=True)
class Branch:
    """What stays the same at each step of a row's decoding.

    prefix: (P, H), embeddings of what stands before the frames: phones, the prompt.
    added: (T, H), what is added to the embeddings of the frames' tokens: the condition.
    """

    prefix: Tensor
    added: Tensor


@dataclass(frozen=True)
class Row:
    """Both branches of a row's guidance; `unconditional` is None where nothing is guided."""

    conditional: Branch
    unconditional: Branch | None = None

    @property
    def length(self) -> int:
        """Frames T."""
        return len(self.conditional.added)


@dataclass(frozen=True)
class _Packed:
    """The branches of some rows, one after another.

    lengths: of each branch.
    fixed: (M, H), all that stays.
    source: (M,), which of N frames stands at a position; N where none does.
    starts: where the frames of each row begin, in its conditional branch and in the other (-1 if there is none).
    """

    lengths: tuple[int, ...]
    fixed: Tensor
    source: Tensor
    starts: tuple[tuple[int, int], ...]


@dataclass
class BranchDenoiser:
    """A denoiser for `mask_predict`.

    runner: of the backbone.
    scales: (S, 2 L + 1, H), the backbone's `norm_scales` of each step.
    rows: what stays, of each row.
    embed: tokens (N,) and mask (N,) to embeddings (N, H).
    head: hidden states (K, H) to logits (K, V).
    settings: of the guidance.
    """

    runner: Runner
    scales: Tensor
    rows: Sequence[Row]
    embed: Callable[[Tensor, Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    settings: Sampling
    _packed: dict[tuple[int, ...], _Packed] = field(default_factory=dict)

    def __call__(self, state: State, step: int) -> Tensor:
        """Return logits (K, V) of the masked frames of the state's rows: only these pass through the head."""
        if state.rows not in self._packed:
            self._packed = {state.rows: self._pack(state.rows)}
        packed = self._packed[state.rows]
        frames = self.embed(state.tokens, state.mask)
        nothing = frames.new_zeros(1, frames.shape[1])
        x = packed.fixed + torch.cat([frames, nothing]).index_select(0, packed.source)
        hidden = self.runner(x[None], packed.lengths, self.scales[step])[0]
        asked = [
            self._guided(hidden, self.rows[row].length, starts)[masked]
            for row, starts, masked in zip(state.rows, packed.starts, state.masked, strict=True)
        ]
        return self.head(torch.cat(asked))

    def _guided(self, hidden: Tensor, length: int, starts: tuple[int, int]) -> Tensor:
        """Return hidden states (T, H) of a row's frames."""
        conditional, unconditional = (hidden[start : start + length] for start in starts)
        if starts[1] < 0:
            return conditional
        both = conditional.float()[None], unconditional.float()[None]
        guided = guide(*both, self.settings.guidance_scale, self.settings.guidance_rescale)
        return guided[0].to(hidden.dtype)

    def _pack(self, rows: Sequence[int]) -> _Packed:
        first = [sum(row.length for row in self.rows[:index]) for index in range(len(self.rows) + 1)]
        device = self.rows[rows[0]].conditional.added.device
        lengths: list[int] = []
        fixed: list[Tensor] = []
        source: list[Tensor] = []
        starts: list[list[int]] = []
        for index in rows:
            row = self.rows[index]
            starts.append([])
            for branch in (row.conditional, row.unconditional):
                if branch is None:
                    starts[-1].append(-1)
                    continue
                starts[-1].append(sum(lengths) + len(branch.prefix))
                lengths.append(len(branch.prefix) + row.length)
                fixed += [branch.prefix, branch.added]
                # Made on the device: to send them there would be to wait for it.
                source.append(torch.full((len(branch.prefix),), first[-1], device=device))
                source.append(torch.arange(first[index], first[index + 1], device=device))
        return _Packed(tuple(lengths), torch.cat(fixed), torch.cat(source), tuple((a, b) for a, b in starts))
