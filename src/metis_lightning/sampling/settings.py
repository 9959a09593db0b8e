"""How both stages decode, and what the released scripts of each task set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypedDict

from metis_lightning.errors import UserError
from metis_lightning.sampling.mask_predict import Sampling
from metis_lightning.sampling.request import Request


class Options(TypedDict, total=False):
    """Single settings, as a caller names them; see `Settings.chosen`."""

    num_steps: int
    guidance_scale: float
    temperature: float
    stage2_steps: tuple[int, int, int]


@dataclass(frozen=True)
class Settings:
    """How both stages decode; the defaults are those of the released Metis scripts.

    stage1: sampling of the SSL tokens.
    stage2: sampling of the acoustic tokens; its `num_steps` is not used.
    stage2_steps: steps of the first quantizer layer, of the second, and of each other one.
    first_layer_guidance: `stage2`'s guidance scale for the first quantizer layer, which has a model of its own
        (MaskGCT's scripts guide it by 2.5 as the others).
    """

    stage1: Sampling = field(default_factory=Sampling)
    stage2: Sampling = field(default_factory=lambda: Sampling(temperature=1.5, guidance_scale=2.5))
    stage2_steps: tuple[int, int, int] = (40, 16, 1)
    first_layer_guidance: float = 0.0

    def layer_steps(self, num_quantizers: int) -> list[int]:
        """Return the steps of each of Q layers."""
        first, second, other = self.stage2_steps
        return [first, second, *[other] * num_quantizers][:num_quantizers]

    def chosen(self, options: Options) -> Settings:
        """Return these settings with single ones replaced: stage 1's, and the steps of stage 2.

        Raises:
            UserError: if a number of steps is below 1, or a scale or a temperature is negative or not finite.
        """
        if (num_steps := options.get("num_steps", 1)) < 1:
            raise UserError(f"num_steps {num_steps} is asked for; give at least 1")
        steps = tuple(options.get("stage2_steps", self.stage2_steps))
        stage1 = replace(
            self.stage1,
            num_steps=options.get("num_steps", self.stage1.num_steps),
            guidance_scale=options.get("guidance_scale", self.stage1.guidance_scale),
            temperature=options.get("temperature", self.stage1.temperature),
        )
        if len(steps) != 3 or min(steps) < 1:
            raise UserError(f"stage2_steps {steps} are asked for; give three numbers of at least 1")
        for name, value in {"guidance_scale": stage1.guidance_scale, "temperature": stage1.temperature}.items():
            if not 0 <= value < math.inf:
                raise UserError(f"a {name} of {value} is asked for; give a number from 0 on")
        return replace(self, stage1=stage1, stage2_steps=steps)


TSE_SETTINGS = Settings(stage1=Sampling(num_steps=10, guidance_scale=0.0))
SE_SETTINGS = Settings(stage1=Sampling(num_steps=10, guidance_scale=0.0))
# The paper's table 2 has a guidance of 0 and of 2.
VC_SETTINGS = Settings(stage1=Sampling(num_steps=20, guidance_scale=1.0))
TTS_SETTINGS = Settings(stage1=Sampling(num_steps=25, guidance_scale=2.5))
# The script of L2S was not released; these are the defaults of the method that it calls.
L2S_SETTINGS = Settings(stage1=Sampling(num_steps=25, guidance_scale=0.0))

SETTINGS: Mapping[str, Settings] = {
    "tse": TSE_SETTINGS,
    "se": SE_SETTINGS,
    "vc": VC_SETTINGS,
    "tts": TTS_SETTINGS,
    "l2s": L2S_SETTINGS,
}
"""The released settings by task."""


def settings_for(request: Request) -> Settings:
    """Return the released settings of a request's task; of another task, those of the task with such a request."""
    if request.task in SETTINGS:
        return SETTINGS[request.task]
    if request.features is not None:
        return L2S_SETTINGS
    return TSE_SETTINGS if request.source is not None or not request.phones else TTS_SETTINGS
