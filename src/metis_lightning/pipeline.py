"""Metis, the public Python API: two-stage inference over a bundle.

    >>> metis = Metis.from_pretrained("nano")                          # doctest: +SKIP
    >>> alone = metis.extract(mixture, enrollment, seed=0).wave        # doctest: +SKIP
    >>> metis = Metis.from_pretrained("runs/se_lora/checkpoints/last.ckpt", task="se")    # doctest: +SKIP
    >>> clean = metis.enhance(noisy).wave                              # doctest: +SKIP
    >>> many = metis.enhance([noisy, another], seed=[0, 1], num_steps=8)    # doctest: +SKIP

Every task goes one way: a `Request` says whose voice, and what is heard, seen or read, and `Metis.generate` answers it.
Lists in, lists out: the rows of a batch are worked on together, and each gets the tokens that it would get alone.
Shape letters: S samples at 24 kHz, F frames of lips at 25 Hz, C feature width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Unpack, overload

import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.models.graphs import Graphs
from metis_lightning.models.inference import Precision, ready
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.mask_predict import Noise, gumbel
from metis_lightning.sampling.request import SHORTEST, Request, Speech, Timing, checked_frames, checked_wave
from metis_lightning.sampling.rows import Each, each, each_row
from metis_lightning.sampling.settings import (
    L2S_SETTINGS,
    SE_SETTINGS,
    SETTINGS,
    TSE_SETTINGS,
    TTS_SETTINGS,
    VC_SETTINGS,
    Options,
    Settings,
    settings_for,
)
from metis_lightning.sampling.two_stages import TwoStages
from metis_lightning.tokens.phonemes import TextFrontEnd, spoken_seconds, text_front_end
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.tokens.visual.lips import double_rate
from metis_lightning.types import HOP, TOKEN_RATE, WAVE_RATE
from metis_lightning.weights.build import load_stage2, load_tokenizer
from metis_lightning.weights.bundle import bundle_folder
from metis_lightning.weights.task_weights import load_task_model

__all__ = [
    "HOP",
    "L2S_SETTINGS",
    "SETTINGS",
    "SE_SETTINGS",
    "TSE_SETTINGS",
    "TTS_SETTINGS",
    "VC_SETTINGS",
    "SHORTEST",
    "Metis",
    "Options",
    "Request",
    "Settings",
    "Speech",
    "Timing",
]


class Metis:
    """The two stages and their codecs.

    Args:
        tokenizer: front end and codecs.
        stage1: fine-tuned stage-1 models by task.
        stage2: the model of the first acoustic layer and that of the others; None if only codecs are needed.
        text: front end that the stage-1 models were trained with; None if they take no text.
        batch_size: most requests that are worked on together.
        compile: whether the backbones are compiled, once for each shape of a batch.
        graphs: whether passes on a GPU are captured as CUDA graphs, which pays from a few requests of a shape on.
    """

    stages: type[TwoStages] = TwoStages
    """How both stages are gone through."""

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        stage1: Mapping[str, Stage1],
        stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None,
        text: TextFrontEnd | None = None,
        batch_size: int = 16,
        compile: bool = False,
        graphs: bool = True,
    ) -> None:
        self.tokenizer, self.stage1, self.stage2, self.text = tokenizer, stage1, stage2, text
        self.batch_size, self.compile = batch_size, compile
        # One for all models: they run one after another, so that one pool of memory does for all of them.
        self.graphs = Graphs(self.device) if graphs and self.device.type == "cuda" else None
        self._ready: dict[Stage1, TwoStages] = {}

    @classmethod
    def from_pretrained(
        cls,
        name: str = "nano",
        task: str = "tse",
        base: str = "nano",
        device: str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> Metis:
        """Load a bundle, or a fine-tuning checkpoint on top of a base bundle.

        Args:
            name: `nano`, a bundle's folder, its name on the model hub (`owner/name`, `owner/name@commit`), or a
                checkpoint file (`.ckpt`).
            task: the task to load; weights that answer several, as Omni's do, are found by each of them.
            base: the bundle that a checkpoint belongs to.
            device: where the models run.
            precision: of both stages, see `models.inference.ready`; the front end and the codecs stay in float32.
            compile: whether the backbones are compiled, once for each shape of a batch.

        Raises:
            UserError: if something is missing or does not belong together.
        """
        found = load_task_model(name, task, base)
        first, full = load_stage2(found.folder)
        for stage in (found.model, first, full):
            ready(stage.to(device), precision)
        return cls(
            load_tokenizer(found.folder).to(device),
            dict.fromkeys(found.tasks, found.model),
            (first, full),
            None if found.text is None else text_front_end(found.text),
            compile=compile,
        )

    @classmethod
    def codecs_only(cls, name: str = "nano", device: str = "cpu") -> Metis:
        """Load only the front end and the codecs of a bundle, for `resynthesize`."""
        return cls(load_tokenizer(bundle_folder(name)).to(device), {}, None)

    @overload
    def extract(
        self,
        mixture: Tensor,
        enrollment: Tensor,
        seed: int = 0,
        settings: Settings = TSE_SETTINGS,
        text: str = "",
        enrollment_text: str = "",
        language: str = "en",
        **options: Unpack[Options],
    ) -> Speech: ...

    @overload
    def extract(
        self,
        mixture: Sequence[Tensor],
        enrollment: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = TSE_SETTINGS,
        text: Each[str] = "",
        enrollment_text: Each[str] = "",
        language: Each[str] = "en",
        **options: Unpack[Options],
    ) -> list[Speech]: ...

    def extract(
        self,
        mixture: Each[Tensor],
        enrollment: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = TSE_SETTINGS,
        text: Each[str] = "",
        enrollment_text: Each[str] = "",
        language: Each[str] = "en",
        **options: Unpack[Options],
    ) -> Speech | list[Speech]:
        """Return the enrolled speaker's part of a mixture (target speaker extraction).

        Args:
            mixture: (S,) at 24 kHz, what is heard; or a list, see `generate`: what is not a list goes for all of it.
            enrollment: (S',) at 24 kHz, the wanted speaker alone; a few seconds.
            seed: of the sampler.
            settings: of both stages.
            text: what the speaker says in the mixture, for weights that read text (Omni); given with the next.
            enrollment_text: what the speaker says in the enrollment.
            language: of both texts (ISO 639-1).
            options: single settings in the place of those of `settings`.

        Raises:
            UserError: if an input is not usable, see `Request.checked`, or one of the texts is missing.
        """

        def ask(mixture: Tensor, enrollment: Tensor, text: str, enrollment_text: str, language: str) -> Request:
            guided = bool(text or enrollment_text)
            phones = self.phones((enrollment_text, language), (text, language)) if guided else ()
            return Request("tse", enrollment, mixture, phones=phones)

        asked = each(ask, mixture, enrollment, text, enrollment_text, language)
        return self.generate(asked, seed, settings, **options)

    @overload
    def enhance(
        self, noisy: Tensor, seed: int = 0, settings: Settings = SE_SETTINGS, **options: Unpack[Options]
    ) -> Speech: ...

    @overload
    def enhance(
        self, noisy: Sequence[Tensor], seed: Each[int] = 0, settings: Settings = SE_SETTINGS, **options: Unpack[Options]
    ) -> list[Speech]: ...

    def enhance(
        self, noisy: Each[Tensor], seed: Each[int] = 0, settings: Settings = SE_SETTINGS, **options: Unpack[Options]
    ) -> Speech | list[Speech]:
        """Return clean speech from noisy, reverberant or narrow-band speech (speech enhancement).

        Args:
            noisy: (S,) at 24 kHz, or a list.
            seed: of the sampler.
            settings: of both stages.
            options: single settings in the place of those of `settings`.
        """
        return self.generate(each(lambda wave: Request("se", source=wave), noisy), seed, settings, **options)

    @overload
    def convert(
        self,
        source: Tensor,
        prompt: Tensor,
        seed: int = 0,
        settings: Settings = VC_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech: ...

    @overload
    def convert(
        self,
        source: Sequence[Tensor],
        prompt: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = VC_SETTINGS,
        **options: Unpack[Options],
    ) -> list[Speech]: ...

    def convert(
        self,
        source: Each[Tensor],
        prompt: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = VC_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech | list[Speech]:
        """Return the words of one voice, when it says them, in another (voice conversion).

        Args:
            source: (S,) at 24 kHz, whose words are wanted; or a list.
            prompt: (S',) at 24 kHz, whose voice is wanted; a few seconds.
            seed: of the sampler.
            settings: of both stages.
            options: single settings in the place of those of `settings`.
        """
        asked = each(lambda heard, voice: Request("vc", voice, heard), source, prompt)
        return self.generate(asked, seed, settings, **options)

    @overload
    def synthesize(
        self,
        text: str,
        prompt: Tensor,
        prompt_text: str,
        language: str = "en",
        prompt_language: str = "",
        seconds: float | None = None,
        seed: int = 0,
        settings: Settings = TTS_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech: ...

    @overload
    def synthesize(
        self,
        text: list[str] | tuple[str, ...],
        prompt: Each[Tensor],
        prompt_text: Each[str],
        language: Each[str] = "en",
        prompt_language: Each[str] = "",
        seconds: Each[float | None] = None,
        seed: Each[int] = 0,
        settings: Settings = TTS_SETTINGS,
        **options: Unpack[Options],
    ) -> list[Speech]: ...

    def synthesize(
        self,
        text: Each[str],
        prompt: Each[Tensor],
        prompt_text: Each[str],
        language: Each[str] = "en",
        prompt_language: Each[str] = "",
        seconds: Each[float | None] = None,
        seed: Each[int] = 0,
        settings: Settings = TTS_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech | list[Speech]:
        """Return a text spoken by the voice of a prompt (zero-shot text to speech).

        Args:
            text: to be spoken; or a list.
            prompt: (S',) at 24 kHz, the voice; a few seconds.
            prompt_text: what the prompt says.
            language: of the text (ISO 639-1).
            prompt_language: of the prompt's text, if another.
            seconds: length of the result; None takes the prompt's speaking rate, see `spoken_seconds`.
            seed: of the sampler.
            settings: of both stages.
            options: single settings in the place of those of `settings`.

        Raises:
            UserError: if a text is empty, the prompt is not usable, or the weights take no text.
        """
        asked = each(self._reading, text, prompt, prompt_text, language, prompt_language, seconds)
        return self.generate(asked, seed, settings, **options)

    def _reading(
        self, text: str, prompt: Tensor, prompt_text: str, language: str, prompt_language: str, seconds: float | None
    ) -> Request:
        phones = self.phones((prompt_text, prompt_language or language), (text, language))
        if seconds is None:
            seconds = spoken_seconds(text, prompt_text, len(prompt) / WAVE_RATE)
        if not math.isfinite(seconds):
            raise UserError(f"a result of {seconds} s is asked for; give a number of seconds")
        return Request("tts", prompt, phones=phones, samples=round(seconds * TOKEN_RATE) * HOP)

    @overload
    def lip_to_speech(
        self,
        features: Tensor,
        prompt: Tensor,
        seed: int = 0,
        settings: Settings = L2S_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech: ...

    @overload
    def lip_to_speech(
        self,
        features: Sequence[Tensor],
        prompt: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = L2S_SETTINGS,
        **options: Unpack[Options],
    ) -> list[Speech]: ...

    def lip_to_speech(
        self,
        features: Each[Tensor],
        prompt: Each[Tensor],
        seed: Each[int] = 0,
        settings: Settings = L2S_SETTINGS,
        **options: Unpack[Options],
    ) -> Speech | list[Speech]:
        """Return the speech of a silent video in the voice of a prompt.

        Args:
            features: (F, C), lip features at 25 Hz; or a list.
            prompt: (S',) at 24 kHz, the voice; a few seconds.
            seed: of the sampler.
            settings: of both stages.
            options: single settings in the place of those of `settings`.

        Raises:
            UserError: if the prompt or the video is not usable.
        """

        def ask(features: Tensor, prompt: Tensor) -> Request:
            lips = double_rate(checked_frames("video", features, -(-SHORTEST // 2))[None])[0]
            return Request("l2s", prompt, features=lips)

        return self.generate(each(ask, features, prompt), seed, settings, **options)

    def phones(self, *parts: tuple[str, str]) -> tuple[int, ...]:
        """Return the ids of (text, language) pairs that are spoken one after another, for a `Request`.

        Raises:
            UserError: if the weights take no text, a text has nothing to speak, or a language is unknown.
        """
        if self.text is None:
            raise UserError("these weights take no text; load some that were trained for TTS or Omni")
        for text, language in parts:
            # The first id is the language's.
            if len(self.text((text, language))) < 2:
                raise UserError(
                    f"nothing can be spoken of the text {text!r}; texts of prompt and result must have words"
                )
        return tuple(self.text(*parts))

    @overload
    def generate(
        self, request: Request, seed: int = 0, settings: Settings | None = None, **options: Unpack[Options]
    ) -> Speech: ...

    @overload
    def generate(
        self,
        request: Sequence[Request],
        seed: Each[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> list[Speech]: ...

    @overload
    def generate(
        self,
        request: Each[Request],
        seed: Each[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech | list[Speech]: ...

    def generate(
        self,
        request: Each[Request],
        seed: Each[int] = 0,
        settings: Settings | None = None,
        **options: Unpack[Options],
    ) -> Speech | list[Speech]:
        """Answer a request of any task, or several at once: a batch gives each row the tokens that it has alone.

        Args:
            request: what is wanted; or a list, of any lengths and tasks.
            seed: of the sampler, for all rows or one a row.
            settings: of both stages; None takes the released ones, see `settings_for`.
            options: single settings in the place of those of `settings`.

        Raises:
            UserError: if the pipeline was not loaded for the task, an input is not usable, or there is not one seed a
                row.
        """
        if isinstance(request, Request):
            return self._answer([request], each_row(seed, 1), settings, options)[0]
        return self._answer(request, each_row(seed, len(request)), settings, options)

    def _answer(
        self, requests: Sequence[Request], seeds: Sequence[int], settings: Settings | None, options: Options
    ) -> list[Speech]:
        checked = [self._checked(request, row if len(requests) > 1 else None) for row, request in enumerate(requests)]
        batches: dict[tuple[Stage1, Settings], list[int]] = {}
        for row, request in enumerate(checked):
            chosen = (settings_for(request) if settings is None else settings).chosen(options)
            batches.setdefault((self.stage1[request.task], chosen), []).append(row)
        answers: dict[int, Speech] = {}
        for (model, chosen), rows in batches.items():
            # Rows of like lengths go together, so that little is padded where rows are.
            rows.sort(key=lambda row: checked[row].length)
            for start in range(0, len(rows), self.batch_size):
                some = rows[start : start + self.batch_size]
                noises = [self._noise(seeds[row]) for row in some]
                speech = self._stages(model).answer([checked[row] for row in some], chosen, noises)
                answers.update(zip(some, speech, strict=True))
        return [answers[row] for row in range(len(requests))]

    def _checked(self, request: Request, row: int | None) -> Request:
        """Return a checked request; a mistake in one of several names its row."""
        if request.task not in self.stage1:
            tasks = ", ".join(self.stage1) or "no task"
            raise UserError(f"this pipeline was loaded for {tasks}; load it with task={request.task!r}")
        try:
            return request.checked()
        except UserError as error:
            if row is None:
                raise
            raise UserError(f"request {row} of the batch: {error}") from error

    def _stages(self, model: Stage1) -> TwoStages:
        if self.stage2 is None:
            raise ValueError("this pipeline was built without stage 2")
        if model not in self._ready:
            self._ready[model] = self.stages(self.tokenizer, model, *self.stage2, self.compile, self.graphs)
        return self._ready[model]

    def _noise(self, seed: int) -> Noise:
        """Return a row's noise; drawn on the GPU where there is one, whose numbers are not those of a CPU."""
        device = self.device if self.device.type == "cuda" and torch.cuda.is_available() else torch.device("cpu")
        return gumbel(torch.Generator(device).manual_seed(seed))

    @torch.no_grad()
    def resynthesize(self, wave: Tensor) -> Speech:
        """Return a waveform (S,) at 24 kHz after a round trip through the acoustic codec.

        It is the best that stage 2 could do.
        """
        wave = checked_wave("waveform", wave)
        tokens = self.tokenizer.acoustic_tokens(wave[None].to(self.device))
        decoded = self.tokenizer.wave(tokens)[0, : len(wave)].cpu()
        return Speech(decoded, WAVE_RATE, torch.empty(0, dtype=torch.long), tokens[0].cpu())

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return next(self.tokenizer.parameters()).device
