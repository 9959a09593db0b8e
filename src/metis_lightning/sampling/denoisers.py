"""Both stages as denoisers for `mask_predict`: one pass for all rows of a batch and both branches of the guidance.

Prompts, phones and conditions, and the norms of all steps, are computed once.
Shape letters: P positions before the frames, T frames of a row, N frames of all rows, M positions of all branches,
H hidden width, C condition width, Q quantizers, K masked frames, L layers, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from metis_lightning.models.runner import Runner
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Noise, State, mask_predict, schedule
from metis_lightning.sampling.settings import Sampling


@dataclass(frozen=True)
class FixedEmbeddings:
    """The embeddings of a row that stay the same at each step of its decoding."""

    prefix: Tensor  # (P, H), phones and prompt before the frames; the unconditional branch goes without
    added: Tensor  # (T, H), the condition, added to the embeddings of the frames' tokens in both branches
    phones: Tensor | None = None  # (T, H), phones spread over the frames, which the unconditional branch goes without

    def branches(self, is_guided: bool) -> list[tuple[Tensor, Tensor]]:
        """Return prefix and what is added to the frames in each branch, one if both are the same."""
        without = (self.prefix[:0], self.added)
        if self.phones is None and not len(self.prefix):
            return [without]
        conditional = (self.prefix, self.added if self.phones is None else self.added + self.phones)
        return [conditional, without] if is_guided else [conditional]


@dataclass(frozen=True)
class _Packed:
    """The branches of some rows, one after another."""

    lengths: tuple[int, ...]  # of each branch
    fixed: Tensor  # (M, H), all that stays
    source: Tensor  # (M,), which of N frames stands at a position; N where none does
    # Where the frames of each row begin, in its conditional branch and, if it is guided, in the other.
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, batch: Sequence[FixedEmbeddings], rows: Sequence[int], is_guided: bool) -> _Packed:
        """Pack the rows of a batch that are still being decoded."""
        first = list(accumulate((len(row.added) for row in batch), initial=0))
        lengths: list[int] = []
        fixed: list[Tensor] = []
        source: list[Tensor] = []
        starts: list[tuple[int, ...]] = []
        for index in rows:
            row, of_row = batch[index], []
            for prefix, added in row.branches(is_guided):
                of_row.append(sum(lengths) + len(prefix))
                lengths.append(len(prefix) + len(added))
                fixed += [prefix, added]
                # Made on the device: to send them there would be to wait for it.
                source.append(torch.full((len(prefix),), first[-1], device=prefix.device))
                source.append(torch.arange(first[index], first[index + 1], device=prefix.device))
            starts.append(tuple(of_row))
        return cls(tuple(lengths), torch.cat(fixed), torch.cat(source), tuple(starts))


@dataclass
class BranchDenoiser:
    """A denoiser for `mask_predict`."""

    runner: Runner
    scales: Tensor  # (S, 2 L + 1, H), the backbone's `norm_scales` of each step
    batch: Sequence[FixedEmbeddings]
    mask_embedding: Tensor  # (1, H), of a masked frame
    token_embedding: nn.Module  # tokens (N,) to embeddings (N, H)
    head: Callable[[Tensor], Tensor]  # hidden states (K, H) to logits (K, V)
    settings: Sampling
    _packed: dict[tuple[int, ...], _Packed] = field(default_factory=dict)

    def __call__(self, state: State, step: int) -> Tensor:
        """Return logits (K, V) of the masked frames of the state's rows: only these pass through the head."""
        # Packed anew only when a row has ended, which a short one does some steps before the others.
        if state.rows not in self._packed:
            self._packed = {state.rows: _Packed.of(self.batch, state.rows, self.settings.guidance_scale != 0)}
        packed = self._packed[state.rows]
        frames = torch.where(state.mask[:, None], self.mask_embedding, self.token_embedding(state.tokens))
        # Position N of the frames is zeros: nothing is added to a prefix.
        frames = torch.cat([frames, frames.new_zeros(1, frames.shape[1])])
        x = packed.fixed + frames.index_select(0, packed.source)
        hidden = self.runner(x[None], packed.lengths, self.scales[step])[0]
        masked_hidden = [
            self._guided(hidden, len(self.batch[row].added), starts)[masked]
            for row, starts, masked in zip(state.rows, packed.starts, state.masked, strict=True)
        ]
        return self.head(torch.cat(masked_hidden))

    def _guided(self, hidden: Tensor, length: int, starts: tuple[int, ...]) -> Tensor:
        branches = [hidden[start : start + length] for start in starts]
        if len(branches) == 1:
            return branches[0]
        # In float32: the rescaling compares deviations, whatever the backbone computes in.
        conditional, unconditional = (branch.float()[None] for branch in branches)
        guided = guide(conditional, unconditional, self.settings.guidance_scale, self.settings.guidance_rescale)
        return guided[0].to(hidden.dtype)


@dataclass(frozen=True)
class Stage1Request:
    """A row of stage 1."""

    prompt: Tensor  # (P,) SSL tokens, P may be 0
    length: int  # frames T to generate
    condition: Tensor | None = None  # (P + T, C)
    phones: Tensor | None = None  # ids


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
        [stage1_embeddings(model, request) for request in requests],
        model.mask_emb.weight,
        model.cond_emb,
        model.to_logit,
        settings,
    )
    return mask_predict(denoise, [request.length for request in requests], settings, noises, device)


def stage1_embeddings(model: Stage1, request: Stage1Request) -> FixedEmbeddings:
    """Return what stays of a row: phones, then the prompt's tokens, before the frames; the condition on both."""
    prompt_length, embedding = len(request.prompt), model.mask_emb.weight
    added = embedding.new_zeros(prompt_length + request.length, embedding.shape[1])
    if request.condition is not None:
        added = model.adapted(request.condition.to(embedding.dtype))
    prompt = model.embed(request.prompt, torch.zeros_like(request.prompt, dtype=torch.bool)) + added[:prompt_length]
    if request.phones is None:
        return FixedEmbeddings(prompt, added[prompt_length:])
    if model.config.spread_phones:
        frames = prompt_length + request.length
        phones = model.spread_phones(request.phones[None], request.phones.new_tensor([frames]), frames)[0]
        return FixedEmbeddings(prompt + phones[:prompt_length], added[prompt_length:], phones[prompt_length:])
    return FixedEmbeddings(torch.cat([model.embed_phones(request.phones), prompt]), added[prompt_length:])


@dataclass(frozen=True)
class Stage2Request:
    """A row of stage 2."""

    ssl_tokens: Tensor  # (P + T,)
    prompt: Tensor  # (P, Q) acoustic tokens, P may be 0
    lower_layers: Tensor  # (T, L) acoustic tokens of the first L layers, L may be 0, the same for all rows


@torch.no_grad()
def sample_acoustic_tokens(
    model: SemanticToAcoustic,
    requests: Sequence[Stage2Request],
    settings: Sampling,
    steps: Sequence[int],
    noises: Sequence[Noise],
    runner: Runner | None = None,
) -> list[Tensor]:
    """Return acoustic tokens (T, Q) of each row, one layer after another; `steps` are those of all Q layers."""
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
            [_stage2_embeddings(model, *row, layer) for row in zip(requests, layers, strict=True)],
            model.mask_emb.weight,
            model.token_emb[layer],
            model.to_logits[layer],
            settings,
        )
        sampled = mask_predict(denoise, lengths, replace(settings, num_steps=num_steps), noises, device)
        layers = [torch.cat([lower, new[:, None]], dim=1) for lower, new in zip(layers, sampled, strict=True)]
    return layers


def _stage2_embeddings(model: SemanticToAcoustic, request: Stage2Request, lower: Tensor, layer: int) -> FixedEmbeddings:
    """Return what stays of a row while a layer is sampled, after the layers below it (T, layer)."""
    prompt_length = len(request.prompt)
    condition = model.diff_estimator.get_submodule("cond_mlp")(model.condition(request.ssl_tokens, layer))
    is_prompt = torch.ones_like(request.prompt[:, 0], dtype=torch.bool)
    # Each layer sees the SSL tokens, and the prompt in all layers; above itself, the frames are masked.
    prompt = model.embed(request.prompt, ~is_prompt, layer, is_prompt)
    added = condition[prompt_length:] + model.other_layers(lower, layer)
    return FixedEmbeddings(prompt + condition[:prompt_length], added)
