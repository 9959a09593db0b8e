"""The same decoding as the released code computes it: one row, two passes a step, every frame through the head.

Nothing is kept from step to step. `bench generate` measures the sampler against it, and tests hold their tokens equal.
Shape letters: P prompt frames, T frames to generate, V codebook size, Q quantizers, H hidden width.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor

from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.pipeline import Metis, Options, Request, Settings, Speech, Timing
from metis_lightning.sampling.denoisers import Stage1Request, Stage2Request
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Noise, num_masked
from metis_lightning.sampling.settings import Sampling
from metis_lightning.sampling.two_stages import Stage2, StageClock, TwoStages, decoded_speech
from metis_lightning.task_table import task_named

Logits = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(tokens (1, T), mask (1, T), t (1,)) -> logits (1, T, V)."""


class ReleasedMetis(Metis):
    """The pipeline as the released code computes it: one request after another."""

    @torch.no_grad()
    def generate(
        self,
        requests: Sequence[Request],
        seeds: int | Sequence[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> list[Speech]:
        """Answer requests; see `Metis.generate`."""
        assert self.stage2 is not None
        speech = []
        for request, seed in zip(requests, [seeds] * len(requests) if isinstance(seeds, int) else seeds, strict=True):
            stages = TwoStages(self.stage1[request.task], Stage2(self.tokenizer, *self.stage2))
            chosen = (settings or task_named(request.task).settings).chosen(options)
            speech.append(_released_speech(stages, request.checked(), chosen, self._noise(seed)))
        return speech


def _released_speech(stages: TwoStages, request: Request, settings: Settings, noise: Noise) -> Speech:
    stage2 = stages.stage2
    clock, passes = StageClock(stage2.device), Counter[str]()
    second_stage = (stage2.first, settings.first_layer_guidance), (stage2.full, settings.stage2.guidance_scale)
    backbones = [("stage1", stages.stage1.diff_estimator)]
    backbones += [("stage2", model.diff_estimator) for model, _ in second_stage]
    hooks = [
        backbone.register_forward_hook(lambda *_, stage=stage: passes.update([stage])) for stage, backbone in backbones
    ]
    with clock.stage("front_end"):
        row = stages.conditionings([request])[0]
    with clock.stage("stage1"):
        ssl_tokens = two_pass_ssl_tokens(stages.stage1, row.stage1, settings.stage1, noise)
    with clock.stage("stage2"):
        joined = torch.cat([row.stage1.prompt, ssl_tokens])
        steps = settings.layer_steps(stage2.full.config.num_quantizers)
        acoustic = row.acoustic_prompt.new_zeros(row.stage1.length, 0)
        for model, scale in second_stage:
            second = Stage2Request(joined, row.acoustic_prompt[:, : model.config.num_quantizers], acoustic)
            sampling = replace(settings.stage2, guidance_scale=scale, temperature=model.config.temperature)
            acoustic = two_pass_acoustic_tokens(model, second, sampling, steps, noise)
    with clock.stage("vocoder"):
        speech = decoded_speech(stage2.tokenizer, row, ssl_tokens, acoustic)
    for hook in hooks:
        hook.remove()
    return replace(speech, timing=Timing(clock.seconds, dict(passes)))


@torch.no_grad()
def two_pass_ssl_tokens(model: Stage1, request: Stage1Request, settings: Sampling, noise: Noise) -> Tensor:
    """Return the SSL tokens (T,) of a row."""
    prompt = request.prompt[None]
    condition = None if request.condition is None else request.condition[None]
    phones = None if request.phones is None else request.phones[None]
    alone = None if condition is None else condition[:, prompt.shape[1] :]

    def logits(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([prompt, tokens], dim=1)
        both_mask = torch.cat([torch.zeros_like(prompt, dtype=torch.bool), mask], dim=1)
        hidden = model(both, both_mask, t, condition=condition, phones=phones)[:, prompt.shape[1] :]
        if settings.guidance_scale > 0:
            without = model(tokens, mask, t, condition=alone)
            hidden = guide(hidden, without, settings.guidance_scale, settings.guidance_rescale)
        return model.to_logit(hidden)

    return _mask_predict(logits, request.length, settings, noise, prompt.device)


@torch.no_grad()
def two_pass_acoustic_tokens(
    model: SemanticToAcoustic, request: Stage2Request, settings: Sampling, steps: Sequence[int], noise: Noise
) -> Tensor:
    """Return the acoustic tokens (T, Q) of a row."""
    lower, num_quantizers = request.lower_layers, model.config.num_quantizers
    known = lower.new_zeros(len(lower), num_quantizers, dtype=torch.long)
    known[:, : lower.shape[1]] = lower
    for layer in range(lower.shape[1], num_quantizers):
        logits = _layer_logits(model, request, known, layer, settings)
        layer_settings = replace(settings, num_steps=steps[layer])
        known[:, layer] = _mask_predict(logits, len(known), layer_settings, noise, known.device)
    return known


def _layer_logits(
    model: SemanticToAcoustic, request: Stage2Request, known: Tensor, layer: int, settings: Sampling
) -> Logits:
    def hidden(tokens: Tensor, mask: Tensor, t: Tensor, prompt: Tensor, ssl_tokens: Tensor) -> Tensor:
        layered = known.clone()[None]
        layered[..., layer] = tokens
        whole = torch.cat([prompt[None], layered], dim=1)
        is_prompt = torch.arange(whole.shape[1], device=whole.device)[None] < len(prompt)
        whole_mask = torch.cat([is_prompt.new_zeros(1, len(prompt)), mask], dim=1)
        x = model.embed(whole, whole_mask, layer, is_prompt)
        return model.hidden(x, model.condition(ssl_tokens[None], layer), t)[:, len(prompt) :]

    def logits(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        states = hidden(tokens, mask, t, request.prompt, request.ssl_tokens)
        if settings.guidance_scale > 0:
            after_prompt = request.ssl_tokens[len(request.prompt) :]
            without = hidden(tokens, mask, t, request.prompt[:0], after_prompt)
            states = guide(states, without, settings.guidance_scale, settings.guidance_rescale)
        return model.to_logits[layer](states)

    return logits


def _mask_predict(logits: Logits, length: int, settings: Sampling, noise: Noise, device: torch.device) -> Tensor:
    tokens = torch.zeros(1, length, dtype=torch.long, device=device)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    frames, steps = torch.arange(length, device=device), settings.num_steps
    for step in range(steps):
        remaining, is_last = 1.0 - step / steps, step == steps - 1
        scores = logits(tokens, mask, torch.full((1,), remaining, device=device))
        kept = scores.topk(math.ceil((1 - settings.filter_threshold) * scores.shape[-1]), dim=-1)
        scores = torch.full_like(scores, -torch.inf).scatter(-1, kept.indices, kept.values)
        if is_last and steps > 1:
            drawn = scores.argmax(dim=-1)
        else:
            temperature = 0.2 if is_last else settings.temperature * remaining
            every = (frames[:, None], torch.arange(scores.shape[-1], device=device))
            drawn = (scores / max(temperature, 1e-3) + noise(tuple(scores.shape[1:]), every)).argmax(dim=-1)
        tokens = torch.where(mask, drawn, tokens)
        count = num_masked(length, step + 1, steps)
        if count == 0:
            break
        confidence = scores.softmax(dim=-1).gather(-1, drawn[..., None])[..., 0]
        confidence = confidence + settings.confidence_temperature * remaining * noise((length,), (frames,))
        doubt = (1 - confidence).masked_fill(~mask, -torch.finfo(torch.float32).max)
        mask = torch.zeros_like(mask).scatter(1, doubt.topk(count, dim=-1).indices, True)
        tokens = tokens.masked_fill(mask, 0)
    return tokens[0]
