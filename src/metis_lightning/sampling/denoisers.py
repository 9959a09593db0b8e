"""Both stages as denoisers for `mask_predict`: one pass for all rows of a batch and both branches of the guidance.

What does not change from step to step is computed once: prompts, phones and conditions, and the norms of all steps.
Shape letters: P positions before the frames, T frames of a row, N frames of all rows, M positions of all branches,
H hidden width, C condition width, Q quantizers, K masked frames, L layers, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate

import torch
from torch import Tensor

from metis_lightning.models.runner import Runner
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Noise, State, mask_predict, schedule
from metis_lightning.sampling.settings import Sampling


@dataclass(frozen=True)
class Branch:
    """The embeddings of a row that stay the same at each step of its decoding.

    prefix: (P, H), of what stands before the frames: phones, the prompt.
    added: (T, H), added to the embeddings of the frames' tokens: the condition.
    """

    prefix: Tensor
    added: Tensor


@dataclass(frozen=True)
class RowBranches:
    """Both branches of a row's guidance; `unconditional` is None where nothing is guided."""

    conditional: Branch
    unconditional: Branch | None = None

    @property
    def length(self) -> int:
        """Frames T."""
        return len(self.conditional.added)

    @classmethod
    def of(cls, conditional: Branch, settings: Sampling) -> RowBranches:
        """Return the branches of a row: the other one has the same condition, and nothing before the frames."""
        # With nothing before them both branches are the same.
        if settings.guidance_scale == 0 or not len(conditional.prefix):
            return cls(conditional)
        return cls(conditional, Branch(conditional.prefix[:0], conditional.added))


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

    @classmethod
    def of(cls, branches: Sequence[RowBranches], rows: Sequence[int]) -> _Packed:
        """Pack those of all rows' branches that are still being decoded."""
        first = list(accumulate((row.length for row in branches), initial=0))
        device = branches[rows[0]].conditional.added.device
        lengths: list[int] = []
        fixed: list[Tensor] = []
        source: list[Tensor] = []
        starts: list[tuple[int, int]] = []
        for index in rows:
            row, of_row = branches[index], [-1, -1]
            for number, branch in enumerate((row.conditional, row.unconditional)):
                if branch is None:
                    continue
                of_row[number] = sum(lengths) + len(branch.prefix)
                lengths.append(len(branch.prefix) + row.length)
                fixed += [branch.prefix, branch.added]
                # Made on the device: to send them there would be to wait for it.
                source.append(torch.full((len(branch.prefix),), first[-1], device=device))
                source.append(torch.arange(first[index], first[index + 1], device=device))
            starts.append((of_row[0], of_row[1]))
        return cls(tuple(lengths), torch.cat(fixed), torch.cat(source), tuple(starts))


@dataclass
class BranchDenoiser:
    """A denoiser for `mask_predict`.

    runner: of the backbone.
    scales: (S, 2 L + 1, H), the backbone's `norm_scales` of each step.
    branches: of each row.
    embed: tokens (N,) and mask (N,) to embeddings (N, H).
    head: hidden states (K, H) to logits (K, V).
    settings: of the guidance.
    """

    runner: Runner
    scales: Tensor
    branches: Sequence[RowBranches]
    embed: Callable[[Tensor, Tensor], Tensor]
    head: Callable[[Tensor], Tensor]
    settings: Sampling
    _packed: dict[tuple[int, ...], _Packed] = field(default_factory=dict)

    def __call__(self, state: State, step: int) -> Tensor:
        """Return logits (K, V) of the masked frames of the state's rows: only these pass through the head."""
        # Packed anew only when a row has ended, which a short one does some steps before the others.
        if state.rows not in self._packed:
            self._packed = {state.rows: _Packed.of(self.branches, state.rows)}
        packed = self._packed[state.rows]
        frames = self.embed(state.tokens, state.mask)
        # Position N of the frames is zeros: nothing is added to a prefix.
        frames = torch.cat([frames, frames.new_zeros(1, frames.shape[1])])
        x = packed.fixed + frames.index_select(0, packed.source)
        hidden = self.runner(x[None], packed.lengths, self.scales[step])[0]
        masked_hidden = [
            self._guided(hidden, self.branches[row].length, starts)[masked]
            for row, starts, masked in zip(state.rows, packed.starts, state.masked, strict=True)
        ]
        return self.head(torch.cat(masked_hidden))

    def _guided(self, hidden: Tensor, length: int, starts: tuple[int, int]) -> Tensor:
        """Return hidden states (T, H) of a row's frames."""
        conditional, unconditional = (hidden[start : start + length] for start in starts)
        if starts[1] < 0:
            return conditional
        # In float32: the rescaling compares deviations, whatever the backbone computes in.
        both = conditional.float()[None], unconditional.float()[None]
        guided = guide(*both, self.settings.guidance_scale, self.settings.guidance_rescale)
        return guided[0].to(hidden.dtype)


@dataclass(frozen=True)
class Stage1Request:
    """A row of stage 1.

    prompt: (P,) SSL tokens, P may be 0.
    length: frames T to generate.
    condition: (P + T, C) frames, or None.
    phones: (N,) ids, or None.
    """

    prompt: Tensor
    length: int
    condition: Tensor | None = None
    phones: Tensor | None = None


@torch.no_grad()
def sample_ssl_tokens(
    model: Stage1,
    requests: Sequence[Stage1Request],
    settings: Sampling,
    noises: Sequence[Noise],
    runner: Runner | None = None,
) -> list[Tensor]:
    """Return SSL tokens (T,) of each row. Guidance compares with the model that sees neither prompt nor phones."""
    device, dtype = model.mask_emb.weight.device, model.mask_emb.weight.dtype
    denoise = BranchDenoiser(
        runner or Runner(model.diff_estimator),
        model.diff_estimator.norm_scales(schedule(settings.num_steps).to(device), dtype),
        [stage1_branches(model, request, settings) for request in requests],
        model.embed,
        model.to_logit,
        settings,
    )
    return mask_predict(denoise, [request.length for request in requests], settings, noises, device)


def stage1_branches(model: Stage1, request: Stage1Request, settings: Sampling) -> RowBranches:
    """Return the branches of a row: phones, then the prompt's tokens, before the frames; the condition on both."""
    prompt_length, embedding = len(request.prompt), model.mask_emb.weight
    added = embedding.new_zeros(prompt_length + request.length, embedding.shape[1])
    if request.condition is not None:
        added = model.adapted(request.condition.to(embedding.dtype))
    prompt = model.embed(request.prompt, torch.zeros_like(request.prompt, dtype=torch.bool)) + added[:prompt_length]
    phones = embedding[:0] if request.phones is None else model.phone_prefix(request.phones)
    return RowBranches.of(Branch(torch.cat([phones, prompt]), added[prompt_length:]), settings)


@dataclass(frozen=True)
class Stage2Request:
    """A row of stage 2.

    ssl_tokens: (P + T,).
    prompt: (P, Q) acoustic tokens, P may be 0.
    lower_layers: (T, L) acoustic tokens of the first L layers, L may be 0, the same for all rows.
    """

    ssl_tokens: Tensor
    prompt: Tensor
    lower_layers: Tensor


@torch.no_grad()
def sample_acoustic_tokens(
    model: SemanticToAcoustic,
    requests: Sequence[Stage2Request],
    settings: Sampling,
    steps: Sequence[int],
    noises: Sequence[Noise],
    runner: Runner | None = None,
) -> list[Tensor]:
    """Return acoustic tokens (T, Q) of each row: the lower layers, then one layer after another.

    `steps` holds the number of steps of each layer, those of lower layers included.
    """
    runner = runner or Runner(model.diff_estimator)
    device, dtype = model.mask_emb.weight.device, model.mask_emb.weight.dtype
    layers = [request.lower_layers for request in requests]
    lengths = [len(tokens) for tokens in layers]
    scales: dict[int, Tensor] = {}
    for layer in range(layers[0].shape[1], model.config.num_quantizers):
        num_steps = steps[layer]
        if num_steps not in scales:
            scales[num_steps] = model.diff_estimator.norm_scales(schedule(num_steps).to(device), dtype)
        denoise = BranchDenoiser(
            runner,
            scales[num_steps],
            [_stage2_branches(model, *pair, layer, settings) for pair in zip(requests, layers, strict=True)],
            partial(_layer_embeddings, model, layer),
            model.to_logits[layer],
            settings,
        )
        sampled = mask_predict(denoise, lengths, replace(settings, num_steps=num_steps), noises, device)
        layers = [torch.cat([lower, new[:, None]], dim=1) for lower, new in zip(layers, sampled, strict=True)]
    return layers


def _layer_embeddings(model: SemanticToAcoustic, layer: int, tokens: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask[:, None], model.mask_emb.weight, model.token_emb[layer](tokens))


def _stage2_branches(
    model: SemanticToAcoustic, request: Stage2Request, lower: Tensor, layer: int, settings: Sampling
) -> RowBranches:
    """Return the branches of a row while a layer is sampled, after the layers below it (T, layer)."""
    prompt_length = len(request.prompt)
    condition = model.adapted(request.ssl_tokens, layer)
    is_prompt = torch.ones_like(request.prompt[:, 0], dtype=torch.bool)
    prompt = model.embed(request.prompt, ~is_prompt, layer, is_prompt)
    # Each layer sees the SSL tokens, and the prompt in all layers; above itself, the frames are masked.
    added = condition[prompt_length:] + model.other_layers(lower, layer)
    return RowBranches.of(Branch(prompt + condition[:prompt_length], added), settings)
