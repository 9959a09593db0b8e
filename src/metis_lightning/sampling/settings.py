"""How both stages decode, and what the released scripts of each task set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from metis_lightning.sampling.mask_predict import Sampling
from metis_lightning.sampling.request import Request


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
