"""From checked requests to speech: prompt, condition, stage 1, stage 2, and what of the result is the answer.

Shape letters: S samples at 24 kHz, T frames to generate, P prompt frames, Q quantizers, C condition width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
from metis_lightning.sampling.settings import Sampling, Settings
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import HOP, WAVE_RATE


@dataclass(frozen=True)
class Heard:
    """What a request gives, as both stages take it.

    voice_frames: whole frames of the prompt's audio, of which the last may have no SSL token.
    prompt, acoustic_prompt: (P,) and (P, Q) tokens, P may be 0.
    condition: (P + T, C) over prompt and result, None if there is none.
    length: frames T to generate.
    """

    voice_frames: int
    prompt: Tensor
    acoustic_prompt: Tensor
    condition: Tensor | None
    length: int


@dataclass
class TwoStages:
    """A stage 1 of any task, and what all tasks share: front end, codecs, and stage 2, all on one device.

    first, full: stage 2's model of the first acoustic layer, and of the others.
    compile: whether the backbones are compiled, once for each shape; see `runner_for`.
    graphs: replays passes on a GPU; None computes each anew.
    """

    tokenizer: SpeechTokenizer
    stage1: Stage1
    first: SemanticToAcoustic
    full: SemanticToAcoustic
    compile: bool = False
    graphs: Graphs | None = None
    _runners: tuple[Runner, Runner, Runner] = field(init=False)

    def __post_init__(self) -> None:
        # Kept from batch to batch: on a GPU they hold where sequences stand when they are padded.
        stage1, first, full = (
            runner_for(model.diff_estimator, self.device, self.compile, self.graphs)
            for model in (self.stage1, self.first, self.full)
        )
        self._runners = stage1, first, full

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return self.stage1.mask_emb.weight.device

    @torch.no_grad()
    def answer(self, requests: Sequence[Request], settings: Settings, noises: Sequence[Noise]) -> list[Speech]:
        """Return the speech that checked requests ask for, each with noise of its own.

        Raises:
            UserError: if stage 1 does not take what a request gives.
        """
        clock = _Clock(self.device)
        before = [runner.forwards for runner in self._runners]
        with clock.stage("front_end"):
            heard = self._listen(requests)
        with clock.stage("stage1"):
            asked = [self._stage1_request(*pair) for pair in zip(requests, heard, strict=True)]
            tokens = self._sample_ssl_tokens(asked, settings.stage1, noises)
        with clock.stage("stage2"):
            joined = [torch.cat([known.prompt, new]) for known, new in zip(heard, tokens, strict=True)]
            acoustic = self._acoustic_tokens(joined, heard, settings, noises)
        with clock.stage("vocoder"):
            waves = [self._wave(known.acoustic_prompt, new) for known, new in zip(heard, acoustic, strict=True)]
        stage1, *stage2 = (runner.forwards - done for runner, done in zip(self._runners, before, strict=True))
        timing = Timing(clock.seconds, {"stage1": stage1, "stage2": sum(stage2)}, len(requests))
        speech = [
            Speech(wave, WAVE_RATE, ssl.cpu(), layers.cpu(), timing)
            for wave, ssl, layers in zip(waves, tokens, acoustic, strict=True)
        ]
        # The last frame of the prompt needs samples of what follows, so the generated part starts before the result.
        return [
            _aligned(said, early=known.voice_frames - len(known.prompt), samples=request.length)
            for said, known, request in zip(speech, heard, requests, strict=True)
        ]

    def _listen(self, requests: Sequence[Request]) -> list[Heard]:
        # Whole frames, so that what follows starts on a frame of the joined waveform.
        whole = (torch.empty(0) if request.prompt is None else request.prompt for request in requests)
        voices = [voice[: len(voice) // HOP * HOP].to(self.device) for voice in whole]
        prompts = self._prompt_tokens(voices)
        conditions = self._conditions(requests, voices)
        heard = []
        for request, voice, (prompt, acoustic), condition in zip(requests, voices, prompts, conditions, strict=True):
            _check_fit(self.stage1, request, condition)
            frames = len(voice) // HOP + -(-request.length // HOP) if condition is None else len(condition)
            heard.append(Heard(len(voice) // HOP, prompt, acoustic, condition, frames - len(prompt)))
        return heard

    def _prompt_tokens(self, voices: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return SSL tokens (P,) and acoustic tokens (P, Q) of prompts (S',), which may be empty."""
        nothing = torch.zeros(0, self.full.config.num_quantizers, dtype=torch.long, device=self.device)
        found = [(nothing[:, 0], nothing) for _ in voices]
        for group in self._together([row for row, voice in enumerate(voices) if len(voice)]):
            wave, lengths = _padded([voices[row] for row in group])
            ssl_tokens = self.tokenizer.ssl_tokens(wave, lengths.to(self.device))[0]
            acoustic = self.tokenizer.acoustic_tokens(wave, lengths.to(self.device))
            frames = self.tokenizer.num_frames(lengths).tolist()
            for index, (row, count) in enumerate(zip(group, frames, strict=True)):
                found[row] = ssl_tokens[index, :count], acoustic[index, :count]
        return found

    def _conditions(self, requests: Sequence[Request], voices: Sequence[Tensor]) -> list[Tensor | None]:
        """Return the condition (P + T, C) of each row over prompt and result, None if there is none."""
        found: list[Tensor | None] = [None] * len(requests)
        joined: dict[int, Tensor] = {}
        for row, (request, voice) in enumerate(zip(requests, voices, strict=True)):
            if request.source is not None:
                joined[row] = torch.cat([voice, request.source.to(self.device)])
            elif request.features is not None:
                found[row] = pad(request.features.to(self.device), (0, 0, len(voice) // HOP, 0))
        for group in self._together(list(joined)):
            wave, lengths = _padded([joined[row] for row in group])
            features = self.tokenizer.ssl_features(wave, lengths.to(self.device))[0]
            frames = self.tokenizer.num_frames(lengths).tolist()
            for index, (row, count) in enumerate(zip(group, frames, strict=True)):
                found[row] = features[index, :count]
        return found

    def _together(self, rows: list[int]) -> list[list[int]]:
        """Return which rows go through the front end together: all on a GPU, none elsewhere, where nothing is saved.

        Alone, a row is what it is alone to the last bit.
        """
        if not rows:
            return []
        return [rows] if self.device.type == "cuda" else [[row] for row in rows]

    def _stage1_request(self, request: Request, heard: Heard) -> Stage1Request:
        phones = torch.tensor(request.phones, device=self.device) if request.phones else None
        return Stage1Request(heard.prompt, heard.length, heard.condition, phones)

    def _acoustic_tokens(
        self, ssl_tokens: Sequence[Tensor], heard: Sequence[Heard], settings: Settings, noises: Sequence[Noise]
    ) -> list[Tensor]:
        """Turn SSL tokens (P + T,) into acoustic tokens (T, Q), after acoustic prompts (P, Q)."""
        steps = settings.layer_steps(self.full.config.num_quantizers)
        given = self.first.config.num_quantizers
        asked = [
            Stage2Request(tokens, known.acoustic_prompt[:, :given], known.acoustic_prompt.new_zeros(known.length, 0))
            for tokens, known in zip(ssl_tokens, heard, strict=True)
        ]
        first_settings = replace(settings.stage2, guidance_scale=settings.first_layer_guidance)
        layer1 = self._sample_layers(self.first, asked, first_settings, steps, noises)
        asked = [
            Stage2Request(tokens, known.acoustic_prompt, layer)
            for tokens, known, layer in zip(ssl_tokens, heard, layer1, strict=True)
        ]
        return self._sample_layers(self.full, asked, settings.stage2, steps, noises)

    def _sample_ssl_tokens(
        self, asked: Sequence[Stage1Request], settings: Sampling, noises: Sequence[Noise]
    ) -> list[Tensor]:
        return sample_ssl_tokens(self.stage1, asked, settings, noises, self._runners[0])

    def _sample_layers(
        self,
        model: SemanticToAcoustic,
        asked: Sequence[Stage2Request],
        settings: Sampling,
        steps: Sequence[int],
        noises: Sequence[Noise],
    ) -> list[Tensor]:
        runner = self._runners[1 if model is self.first else 2]
        return sample_acoustic_tokens(model, asked, settings, steps, noises, runner)

    def _wave(self, prompt: Tensor, tokens: Tensor) -> Tensor:
        """Return the waveform (S,) of acoustic tokens (T, Q) after a prompt (P, Q), on the CPU."""
        # The prompt's frames are decoded too: the vocoder hears what stands before the first new frame.
        return self.tokenizer.wave(torch.cat([prompt, tokens])[None])[0, len(prompt) * HOP :].cpu()


@dataclass
class _Clock:
    """Seconds of each stage, with what the device still works on."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda" and torch.cuda.is_available():
            torch.cuda.synchronize(self.device)
        self.seconds[name] = time.perf_counter() - start


def _padded(waves: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return waves (S,) as (B, S), zeros after their ends, and their lengths (B,), on the CPU."""
    return pad_sequence(list(waves), batch_first=True), torch.tensor([len(wave) for wave in waves])


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
    """Raise a `UserError` if a model does not take a condition (P + T, C), or phones, that a request gives."""
    takes = None if model.cond_adapter is None else model.cond_adapter.cond_dim
    if condition is not None and condition.shape[-1] != takes:
        wants = "neither source nor features" if takes is None else f"conditions {takes} wide"
        raise UserError(f"the weights for {request.task!r} take {wants}; this condition is {condition.shape[-1]} wide")
    if request.phones and model.phone_emb is None:
        raise UserError(f"the weights for {request.task!r} take no phones")
