"""Metis, the public Python API: two-stage inference over a bundle.

    >>> metis = Metis.from_pretrained("nano")                          # doctest: +SKIP
    >>> alone = metis.extract(mixture, enrollment, seed=0).wave        # doctest: +SKIP
    >>> metis = Metis.from_pretrained("runs/se_lora/checkpoints/last.ckpt", task="se")    # doctest: +SKIP
    >>> clean = metis.enhance(noisy).wave                              # doctest: +SKIP

Shape letters: S samples at 24 kHz, T frames at 50 Hz, P prompt frames, Q quantizers, C feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import pad

from metis_lightning.errors import UserError
from metis_lightning.models.semantic_to_acoustic import SemanticToAcoustic
from metis_lightning.models.stage1 import Stage1
from metis_lightning.sampling.mask_predict import Noise, Sampling, gumbel
from metis_lightning.sampling.stages import Stage1Request, Stage2Request, sample_acoustic_tokens, sample_ssl_tokens
from metis_lightning.tokens.tokenizer import SpeechTokenizer
from metis_lightning.types import TOKEN_RATE, WAVE_RATE
from metis_lightning.weights.build import apply_task, load_base, load_stage2, load_task, load_tokenizer
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
    """

    def __init__(
        self,
        tokenizer: SpeechTokenizer,
        stage1: Mapping[str, Stage1],
        stage2: tuple[SemanticToAcoustic, SemanticToAcoustic] | None,
    ) -> None:
        self.tokenizer, self.stage1, self.stage2 = tokenizer, stage1, stage2

    @classmethod
    def from_pretrained(cls, name: str = "nano", task: str = "tse", base: str = "nano", device: str = "cpu") -> Metis:
        """Load a bundle, or a fine-tuning checkpoint on top of a base bundle.

        Args:
            name: `nano`, a bundle's folder, or a checkpoint file (`.ckpt`).
            task: the task to load.
            base: the bundle that a checkpoint belongs to.
            device: where the models run.

        Raises:
            UserError: if something is missing or does not belong together.
        """
        if name.endswith(".ckpt"):
            folder = bundle_folder(base)
            part = checkpoint_parts(Path(name)).get(task)
            if part is None:
                raise UserError(f"checkpoint {name}: it holds no weights for the task {task!r}")
            model, digest = load_base(folder)
            apply_task(model, part, digest, what=f"checkpoint {name}")
        else:
            folder = bundle_folder(name)
            if task not in read_index(folder)["parts"]:
                raise UserError(
                    f"bundle {name!r} has no part for the task {task!r}; fine-tune it and give the checkpoint"
                )
            model = load_task(folder, task)
        first, full = load_stage2(folder)
        return cls(
            load_tokenizer(folder).to(device), {task: model.eval().to(device)}, (first.to(device), full.to(device))
        )

    @classmethod
    def codecs_only(cls, name: str = "nano", device: str = "cpu") -> Metis:
        """Load only the front end and the codecs of a bundle, for `resynthesize`."""
        return cls(load_tokenizer(bundle_folder(name)).to(device), {}, None)

    def extract(self, mixture: Tensor, enrollment: Tensor, seed: int = 0, settings: Settings = TSE_SETTINGS) -> Speech:
        """Return the enrolled speaker's part of a mixture (target speaker extraction).

        Args:
            mixture: (S,) float32 at 24 kHz, what is heard.
            enrollment: (S',) float32 at 24 kHz, the wanted speaker alone; a few seconds.
            seed: of the sampler.
            settings: of both stages.
        """
        return self.respond("tse", mixture, enrollment, seed, settings)

    def enhance(self, noisy: Tensor, seed: int = 0, settings: Settings = SE_SETTINGS) -> Speech:
        """Return clean speech from noisy, reverberant or narrow-band speech (speech enhancement).

        Args:
            noisy: (S,) float32 at 24 kHz.
            seed: of the sampler.
            settings: of both stages.
        """
        return self.respond("se", noisy, None, seed, settings)

    def convert(self, source: Tensor, prompt: Tensor, seed: int = 0, settings: Settings = VC_SETTINGS) -> Speech:
        """Return the words of one voice, when it says them, in another (voice conversion).

        Args:
            source: (S,) float32 at 24 kHz, whose words are wanted.
            prompt: (S',) float32 at 24 kHz, whose voice is wanted; a few seconds.
            seed: of the sampler.
            settings: of both stages.
        """
        return self.respond("vc", source, prompt, seed, settings)

    @torch.no_grad()
    def respond(self, task: str, source: Tensor, prompt: Tensor | None, seed: int, settings: Settings) -> Speech:
        """Return what a task makes of a source, as long as the source; `extract`, `enhance` and `convert` in one.

        The condition is the prompt followed by the source. Without a prompt neither stage is given one.

        Raises:
            UserError: if the pipeline was not loaded for the task, or an input is too short.
        """
        if task not in self.stage1:
            raise UserError(
                f"this pipeline was loaded for {', '.join(self.stage1) or 'no task'}; load it with task={task!r}"
            )
        for name, wave in (("prompt", prompt), ("source", source)):
            if wave is not None and len(wave) < SHORTEST:
                raise UserError(
                    f"the {name} lasts {len(wave) / WAVE_RATE:.2f} s; give at least {SHORTEST / WAVE_RATE} s"
                )
        # Whole frames, so that the source starts on a frame of the joined waveform.
        given = source[:0] if prompt is None else prompt[: len(prompt) // HOP * HOP]
        joined = torch.cat([given, source])[None].to(self.device)
        condition, frames = self.tokenizer.ssl_features(joined, _length(joined))
        ssl_prompt, acoustic_prompt = self._prompt(given)
        noise = gumbel(torch.Generator().manual_seed(seed))
        request = Stage1Request(prompt=ssl_prompt, length=int(frames) - ssl_prompt.shape[1], condition=condition)
        tokens = sample_ssl_tokens(self.stage1[task], request, settings.stage1, noise)
        speech = self._speak(torch.cat([ssl_prompt, tokens], dim=1), acoustic_prompt, settings, noise)
        # The last frame of the prompt needs samples of the source, so the generated part starts before the source.
        early = len(given) - ssl_prompt.shape[1] * HOP
        wave = pad(speech.wave[early:], (0, max(0, len(source) - len(speech.wave) + early)))
        return replace(speech, wave=wave[: len(source)], ssl_tokens=tokens[0].cpu())

    def _prompt(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Return the SSL tokens (1, P) and acoustic tokens (1, P, Q) of a prompt (S,), which may be empty."""
        if not len(wave):
            nothing = torch.zeros(1, 0, dtype=torch.long, device=self.device)
            return nothing, nothing[..., None].expand(-1, -1, self._num_quantizers())
        batch = wave[None].to(self.device)
        tokens, _ = self.tokenizer.ssl_tokens(batch, _length(batch))
        return tokens, self.tokenizer.acoustic_tokens(batch)[:, : tokens.shape[1]]

    def _num_quantizers(self) -> int:
        if self.stage2 is None:
            raise ValueError("this pipeline was built without stage 2")
        return self.stage2[1].config.num_quantizers

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


def _length(wave: Tensor) -> Tensor:
    return torch.tensor([wave.shape[1]], device=wave.device)
