"""Requests of a pipeline, checked, and the speech that it returns.

Shape letters: S samples at 24 kHz, T frames at 50 Hz, F frames at any rate, C feature width, Q quantizers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor, float32

from metis_lightning.errors import UserError
from metis_lightning.sampling.voice import Prompt
from metis_lightning.types import HOP, WAVE_RATE

# Frames of the shortest input and result: the SSL front end needs a few.
SHORTEST = 5
SHORTEST_SECONDS = SHORTEST * HOP / WAVE_RATE


@dataclass(frozen=True)
class Request:
    """The inputs of any task, as both stages take them; those that a task does not use stay empty.

    task: of the fine-tuned weights.
    prompt: (S',) at 24 kHz, the wanted voice; or this voice, encoded already.
    source: (S,) at 24 kHz; the result is aligned with it.
    features: (T, C), frames of a condition that is not audio; zeros stand for it over the prompt.
    phones: ids of the prompt's and the result's text, see `Metis.phones`.
    samples: of the result, where neither source nor features give its length.
    """

    task: str
    prompt: Prompt | None = None
    source: Tensor | None = None
    features: Tensor | None = None
    phones: tuple[int, ...] = ()
    samples: int | None = None

    @property
    def length(self) -> int:
        """Samples of the result. A `UserError` if nothing says how long it is, or more than one thing does."""
        lengths = [] if self.samples is None else [self.samples]
        lengths += [] if self.source is None else [len(self.source)]
        lengths += [] if self.features is None else [len(self.features) * HOP]
        if len(lengths) != 1:
            raise UserError("give one of source, features and samples: each says how long the result is")
        return lengths[0]

    def checked(self) -> Request:
        """Return this request in float32. A `UserError` if an input or the result is too short or not finite."""
        checked = replace(
            self,
            prompt=checked_wave("prompt", self.prompt) if isinstance(self.prompt, Tensor) else self.prompt,
            source=None if self.source is None else checked_wave("source", self.source),
            features=None if self.features is None else checked_frames("condition", self.features, SHORTEST),
        )
        if checked.length < SHORTEST * HOP:
            seconds = checked.length / WAVE_RATE
            raise UserError(f"a result of {seconds:.2f} s is asked for; give at least {SHORTEST_SECONDS:.2f} s")
        return checked


@dataclass(frozen=True)
class Timing:
    """Time and passes of a batch, whose rows share it.

    seconds: by stage: `front_end` (features, prompts' tokens), `stage1`, `stage2`, `vocoder`.
    forwards: passes through a backbone, by stage; one pass holds both branches of the guidance.
    rows: of the batch.
    """

    seconds: Mapping[str, float]
    forwards: Mapping[str, int]
    rows: int = 1

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Speech:
    """Generated speech on the CPU: wave (S,) float32, SSL tokens (T,), acoustic tokens (T, Q); `timing` if sampled."""

    wave: Tensor
    sample_rate: int
    ssl_tokens: Tensor
    acoustic_tokens: Tensor
    timing: Timing | None = None


def checked_wave(name: str, wave: Tensor) -> Tensor:
    """Return a waveform (S,) in float32. A `UserError` if it is not one channel of finite floats, or too short."""
    if wave.dim() != 1:
        raise UserError(f"the {name} has the shape {tuple(wave.shape)}; give one channel, (samples,)")
    if not wave.is_floating_point():
        raise UserError(f"the {name} holds {wave.dtype}; give floating-point samples between -1 and 1")
    if len(wave) < SHORTEST * HOP:
        raise UserError(f"the {name} lasts {len(wave) / WAVE_RATE:.2f} s; give at least {SHORTEST_SECONDS:.2f} s")
    if not wave.isfinite().all():
        raise UserError(f"the {name} holds NaN or infinite samples; replace it")
    return wave.to(float32)


def checked_frames(name: str, features: Tensor, least: int) -> Tensor:
    """Return features (F, C) in float32. A `UserError` if of another shape, not finite, or under `least` frames."""
    if features.dim() != 2:
        raise UserError(f"the {name} has the shape {tuple(features.shape)}; give (frames, width)")
    if len(features) < least:
        raise UserError(f"the {name} has {len(features)} frames; give at least {least}")
    if not features.isfinite().all():
        raise UserError(f"the {name} holds NaN or infinite features; replace it")
    return features.to(float32)
