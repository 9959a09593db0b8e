"""Both stages as denoisers for `mask_predict`: where the prompt, the condition and the guidance go.

Shape letters: B batch, P prompt frames, T frames to generate, Q quantizers, C condition width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.guidance import guide
from metis_lightning.sampling.mask_predict import Noise, Sampling, mask_predict


@dataclass(frozen=True)
class Stage1Request:
    """What stage 1 is asked for.

    prompt: (B, P) SSL tokens, P may be 0.
    length: frames T to generate.
    condition: (B, P + T, C) frames, or None.
    phones: (B, N) ids, padding -1, or None.
    """

    prompt: Tensor
    length: int
    condition: Tensor | None = None
    phones: Tensor | None = None


@torch.no_grad()
def sample_ssl_tokens(model: Stage1, request: Stage1Request, settings: Sampling, noise: Noise) -> Tensor:
    """Return SSL tokens (B, T). Guidance compares with the model that sees neither prompt nor phones."""
    batch, prompt_length = request.prompt.shape
    # Without prompt and phones both branches of the guidance are the same.
    guided = settings.guidance_scale > 0 and (prompt_length > 0 or request.phones is not None)
    alone = None if request.condition is None else request.condition[:, prompt_length:]

    def denoise(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([request.prompt, tokens], dim=1)
        both_mask = torch.cat([torch.zeros_like(request.prompt, dtype=torch.bool), mask], dim=1)
        hidden = model(both, both_mask, t, condition=request.condition, phones=request.phones)[:, prompt_length:]
        if guided:
            without = model(tokens, mask, t, condition=alone)
            hidden = guide(hidden, without, settings.guidance_scale, settings.guidance_rescale)
        return model.to_logit(hidden)

    return mask_predict(denoise, (batch, request.length), settings, noise, request.prompt.device)


@dataclass(frozen=True)
class Stage2Request:
    """What stage 2 is asked for.

    ssl_tokens: (B, P + T).
    prompt: (B, P, Q) acoustic tokens, P may be 0.
    given: (B, T, L) acoustic tokens of the first L layers, L may be 0.
    """

    ssl_tokens: Tensor
    prompt: Tensor
    given: Tensor


@torch.no_grad()
def sample_acoustic_tokens(
    model: SemanticToAcoustic, request: Stage2Request, settings: Sampling, steps: Sequence[int], noise: Noise
) -> Tensor:
    """Return acoustic tokens (B, T, Q): the given layers, then one layer after another.

    `steps` holds the number of steps of each layer, those of given layers included.
    """
    batch, prompt_length, _ = request.prompt.shape
    length = request.ssl_tokens.shape[1] - prompt_length
    layers = model.config.num_quantizers
    result = torch.zeros(batch, length, layers, dtype=torch.long, device=request.prompt.device)
    num_given = request.given.shape[-1]
    result[..., :num_given] = request.given
    for layer in range(num_given, layers):
        layer_settings = replace(settings, num_steps=steps[layer])
        result[..., layer] = _sample_layer(model, request, result, layer, layer_settings, noise)
    return result


def _sample_layer(
    model: SemanticToAcoustic, request: Stage2Request, known: Tensor, layer: int, settings: Sampling, noise: Noise
) -> Tensor:
    """Return the tokens (B, T) of one layer, given the layers of `known` (B, T, Q) below it."""
    prompt_length = request.prompt.shape[1]
    condition = model.condition(request.ssl_tokens, layer)
    guided = settings.guidance_scale > 0 and prompt_length > 0

    def hidden(tokens: Tensor, mask: Tensor, t: Tensor, prompt: Tensor, condition: Tensor) -> Tensor:
        layered = known.clone()
        layered[..., layer] = tokens
        whole = torch.cat([prompt, layered], dim=1)
        is_prompt = torch.arange(whole.shape[1], device=whole.device).expand(whole.shape[:2]) < prompt.shape[1]
        whole_mask = torch.cat([is_prompt.new_zeros(prompt.shape[:2]), mask], dim=1)
        x = model.embed(whole, whole_mask, layer, is_prompt)
        return model.hidden(x, condition, t)[:, prompt.shape[1] :]

    def denoise(tokens: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        states = hidden(tokens, mask, t, request.prompt, condition)
        if guided:
            without = hidden(tokens, mask, t, request.prompt[:, :0], condition[:, prompt_length:])
            states = guide(states, without, settings.guidance_scale, settings.guidance_rescale)
        return model.to_logits[layer](states)

    return mask_predict(denoise, (known.shape[0], known.shape[1]), settings, noise, known.device)
