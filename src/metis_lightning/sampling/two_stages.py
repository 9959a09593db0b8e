"""From a checked request to speech: prompt, condition, stage 1, stage 2, and what of the result is the answer.

Shape letters: S samples at 24 kHz, T frames to generate, P prompt frames, Q quantizers, C condition width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.mask_predict import Noise
from metis_lightning.sampling.request import HOP, Request, Speech
from metis_lightning.sampling.settings import Settings
from metis_lightning.sampling.stages import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.tokens.phonemes import stack_phones
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import WAVE_RATE


@dataclass(frozen=True)
class TwoStages:
    """A stage 1 of any task, and what all tasks share: front end, codecs, and stage 2, all on one device.

    first, full: stage 2's model of the first acoustic layer, and of the others.
    """

    tokenizer: SpeechTokenizer
    stage1: Stage1
    first: SemanticToAcoustic
    full: SemanticToAcoustic

    @torch.no_grad()
    def answer(self, request: Request, settings: Settings, noise: Noise) -> Speech:
        """Return the speech that a checked request asks for.

        Raises:
            UserError: if stage 1 does not take what the request gives.
        """
        device = self.stage1.to_logit.weight.device
        # Whole frames, so that what follows starts on a frame of the joined waveform.
        voice = torch.empty(0) if request.prompt is None else request.prompt
        voice = voice[: len(voice) // HOP * HOP][None].to(device)
        condition = self._condition(request, voice)
        _check_fit(self.stage1, request, condition)
        prompt, acoustic_prompt = self._prompt_tokens(voice)
        voice_frames = voice.shape[1] // HOP
        frames = voice_frames + -(-request.length // HOP) if condition is None else condition.shape[1]
        asked = Stage1Request(
            prompt=prompt,
            length=frames - prompt.shape[1],
            condition=condition,
            phones=stack_phones([request.phones], device),
        )
        tokens = sample_ssl_tokens(self.stage1, asked, settings.stage1, noise)
        speech = self._speak(torch.cat([prompt, tokens], dim=1), acoustic_prompt, settings, noise)
        # The last frame of the prompt needs samples of what follows, so the generated part starts before the result.
        return _aligned(speech, early=voice_frames - prompt.shape[1], samples=request.length)

    def _prompt_tokens(self, voice: Tensor) -> tuple[Tensor, Tensor]:
        """Return SSL tokens (1, P) and acoustic tokens (1, P, Q) of a prompt (1, S'), which may be empty."""
        if voice.shape[1] == 0:
            nothing = torch.zeros(1, 0, self.full.config.num_quantizers, dtype=torch.long, device=voice.device)
            return nothing[..., 0], nothing
        prompt, _ = self.tokenizer.ssl_tokens(voice, _length(voice))
        return prompt, self.tokenizer.acoustic_tokens(voice)[:, : prompt.shape[1]]

    def _condition(self, request: Request, voice: Tensor) -> Tensor | None:
        """Return the condition (1, P + T, C) over prompt and result, None if there is none."""
        if request.source is not None:
            joined = torch.cat([voice, request.source[None].to(voice.device)], dim=1)
            return self.tokenizer.ssl_features(joined, _length(joined))[0]
        if request.features is not None:
            return pad(request.features.to(voice.device), (0, 0, voice.shape[1] // HOP, 0))[None]
        return None

    def _speak(self, ssl_tokens: Tensor, prompt: Tensor, settings: Settings, noise: Noise) -> Speech:
        """Turn SSL tokens (1, P + T) into speech of T frames after an acoustic prompt (1, P, Q)."""
        prompt_length = prompt.shape[1]
        steps = settings.layer_steps(self.full.config.num_quantizers)
        nothing = prompt.new_zeros(1, ssl_tokens.shape[1] - prompt_length, 0)
        asked = Stage2Request(ssl_tokens, prompt[..., : self.first.config.num_quantizers], nothing)
        first_settings = replace(settings.stage2, guidance_scale=settings.first_layer_guidance)
        layer1 = sample_acoustic_tokens(self.first, asked, first_settings, steps, noise)
        asked = Stage2Request(ssl_tokens, prompt, layer1)
        tokens = sample_acoustic_tokens(self.full, asked, settings.stage2, steps, noise)
        # The prompt's frames are decoded too: the vocoder hears what stands before the first new frame.
        wave = self.tokenizer.wave(torch.cat([prompt, tokens], dim=1))[0, prompt_length * HOP :]
        return Speech(wave.cpu(), WAVE_RATE, ssl_tokens[0, prompt_length:].cpu(), tokens[0].cpu())


def _aligned(speech: Speech, early: int, samples: int) -> Speech:
    """Return speech without its first `early` frames, its wave cut or padded with silence to `samples`."""
    wave = speech.wave[early * HOP :]
    return replace(
        speech,
        wave=pad(wave, (0, max(0, samples - len(wave))))[:samples],
        ssl_tokens=speech.ssl_tokens[early:],
        acoustic_tokens=speech.acoustic_tokens[early:],
    )


def _check_fit(model: Stage1, request: Request, condition: Tensor | None) -> None:
    """Raise a `UserError` if a model does not take a condition (1, P + T, C), or phones, that a request gives."""
    takes = None if model.cond_adapter is None else model.cond_adapter.cond_dim
    if condition is not None and condition.shape[-1] != takes:
        wants = "neither source nor features" if takes is None else f"conditions {takes} wide"
        raise UserError(f"the weights for {request.task!r} take {wants}; this condition is {condition.shape[-1]} wide")
    if request.phones and model.phone_emb is None:
        raise UserError(f"the weights for {request.task!r} take no phones")


def _length(wave: Tensor) -> Tensor:
    return torch.tensor([wave.shape[1]], device=wave.device)
