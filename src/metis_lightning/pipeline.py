"""Metis, the public Python API: two-stage inference over a bundle.

    >>> metis = Metis.from_pretrained("nano")                          # doctest: +SKIP
    >>> alone = metis.extract(mixture, enrollment, seed=0).wave        # doctest: +SKIP
    >>> metis = Metis.from_pretrained("runs/se_lora/checkpoints/last.ckpt", task="se")    # doctest: +SKIP
    >>> clean = metis.enhance(noisy).wave                              # doctest: +SKIP

Every task goes one way: a `Request` says whose voice, and what is heard, seen or read, and `Metis.generate` answers it.
Shape letters: S samples at 24 kHz, T frames at 50 Hz, F frames of lips at 25 Hz, P prompt frames, N phones,
Q quantizers, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.mask_predict import Noise, Sampling, gumbel
from metis_lightning.sampling.stages import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.tokens.lips import double_rate
from metis_lightning.tokens.phonemes import TextFrontEnd, stack_phones, text_front_end
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import TOKEN_RATE, WAVE_RATE
from metis_lightning.weights.build import apply_task, load_base, load_stage2, load_task, load_tokenizer, part_for
from metis_lightning.weights.bundle import bundle_folder, read_index
from metis_lightning.weights.export import checkpoint_parts

HOP = WAVE_RATE // TOKEN_RATE
SHORTEST = 5 * HOP
"""Samples of the shortest input: the SSL front end needs a few frames."""


@dataclass(frozen=True)
class Settings:
    """How both stages decode; the defaults are the released scripts'.

    stage1: sampling of the SSL tokens.
    stage2: sampling of the acoustic tokens; its `num_steps` is not used.
    stage2_steps: steps of the first quantizer layer, of the second, and of each other one.
    """

    stage1: Sampling = field(default_factory=Sampling)
    stage2: Sampling = field(default_factory=lambda: Sampling(temperature=1.5, guidance_scale=2.5))
    stage2_steps: tuple[int, int, int] = (40, 16, 1)

    def layer_steps(self, num_quantizers: int) -> list[int]:
        """Return the steps of each of Q layers."""
        first, second, other = self.stage2_steps
        return [first, second, *[other] * num_quantizers][:num_quantizers]


TSE_SETTINGS = Settings(stage1=Sampling(num_steps=10, guidance_scale=0.0))
SE_SETTINGS = Settings(stage1=Sampling(num_steps=10, guidance_scale=0.0))
# The paper's table 2 has a guidance of 0 and of 2.
VC_SETTINGS = Settings(stage1=Sampling(num_steps=20, guidance_scale=1.0))
SETTINGS = {"tse": TSE_SETTINGS, "se": SE_SETTINGS, "vc": VC_SETTINGS}
"""The released settings of each task that has a source."""
TTS_SETTINGS = Settings(stage1=Sampling(num_steps=25, guidance_scale=2.5))
L2S_SETTINGS = Settings(stage1=Sampling(num_steps=25, guidance_scale=0.0))


@dataclass(frozen=True)
class Request:
    """What both stages are asked for, by any task; what a task does not use stays empty.

    task: which fine-tuned weights answer.
    samples: of the result.
    prompt: (S',) float32 at 24 kHz, the wanted voice.
    source: (S,) float32 at 24 kHz, what is heard; the result is aligned with it.
    features: (T, C) float32, frames of a condition that is not audio; zeros stand for it over the prompt.
    phones: ids of the prompt's and the result's text, see `Metis.phones`.
    """

    task: str
    samples: int
    prompt: Tensor | None = None
    source: Tensor | None = None
    features: Tensor | None = None
    phones: tuple[int, ...] = ()


@dataclass(frozen=True)
class Speech:
    """What the pipeline returns: wave (S,) float32 at `sample_rate` Hz, SSL tokens (T,), acoustic tokens (T, Q)."""

    wave: Tensor
    sample_rate: int
    ssl_tokens: Tensor
    acoustic_tokens: Tensor


class Metis:
    """The two stages and their codecs.

    Args:
        tokenizer: front end and codecs.
        stage1: fine-tuned stage-1 models by task.
        stage2: the model of the first acoustic layer and that of the others; None if only codecs are needed.
        text: front end that the stage-1 models were trained with; None if they take no text.
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        stage1: Mapping[str, Stage1],
        stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None,
        text: TextFrontEnd | None = None,
    ) -> None:
        self.tokenizer, self.stage1, self.stage2, self.text = tokenizer, stage1, stage2, text

    @classmethod
    def from_pretrained(cls, name: str = "nano", task: str = "tse", base: str = "nano", device: str = "cpu") -> Metis:
        """Load a bundle, or a fine-tuning checkpoint on top of a base bundle.

        Args:
            name: `nano`, a bundle's folder, or a checkpoint file (`.ckpt`).
            task: the task to load; weights that answer several, as Omni's do, are found by each of them.
            base: the bundle that a checkpoint belongs to.
            device: where the models run.

        Raises:
            UserError: if something is missing or does not belong together.
        """
        folder = bundle_folder(base if name.endswith(".ckpt") else name)
        load = _from_checkpoint if name.endswith(".ckpt") else _from_bundle
        model, trained, config = load(folder, name, task)
        model, text = model.to(device), config.get("text")
        first, full = load_stage2(folder)
        return cls(
            load_tokenizer(folder).to(device),
            dict.fromkeys((trained, *config.get("answers", ())), model),
            (first.to(device), full.to(device)),
            None if text is None else text_front_end(text),
        )

    @classmethod
    def codecs_only(cls, name: str = "nano", device: str = "cpu") -> Metis:
        """Load only the front end and the codecs of a bundle, for `resynthesize`."""
        return cls(load_tokenizer(bundle_folder(name)).to(device), {}, None)

    def extract(
        self,
        mixture: Tensor,
        enrollment: Tensor,
        seed: int = 0,
        settings: Settings = TSE_SETTINGS,
        text: str = "",
        language: str = "en",
    ) -> Speech:
        """Return the enrolled speaker's part of a mixture (target speaker extraction).

        Args:
            mixture: (S,) float32 at 24 kHz, what is heard.
            enrollment: (S',) float32 at 24 kHz, the wanted speaker alone; a few seconds.
            seed: of the sampler.
            settings: of both stages.
            text: what the speaker says, in the enrollment and then in the mixture, for weights that read text (Omni).
            language: of the text.
        """
        phones = self.phones((text, language)) if text else ()
        return self.generate(Request("tse", len(mixture), enrollment, mixture, phones=phones), seed, settings)

    def enhance(self, noisy: Tensor, seed: int = 0, settings: Settings = SE_SETTINGS) -> Speech:
        """Return clean speech from noisy, reverberant or narrow-band speech (speech enhancement).

        Args:
            noisy: (S,) float32 at 24 kHz.
            seed: of the sampler.
            settings: of both stages.
        """
        return self.generate(Request("se", len(noisy), source=noisy), seed, settings)

    def convert(self, source: Tensor, prompt: Tensor, seed: int = 0, settings: Settings = VC_SETTINGS) -> Speech:
        """Return the words of one voice, when it says them, in another (voice conversion).

        Args:
            source: (S,) float32 at 24 kHz, whose words are wanted.
            prompt: (S',) float32 at 24 kHz, whose voice is wanted; a few seconds.
            seed: of the sampler.
            settings: of both stages.
        """
        return self.generate(Request("vc", len(source), prompt, source), seed, settings)

    def synthesize(
        self,
        text: str,
        prompt: Tensor,
        prompt_text: str,
        language: str = "en",
        seconds: float | None = None,
        seed: int = 0,
        settings: Settings = TTS_SETTINGS,
    ) -> Speech:
        """Return a text spoken by the voice of a prompt (zero-shot text to speech).

        Args:
            text: to be spoken.
            prompt: (S',) float32 at 24 kHz, the voice; a few seconds.
            prompt_text: what the prompt says, in the same language.
            language: of both texts (ISO 639-1).
            seconds: length of the result; None takes the prompt's speaking rate, see `spoken_seconds`.
            seed: of the sampler.
            settings: of both stages.

        Raises:
            UserError: if a text is empty, the prompt is too short, or the weights take no text.
        """
        _check_length("prompt", prompt)
        if not text.strip() or not prompt_text.strip():
            raise UserError("give both the text and the prompt's text; neither may be empty")
        if seconds is None:
            seconds = spoken_seconds(text, prompt_text, len(prompt) / WAVE_RATE)
        samples = round(seconds * TOKEN_RATE) * HOP
        if samples < SHORTEST:
            raise UserError(f"a result of {seconds:.2f} s is asked for; give at least {SHORTEST / WAVE_RATE} s")
        phones = self.phones((prompt_text, language), (text, language))
        return self.generate(Request("tts", samples, prompt, phones=phones), seed, settings)

    def lip_to_speech(
        self, features: Tensor, prompt: Tensor, seed: int = 0, settings: Settings = L2S_SETTINGS
    ) -> Speech:
        """Return the speech of a silent video in the voice of a prompt.

        Args:
            features: (F, C) float32, lip features at 25 Hz.
            prompt: (S',) float32 at 24 kHz, the voice; a few seconds.
            seed: of the sampler.
            settings: of both stages.

        Raises:
            UserError: if the prompt or the video is too short.
        """
        doubled = double_rate(features[None])[0]
        if len(doubled) * HOP < SHORTEST:
            raise UserError(f"the video has {len(features)} frames; give at least {-(-SHORTEST // (2 * HOP))}")
        return self.generate(Request("l2s", len(doubled) * HOP, prompt, features=doubled), seed, settings)

    def phones(self, *parts: tuple[str, str]) -> tuple[int, ...]:
        """Return the ids of (text, language) pairs that are spoken one after another, for a `Request`.

        Raises:
            UserError: if the weights take no text, or a language is unknown.
        """
        if self.text is None:
            raise UserError("these weights take no text; load some that were trained for TTS or Omni")
        return tuple(self.text(*parts))

    @torch.no_grad()
    def generate(self, request: Request, seed: int = 0, settings: Settings = TSE_SETTINGS) -> Speech:
        """Answer a request of any task.

        Raises:
            UserError: if the pipeline was not loaded for the task, or an input is too short.
        """
        model = self.stage1.get(request.task)
        if model is None:
            tasks = ", ".join(self.stage1) or "no task"
            raise UserError(f"this pipeline was loaded for {tasks}; load it with task={request.task!r}")
        _check_length("prompt", request.prompt)
        _check_length("source", request.source)
        # Whole frames, so that what follows starts on a frame of the joined waveform.
        voice = torch.empty(0) if request.prompt is None else request.prompt
        voice = voice[: len(voice) // HOP * HOP][None].to(self.device)
        prompt, acoustic_prompt = self._prompt_tokens(voice)
        condition, frames = self._condition(model, request, voice)
        stage1 = Stage1Request(
            prompt=prompt,
            length=frames - prompt.shape[1],
            condition=condition,
            phones=stack_phones([request.phones], self.device),
        )
        noise = gumbel(torch.Generator().manual_seed(seed))
        tokens = sample_ssl_tokens(model, stage1, settings.stage1, noise)
        speech = self._speak(torch.cat([prompt, tokens], dim=1), acoustic_prompt, settings, noise)
        # The last frame of the prompt needs samples of what follows, so the generated part starts before the result.
        early = voice.shape[1] - prompt.shape[1] * HOP
        wave = pad(speech.wave[early:], (0, max(0, request.samples - len(speech.wave) + early)))
        return replace(speech, wave=wave[: request.samples], ssl_tokens=tokens[0].cpu())

    def _prompt_tokens(self, voice: Tensor) -> tuple[Tensor, Tensor]:
        """Return SSL tokens (1, P) and acoustic tokens (1, P, Q) of a prompt (1, S'), which may be empty."""
        if self.stage2 is None:
            raise ValueError("this pipeline was built without stage 2")
        if voice.shape[1] == 0:
            nothing = torch.zeros(1, 0, dtype=torch.long, device=self.device)
            return nothing, nothing[..., None].expand(-1, -1, self.stage2[1].config.num_quantizers)
        prompt, _ = self.tokenizer.ssl_tokens(voice, _length(voice))
        return prompt, self.tokenizer.acoustic_tokens(voice)[:, : prompt.shape[1]]

    def _condition(self, model: Stage1, request: Request, voice: Tensor) -> tuple[Tensor | None, int]:
        """Return the condition (1, frames, C) over prompt and result, if the model takes one, and its frames."""
        prompt_frames = voice.shape[1] // HOP
        if request.source is not None:
            joined = torch.cat([voice, request.source[None].to(self.device)], dim=1)
            features, frames = self.tokenizer.ssl_features(joined, _length(joined))
            return features, int(frames)
        if request.features is not None:
            features = pad(request.features.to(self.device), (0, 0, prompt_frames, 0))
            return features[None], len(features)
        length = prompt_frames + -(-request.samples // HOP)
        if model.cond_adapter is None:
            return None, length
        # As in training, zeros stand for what is not heard.
        return torch.zeros(1, length, self.tokenizer.features.dim, device=self.device), length

    @torch.no_grad()
    def resynthesize(self, wave: Tensor) -> Speech:
        """Return a waveform (S,) at 24 kHz after a round trip through the acoustic codec.

        It is the best that stage 2 could do.
        """
        tokens = self.tokenizer.acoustic_tokens(wave[None].to(self.device))
        decoded = self.tokenizer.wave(tokens)[0, : len(wave)].cpu()
        return Speech(decoded, WAVE_RATE, torch.empty(0, dtype=torch.long), tokens[0].cpu())

    @property
    def device(self) -> torch.device:
        """Where the models run."""
        return next(self.tokenizer.parameters()).device

    def _speak(self, ssl_tokens: Tensor, prompt: Tensor, settings: Settings, noise: Noise) -> Speech:
        """Turn SSL tokens (1, P + T) into speech of T frames after an acoustic prompt (1, P, Q)."""
        if self.stage2 is None:
            raise ValueError("this pipeline was built without stage 2")
        first, full = self.stage2
        steps = settings.layer_steps(full.config.num_quantizers)
        nothing = prompt.new_zeros(1, ssl_tokens.shape[1] - prompt.shape[1], 0)
        request = Stage2Request(ssl_tokens, prompt[..., : first.config.num_quantizers], nothing)
        layer1 = sample_acoustic_tokens(first, request, settings.stage2, steps, noise)
        request = Stage2Request(ssl_tokens, prompt, layer1)
        tokens = sample_acoustic_tokens(full, request, settings.stage2, steps, noise)
        # The prompt's frames are decoded too: the vocoder hears what stands before the first new frame.
        wave = self.tokenizer.wave(torch.cat([prompt, tokens], dim=1))[0, prompt.shape[1] * HOP :]
        return Speech(wave.cpu(), WAVE_RATE, ssl_tokens[0].cpu(), tokens[0].cpu())


def spoken_seconds(text: str, prompt_text: str, prompt_seconds: float) -> float:
    """Return how long a text takes at a prompt's speaking rate: the ratio of the texts' bytes in UTF-8.

    The released script's rule, which counts the prompt in frames and rounds down.

    >>> spoken_seconds("twice as long", "length", 3.0)
    6.5
    """
    return prompt_seconds * len(text.strip().encode()) / len(prompt_text.strip().encode())


def _from_checkpoint(folder: Path, name: str, task: str) -> tuple[Stage1, str, Mapping[str, Any]]:
    """Return the model of a checkpoint that answers a task, the name of its part, and that part's configuration."""
    parts = checkpoint_parts(Path(name))
    found = part_for({key: part.config for key, part in parts.items()}, task)
    if found is None:
        raise UserError(f"checkpoint {name}: it holds no weights for the task {task!r}")
    model, digest = load_base(folder)
    apply_task(model, parts[found], digest, what=f"checkpoint {name}")
    return model.eval(), found, parts[found].config


def _from_bundle(folder: Path, name: str, task: str) -> tuple[Stage1, str, Mapping[str, Any]]:
    """Return the model of a bundle that answers a task, the name of its part, and that part's configuration."""
    configs = {key: part["config"] for key, part in read_index(folder)["parts"].items()}
    found = part_for(configs, task)
    if found is None:
        raise UserError(f"bundle {name!r} has no part for the task {task!r}; fine-tune it and give the checkpoint")
    return load_task(folder, found), found, configs[found]


def _check_length(name: str, wave: Tensor | None) -> None:
    if wave is not None and len(wave) < SHORTEST:
        raise UserError(f"the {name} lasts {len(wave) / WAVE_RATE:.2f} s; give at least {SHORTEST / WAVE_RATE} s")


def _length(wave: Tensor) -> Tensor:
    return torch.tensor([wave.shape[1]], device=wave.device)
