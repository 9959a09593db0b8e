"""Settings of the sampler: of one decoding, and of both stages. Torch-free, so that the table of tasks is too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, TypedDict

from metis_lightning.errors import UserError

LONGEST = 30.0
"""Seconds of the longest speech that the models were trained on, as in Emilia, prompt and all."""

SHORTEST_CHUNK = 8.0
"""Seconds of the shortest chunk of a source; the overlap of two chunks takes two of them."""


Preset: TypeAlias = Literal["released", "balanced", "fast"]

PRESETS: Mapping[Preset, tuple[float, tuple[int, ...]]] = {
    "released": (1.0, (40, 16, 1)),
    "balanced": (0.5, (20, 8, 1)),
    "fast": (0.25, (5, 2, 1)),
}
"""Share of the released steps of stage 1, and the steps of stage 2's layers; for their choice see docs/speed.md."""


@dataclass(frozen=True)
class Sampling:
    """Settings of one decoding; the defaults are those of the released stage-1 code.

    temperature: of the tokens' Gumbel noise at the first step; it falls linearly to 0.
    confidence_temperature: of the noise on the confidences that choose what stays, falling likewise.
    filter_threshold: only the ceil((1 - threshold) · V) likeliest tokens may be drawn.
    guidance_scale, guidance_rescale: see `guidance.guide`.
    remasks: tokens that stayed are masked again where later ones are likelier; the released code leaves them.
    """

    num_steps: int = 10
    temperature: float = 0.9
    confidence_temperature: float = 1.0
    filter_threshold: float = 0.98
    guidance_scale: float = 0.0
    guidance_rescale: float = 0.75
    remasks: bool = False

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not 0 <= self.filter_threshold < 1:
            raise ValueError(f"filter_threshold must lie in [0, 1), got {self.filter_threshold}")


class Options(TypedDict, total=False):
    """A preset and single settings, as a caller names them; see `Settings.chosen`."""

    preset: Preset
    num_steps: int
    guidance_scale: float
    temperature: float
    stage2_steps: tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """How both stages decode; the defaults are those of the released Metis scripts.

    stage1, stage2: sampling of SSL tokens and of acoustic tokens; the latter's `num_steps` is not used, and its
        temperature is each model's own (`SemanticToAcousticConfig`).
    stage2_steps: steps of the quantizer layers from the first on; the last number is of all that follow.
    first_layer_guidance: guidance scale of the first quantizer layer's own model (MaskGCT's scripts: 2.5).
    """

    stage1: Sampling = field(default_factory=Sampling)
    stage2: Sampling = field(default_factory=lambda: Sampling(guidance_scale=2.5))
    stage2_steps: tuple[int, ...] = (40, 16, 1)
    first_layer_guidance: float = 0.0

    def layer_steps(self, num_quantizers: int) -> list[int]:
        """Return the steps of each of Q layers."""
        return [*self.stage2_steps, *self.stage2_steps[-1:] * num_quantizers][:num_quantizers]

    def described(self) -> dict[str, Any]:
        """Return all that decides as plain values; what does not mask again is as before there was a choice."""
        content = asdict(self)
        for stage in (content["stage1"], content["stage2"]):
            if not stage["remasks"]:
                del stage["remasks"]
        return content

    def chosen(self, options: Options) -> Settings:
        """Return these settings with the steps of a preset and single ones replaced: stage 1's, and stage 2's steps.

        A `UserError` if there is no such preset, a number of steps is below 1, or a scale or a temperature is negative
        or not finite.
        """
        if (preset := options.get("preset", "released")) not in PRESETS:
            raise UserError(f"preset {preset!r}: choose one of {', '.join(PRESETS)}")
        share, preset_steps = PRESETS[preset]
        own = ("preset", "stage2_steps")
        changes: dict[str, Any] = {"num_steps": max(1, round(share * self.stage1.num_steps))}
        changes |= {name: value for name, value in options.items() if name not in own}
        for name, value in changes.items():
            least = 1 if name == "num_steps" else 0
            if not least <= value < math.inf:
                raise UserError(f"a {name} of {value} is asked for; give a number from {least} on")
        # As released are these settings themselves, whatever they are.
        steps = tuple(options.get("stage2_steps", self.stage2_steps if preset == "released" else preset_steps))
        if min(steps, default=0) < 1:
            raise UserError(f"stage2_steps {steps} are asked for; give numbers of at least 1, layer by layer")
        return replace(self, stage1=replace(self.stage1, **changes), stage2_steps=steps)
