"""The clips of an utterance: the sound and the pictures of every system.

Shape letters: S samples, M mel bands, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.document import HOP_LENGTH, coloured, log_mel
from metis_lightning.evaluate.results.comparison import ComparedUtterance
from metis_lightning.types import WAVE_RATE

# The system whose spectrogram is subtracted, where it is among those compared; else it is the first.
REFERENCE = "target"
# What is longer is cut, so that one file cannot fill the page.
MAX_CLIP_SECONDS = 30
# Decibels at which a difference has its full colour.
DIFFERENCE_RANGE = 30.0
# Seconds, as for the metrics that need a reference.
_MAX_LENGTH_DIFFERENCE = 0.1


@dataclass(frozen=True)
class SystemClip:
    """One system's speech: `wave` (S,) at 24 kHz, `mel` (M, F) in dB, `difference` (M, F') in dB from the reference."""

    wave: Tensor
    mel: np.ndarray
    difference: np.ndarray | None
    is_cut: bool


@dataclass(frozen=True)
class ClipSet:
    """An utterance with the clip of each system that has one, or why not; `top` is the loudest decibel of all clips."""

    utterance: ComparedUtterance
    clips: Mapping[str, SystemClip]
    missing: Mapping[str, str]
    top: float


def read_clips(utterance: ComparedUtterance, systems: Sequence[str], read: Callable[[Path], Tensor]) -> ClipSet:
    """Read the outputs of all systems for an utterance; `read` returns the samples (S,) of a file at 24 kHz."""
    waves: dict[str, Tensor] = {}
    missing: dict[str, str] = {}
    for system in systems:
        entry = utterance.entries.get(system)
        if entry is None:
            missing[system] = "this system does not have the utterance"
        elif entry.wav is None:
            missing[system] = entry.missing or "no audio file"
        else:
            try:
                waves[system] = read(entry.wav)
            except UserError:
                missing[system] = "the audio file cannot be read"
    # Pictures are of the sound in the players, so both are cut alike; those of one utterance share their scale.
    limit = MAX_CLIP_SECONDS * WAVE_RATE
    mels = {system: log_mel(wave[:limit]) for system, wave in waves.items()}
    reference = REFERENCE if REFERENCE in systems else systems[0]
    clips = {}
    for system, wave in waves.items():
        is_compared = system != reference and reference in mels
        change = mel_difference(mels[system], mels[reference]) if is_compared else None
        clips[system] = SystemClip(wave[:limit], mels[system], change, len(wave) > limit)
    return ClipSet(utterance, clips, missing, max((float(mel.max()) for mel in mels.values()), default=0.0))


def mel_difference(mel: np.ndarray, reference: np.ndarray) -> np.ndarray | None:
    """Return `mel` minus `reference`, cropped to the shorter; None if they are not of one length within 0.1 s.

    >>> mel_difference(np.ones((1, 3)), np.zeros((1, 4))).shape, mel_difference(np.ones((1, 30)), np.zeros((1, 4)))
    ((1, 3), None)
    """
    if abs(mel.shape[1] - reference.shape[1]) * HOP_LENGTH > _MAX_LENGTH_DIFFERENCE * WAVE_RATE:
        return None
    frames = min(mel.shape[1], reference.shape[1])
    return mel[:, :frames] - reference[:, :frames]


def difference_picture(values: np.ndarray) -> np.ndarray:
    """Return a difference (M, F) in dB as an image (M, F, 3) of bytes: red where there is more, blue where less."""
    return coloured("RdBu_r", 0.5 + values / (2 * DIFFERENCE_RANGE))
