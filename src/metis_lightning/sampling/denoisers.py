"""One pass through a backbone for all rows of a batch, and for both branches of the guidance.

Shape letters: P positions before the frames, T frames of a row, N frames of all rows, M positions of all branches,
H hidden width, K masked frames, L layers, S steps.

Both stages as denoisers for `mask_predict`: where the prompt, the condition and the guidance go.

What does not change from step to step is computed once: prompts, phones and conditions, and the norms of all steps.
Shape letters: P prompt frames, T frames to generate, N frames of all rows, Q quantizers, C condition width,
H hidden width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metis_lightning.models.backbone import Backbone
from metis_lightning.models.runner import Runner
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Noise, State, mask_predict, schedule
from metis_lightning.sampling.settings import Sampling


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


@dataclass(frozen=True)
class Stage1Request:
    """What stage 1 is asked for in a row.

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
    runner = runner or Runner(model.diff_estimator)
    denoise = BranchDenoiser(
        runner,
        model.diff_estimator.norm_scales(schedule(settings.num_steps).to(device), dtype),
        [_stage1_row(model, request, settings) for request in requests],
        lambda tokens, mask: model.embed(tokens, mask),
        model.to_logit,
        settings,
    )
    return mask_predict(denoise, [request.length for request in requests], settings, noises, device)


def _stage1_row(model: Stage1, request: Stage1Request, settings: Sampling) -> Row:
    prompt_length, embedding = len(request.prompt), model.mask_emb.weight
    added = embedding.new_zeros(prompt_length + request.length, embedding.shape[1])
    if request.condition is not None:
        added = model.adapted(request.condition.to(embedding.dtype))
    prompt = model.embed(request.prompt, torch.zeros_like(request.prompt, dtype=torch.bool)) + added[:prompt_length]
    phones = embedding[:0] if request.phones is None else model.phone_prefix(request.phones)
    row = Row(Branch(torch.cat([phones, prompt]), added[prompt_length:]))
    # Without prompt and phones both branches of the guidance are the same.
    if settings.guidance_scale == 0 or not len(row.conditional.prefix):
        return row
    return replace(row, unconditional=Branch(embedding[:0], row.conditional.added))


@dataclass(frozen=True)
class Stage2Request:
    """What stage 2 is asked for in a row.

    ssl_tokens: (P + T,).
    prompt: (P, Q) acoustic tokens, P may be 0.
    given: (T, L) acoustic tokens of the first L layers, L may be 0, the same for all rows.
    """

    ssl_tokens: Tensor
    prompt: Tensor
    given: Tensor


@torch.no_grad()
def sample_acoustic_tokens(
    model: SemanticToAcoustic,
    requests: Sequence[Stage2Request],
    settings: Sampling,
    steps: Sequence[int],
    noises: Sequence[Noise],
    runner: Runner | None = None,
) -> list[Tensor]:
    """Return acoustic tokens (T, Q) of each row: the given layers, then one layer after another.

    `steps` holds the number of steps of each layer, those of given layers included.
    """
    runner = runner or Runner(model.diff_estimator)
    known = [request.given for request in requests]
    scales: dict[int, Tensor] = {}
    for layer in range(known[0].shape[1], model.config.num_quantizers):
        if steps[layer] not in scales:
            scales[steps[layer]] = _scales(model.diff_estimator, model.mask_emb.weight, steps[layer])
        rows = [_stage2_row(model, *pair, layer, settings) for pair in zip(requests, known, strict=True)]
        denoise = _layer_denoiser(model, layer, rows, settings, scales[steps[layer]], runner)
        lengths, layer_settings = [len(tokens) for tokens in known], replace(settings, num_steps=steps[layer])
        new = mask_predict(denoise, lengths, layer_settings, noises, known[0].device)
        known = [torch.cat([tokens, more[:, None]], dim=1) for tokens, more in zip(known, new, strict=True)]
    return known


def _scales(backbone: Backbone, like: Tensor, num_steps: int) -> Tensor:
    return backbone.norm_scales(schedule(num_steps).to(like.device), like.dtype)


def _layer_denoiser(
    model: SemanticToAcoustic, layer: int, rows: Sequence[Row], settings: Sampling, scales: Tensor, runner: Runner
) -> BranchDenoiser:
    def embed(tokens: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask[:, None], model.mask_emb.weight, model.token_emb[layer](tokens))

    return BranchDenoiser(runner, scales, rows, embed, model.to_logits[layer], settings)


def _stage2_row(
    model: SemanticToAcoustic, request: Stage2Request, known: Tensor, layer: int, settings: Sampling
) -> Row:
    """Return what stays while a layer is sampled, given the layers below it, `known` (T, layer)."""
    prompt_length = len(request.prompt)
    condition = model.adapted(request.ssl_tokens, layer)
    prompt = model.embed(
        request.prompt,
        torch.zeros_like(request.prompt[:, 0], dtype=torch.bool),
        layer,
        torch.ones_like(request.prompt[:, 0], dtype=torch.bool),
    )
    added = condition[prompt_length:] + model.other_layers(known, layer)
    row = Row(Branch(prompt + condition[:prompt_length], added))
    # Without a prompt both branches of the guidance are the same.
    if settings.guidance_scale == 0 or not prompt_length:
        return row
    return replace(row, unconditional=Branch(prompt[:0], added))
