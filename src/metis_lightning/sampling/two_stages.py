"""From checked requests to speech: prompt, condition, stage 1, stage 2, and the part of the result that was asked for.

Shape letters: S samples at 24 kHz, T frames to generate, P prompt frames, Q quantizers, C condition width.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from metis_lightning.errors import UserError
from metis_lightning.models.runner import Graphs, Runner, runner_for
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.denoisers import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.sampling.mask_predict import Noise
from metis_lightning.sampling.request import Request, Speech, Timing
from metis_lightning.sampling.settings import Settings
from metis_lightning.sampling.voice import Prompt, Voice
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import HOP, WAVE_RATE


@dataclass(frozen=True)
class Conditioning:
    """A request in tokens and frames, as both stages take it."""

    stage1: Stage1Request
    acoustic_prompt: Tensor  # (P, Q) tokens, P may be 0
    voice_frames: int  # whole frames of the prompt's audio, of which the last may have no SSL token
    samples: int  # of the result


@dataclass
class Stage2:
    """What all tasks share: front end, codecs, and the two models of stage 2, all on one device."""

    tokenizer: SpeechTokenizer
    first: SemanticToAcoustic  # the model of the first acoustic layer
    full: SemanticToAcoustic  # that of the others
    compile: bool = False  # whether the backbones are compiled, once for each shape; see `runner_for`
    graphs: Graphs | None = None  # replays passes on a GPU; None computes each anew
    runners: tuple[Runner, Runner] = field(init=False)  # of both

    def __post_init__(self) -> None:
        # Kept from batch to batch: on a GPU they hold where sequences stand when they are padded.
        first, full = (
            runner_for(model.diff_estimator, self.device, self.compile, self.graphs)
            for model in (self.first, self.full)
        )
        self.runners = first, full

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self.first.mask_emb.weight.device

    @torch.no_grad()
    def respoken(
        self,
        waves: Sequence[Tensor],
        prompts: Sequence[Prompt | None],
        settings: Settings,
        noises: Sequence[Noise],
    ) -> list[Speech]:
        """Return waves (S,) spoken again from their own SSL tokens, each after a prompt (S',), if there is one."""
        rows, tokens = [], []
        for wave, voice in zip(waves, self.voices(prompts), strict=True):
            joined = torch.cat([voice.wave, wave.to(self.device)])
            ssl_tokens, _ = self.tokenizer.ssl_tokens(joined[None], torch.tensor([len(joined)], device=self.device))
            tokens.append(ssl_tokens[0, len(voice.ssl_tokens) :])
            stage1 = Stage1Request(voice.ssl_tokens, len(tokens[-1]), None, None)
            rows.append(Conditioning(stage1, voice.acoustic_tokens, len(voice) // HOP, len(wave)))
        generated = self.acoustic_tokens(tokens, rows, settings, noises)
        return [decoded_speech(self.tokenizer, *row) for row in zip(rows, tokens, generated, strict=True)]

    @torch.no_grad()
    def voices(self, prompts: Iterable[Prompt | None]) -> list[Voice]:
        """Return prompts (S',) with their tokens on the device; those that are voices already are not encoded again."""
        nothing = torch.zeros(0, self.full.config.num_quantizers, dtype=torch.long)
        voices = []
        for prompt in prompts:
            if not isinstance(prompt, Voice):
                # Without its last samples: what follows then starts on a frame.
                wave = nothing[:, 0].float() if prompt is None else prompt[: len(prompt) // HOP * HOP]
                prompt = Voice(wave, nothing[:, 0], nothing)
            voices.append(prompt.to(self.device))
        spoken = {row: voice.wave for row, voice in enumerate(voices) if len(voice) and not len(voice.ssl_tokens)}
        for rows, wave, lengths, frames in self.batches(spoken):
            ssl_tokens, _ = self.tokenizer.ssl_tokens(wave, lengths)
            # Stage 2 may leave the codec's finest layers out.
            acoustic = self.tokenizer.acoustic_tokens(wave, lengths)[..., : self.full.config.num_quantizers]
            for index, (row, count) in enumerate(zip(rows, frames, strict=True)):
                encoded = ssl_tokens[index, :count], acoustic[index, :count]
                voices[row] = replace(voices[row], ssl_tokens=encoded[0], acoustic_tokens=encoded[1])
        return voices

    def batches(self, waves: Mapping[int, Tensor]) -> Iterator[tuple[list[int], Tensor, Tensor, list[int]]]:
        """Yield rows of waves (S,), the waves padded to (B, S), their samples (B,) and their numbers of frames."""
        # All at once on a GPU; elsewhere nothing would be saved, and alone a row is what it is alone to the last bit.
        groups = [list(waves)] if waves and self.device.type == "cuda" else [[row] for row in waves]
        for rows in groups:
            padded = pad_sequence([waves[row] for row in rows], batch_first=True)
            lengths = torch.tensor([len(waves[row]) for row in rows])
            # Counted here, so that the device is not waited for.
            yield rows, padded, lengths.to(self.device), self.tokenizer.num_frames(lengths).tolist()

    def acoustic_tokens(
        self, tokens: Sequence[Tensor], rows: Sequence[Conditioning], settings: Settings, noises: Sequence[Noise]
    ) -> list[Tensor]:
        """Turn SSL tokens (T,) into acoustic tokens (T, Q): the first layer by its own model, then the others."""
        steps = settings.layer_steps(self.full.config.num_quantizers)
        joined = [torch.cat([row.stage1.prompt, new]) for row, new in zip(rows, tokens, strict=True)]
        layers = [row.acoustic_prompt.new_zeros(row.stage1.length, 0) for row in rows]
        first_settings = replace(settings.stage2, guidance_scale=settings.first_layer_guidance)
        of_both = (self.first, first_settings, self.runners[0]), (self.full, settings.stage2, self.runners[1])
        for model, chosen, runner in of_both:
            sampling = replace(chosen, temperature=model.config.temperature)
            requests = [
                Stage2Request(ssl, row.acoustic_prompt[:, : model.config.num_quantizers], lower)
                for ssl, row, lower in zip(joined, rows, layers, strict=True)
            ]
            layers = sample_acoustic_tokens(model, requests, sampling, steps, noises, runner)
        return layers


@dataclass
class TwoStages:
    """A stage 1 of any task before the stage 2 that all tasks share."""

    stage1: Stage1
    stage2: Stage2
    _runner: Runner = field(init=False)

    def __post_init__(self) -> None:
        shared = self.stage2
        self._runner = runner_for(self.stage1.diff_estimator, shared.device, shared.compile, shared.graphs)

    @torch.no_grad()
    def speech(self, requests: Sequence[Request], settings: Settings, noises: Sequence[Noise]) -> list[Speech]:
        """Return the speech of checked requests, each by its own noise. A `UserError` if stage 1 does not take one."""
        clock = StageClock(self.stage2.device)
        runners = self._runner, *self.stage2.runners
        before = [runner.forwards for runner in runners]
        with clock.stage("front_end"):
            conditionings = self.conditionings(requests)
        with clock.stage("stage1"):
            rows = [row.stage1 for row in conditionings]
            tokens = sample_ssl_tokens(self.stage1, rows, settings.stage1, noises, self._runner)
        with clock.stage("stage2"):
            acoustic = self.stage2.acoustic_tokens(tokens, conditionings, settings, noises)
        with clock.stage("vocoder"):
            generated = zip(conditionings, tokens, acoustic, strict=True)
            decoded = [decoded_speech(self.stage2.tokenizer, *row) for row in generated]
        stage1, *stage2 = (runner.forwards - done for runner, done in zip(runners, before, strict=True))
        timing = Timing(clock.seconds, {"stage1": stage1, "stage2": sum(stage2)}, len(requests))
        return [replace(speech, timing=timing) for speech in decoded]

    def conditionings(self, requests: Sequence[Request]) -> list[Conditioning]:
        """Return checked requests as both stages take them. A `UserError` if stage 1 does not take what one holds."""
        device = self.stage2.device
        voices = self.stage2.voices(request.prompt for request in requests)
        rows = zip(requests, voices, self._conditions(requests, voices), strict=True)
        width = None if self.stage1.cond_adapter is None else self.stage1.cond_adapter.cond_dim
        conditionings = []
        for request, voice, condition in rows:
            what = f"the weights for {request.task!r} take"
            if condition is not None and condition.shape[-1] != width:
                wants = "neither source nor features" if width is None else f"conditions {width} wide"
                raise UserError(f"{what} {wants}; this condition is {condition.shape[-1]} wide")
            if request.phones and self.stage1.phone_emb is None:
                raise UserError(f"{what} no phones")
            voice_frames = len(voice) // HOP
            frames = voice_frames + -(-request.length // HOP) if condition is None else len(condition)
            phones = torch.tensor(request.phones, device=device) if request.phones else None
            prompt = voice.ssl_tokens
            stage1 = Stage1Request(prompt, frames - len(prompt), condition, phones)
            conditionings.append(Conditioning(stage1, voice.acoustic_tokens, voice_frames, request.length))
        return conditionings

    def _conditions(self, requests: Sequence[Request], voices: Sequence[Voice]) -> list[Tensor | None]:
        """Return the condition (P + T, C) of each row over prompt and result, None if there is none."""
        device = self.stage2.device
        conditions: list[Tensor | None] = [None] * len(requests)
        joined: dict[int, Tensor] = {}
        for row, (request, voice) in enumerate(zip(requests, voices, strict=True)):
            if request.source is not None:
                joined[row] = torch.cat([voice.wave, request.source.to(device)])
            elif request.features is not None:
                # Over the prompt, whose lips were not seen, stand zeros.
                conditions[row] = pad(request.features.to(device), (0, 0, len(voice) // HOP, 0))
        for rows, wave, lengths, frames in self.stage2.batches(joined):
            features, _ = self.stage2.tokenizer.ssl_features(wave, lengths)
            for index, (row, count) in enumerate(zip(rows, frames, strict=True)):
                conditions[row] = features[index, :count]
        return conditions


@dataclass
class StageClock:
    """Seconds of each stage, with what the device still works on."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure a stage."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - start


def decoded_speech(tokenizer: SpeechTokenizer, row: Conditioning, ssl_tokens: Tensor, acoustic: Tensor) -> Speech:
    """Return the speech of generated SSL tokens (T,) and acoustic tokens (T, Q), without a timing, on the CPU."""
    # The prompt's frames are decoded too: the vocoder hears what stands before the first new frame.
    tokens = torch.cat([row.acoustic_prompt, acoustic])
    wave = tokenizer.wave(tokens[None])[0, len(row.stage1.prompt) * HOP :].cpu()
    # The last frame of the prompt needs samples of what follows, so the generated part starts before the result.
    early = row.voice_frames - len(row.stage1.prompt)
    wave = wave[early * HOP :]
    wave = pad(wave, (0, max(0, row.samples - len(wave))))[: row.samples]
    return Speech(wave, WAVE_RATE, ssl_tokens[early:].cpu(), acoustic[early:].cpu())
