"""Perturbs speed: each utterance also as a tape played faster or slower, a voice of its own.

From Ko et al., "Audio Augmentation for Speech Recognition" (Interspeech 2015); ids and speakers are prefixed as there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from metis_lightning.data.media.audio import resample
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Utterance


def check_speeds(speeds: Sequence[float]) -> None:
    """Refuse a list of speeds that is empty, or in which one is not positive or occurs twice, by a UserError."""
    if not speeds or min(speeds) <= 0 or len(set(speeds)) < len(speeds):
        raise UserError(f"`speeds` must be positive and differ from each other, got {list(speeds)}; e.g. [0.9, 1.0]")


def speed_prefix(speed: float) -> str:
    """Return what ids and speakers begin with at a speed: `sp0.9-`, and nothing at 1."""
    return "" if speed == 1 else f"sp{speed:g}-"


def utterance_at_speed(utterance: Utterance, speed: float) -> Utterance:
    """Return the record of an utterance at a speed: itself at 1, else one of another id, speaker and duration.

    Pitch and formants move with the tempo, so the voice is another one. Audio is not touched: `SpeechCorpus` does it on
    reading.
    """
    if speed == 1:
        return utterance
    prefix = speed_prefix(speed)
    return replace(
        utterance,
        id=prefix + utterance.id,
        speaker=prefix + utterance.speaker,
        seconds=utterance.seconds / speed,
        speed=speed,
    )


def wave_at_speed(wave: Tensor, speed: float) -> Tensor:
    """Return a (S,) float32 wave at 24 kHz played at `speed`: (about S / speed,) float32 at 24 kHz."""
    return wave if speed == 1 else resample(wave.numpy(), WAVE_RATE * speed, WAVE_RATE)
