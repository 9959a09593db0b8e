"""Settings of the sampler: of one decoding, and of both stages. Torch-free, so that the table of tasks is too."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, TypedDict

from metis_lightning.errors import UserError

LONGEST = 30.0
"""Seconds of the longest speech that the models were trained on, as in Emilia, prompt and all."""

SHORTEST_CHUNK = 8.0
"""Seconds of the shortest chunk of a source; the overlap of two chunks takes two of them."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one decoding; the defaults are those of the released stage-1 code.

    temperature: of the tokens' Gumbel noise at the first step; it falls linearly to 0.
    confidence_temperature: of the noise on the confidences that choose what stays, falling likewise.
    filter_threshold: only the ceil((1 - threshold) · V) likeliest tokens may be drawn.
    guidance_scale, guidance_rescale: see `denoisers.guide`.
    """

    num_steps: int = 10
    temperature: float = 0.9
    confidence_temperature: float = 1.0
    filter_threshold: float = 0.98
    guidance_scale: float = 0.0
    guidance_rescale: float = 0.75

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not 0 <= self.filter_threshold < 1:
            raise ValueError(f"filter_threshold must lie in [0, 1), got {self.filter_threshold}")


class Options(TypedDict, total=False):
    """Single settings, as a caller names them; see `Settings.chosen`."""

    num_steps: int
    guidance_scale: float
    temperature: float
    stage2_steps: tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """How both stages decode; the defaults are those of the released Metis scripts.

    stage1, stage2: sampling of SSL tokens and of acoustic tokens; the latter's `num_steps` is not used, and its
        temperature is each model's own (`SemanticToAcousticConfig`).
    stage2_steps: steps of the first quantizer layer, of the second, and of each other one.
    first_layer_guidance: guidance scale of the first quantizer layer's own model (MaskGCT's scripts: 2.5).
    """

    stage1: Sampling = field(default_factory=Sampling)
    stage2: Sampling = field(default_factory=lambda: Sampling(guidance_scale=2.5))
    stage2_steps: tuple[int, int, int] = (40, 16, 1)
    first_layer_guidance: float = 0.0

    def layer_steps(self, num_quantizers: int) -> list[int]:
        """Return the steps of each of Q layers."""
        first, second, other = self.stage2_steps
        return [first, second, *[other] * num_quantizers][:num_quantizers]

    def chosen(self, options: Options) -> Settings:
        """Return these settings with single ones replaced: stage 1's, and the steps of stage 2.

        A `UserError` if a number of steps is below 1, or a scale or a temperature is negative or not finite.
        """
        changes: dict[str, Any] = {name: value for name, value in options.items() if name != "stage2_steps"}
        for name, value in changes.items():
            least = 1 if name == "num_steps" else 0
            if not least <= value < math.inf:
                raise UserError(f"a {name} of {value} is asked for; give a number from {least} on")
        steps = tuple(options.get("stage2_steps", self.stage2_steps))
        if len(steps) != 3 or min(steps) < 1:
            raise UserError(f"stage2_steps {steps} are asked for; give three numbers of at least 1")
        return replace(self, stage1=replace(self.stage1, **changes), stage2_steps=steps)
