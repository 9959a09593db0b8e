"""Speed perturbation: each utterance also as a tape played faster or slower, a voice of its own.

From Ko et al., "Audio Augmentation for Speech Recognition" (Interspeech 2015); ids and speakers are prefixed as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import soxr
import torch
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Utterance


def check_speeds(speeds: Sequence[float]) -> None:
    """Refuse what is no list of speeds.

    Raises:
        UserError: if there is none, one is not positive or one occurs twice.
    """
    if not speeds or min(speeds) <= 0 or len(set(speeds)) < len(speeds):
        raise UserError(f"`speeds` must be positive and differ from each other, got {list(speeds)}; e.g. [0.9, 1.0]")


def utterance_at_speed(utterance: Utterance, speed: float) -> Utterance:
    """Return the record of an utterance at a speed: itself at 1, else one of another id, speaker and duration.

    `sp0.9-ada` for `ada` at 0.9: pitch and formants move with the tempo, so the voice is another one. Audio is not
    touched: `SpeechCorpus` does it on reading.
    """
    if speed == 1:
        return utterance
    return replace(
        utterance,
        id=f"sp{speed:g}-{utterance.id}",
        speaker=f"sp{speed:g}-{utterance.speaker}",
        seconds=utterance.seconds / speed,
        speed=speed,
    )


def at_speed(wave: Tensor, speed: float) -> Tensor:
    """Return a (S,) float32 wave at 24 kHz played at `speed`: (about S / speed,) float32 at 24 kHz."""
    if speed == 1:
        return wave
    faster = soxr.resample(wave.numpy(), WAVE_RATE * speed, WAVE_RATE, quality="HQ")
    return torch.from_numpy(np.ascontiguousarray(faster, dtype=np.float32))
