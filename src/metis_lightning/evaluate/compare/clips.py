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
from metis_lightning.evaluate.html.spectrogram import log_mel, mel_difference
from metis_lightning.evaluate.results.comparison import ComparedUtterance
from metis_lightning.types import WAVE_RATE

# The system whose spectrogram is subtracted, where it is among those compared; else it is the first.
REFERENCE = "target"

# What is longer is cut, so that one file cannot fill the page.
MAX_CLIP_SECONDS = 30


@dataclass(frozen=True)
class SystemClip:
    """One system's speech: `wave` (S,) at 24 kHz, `mel` (M, F) in dB, `difference` (M, F') in dB from the reference."""

    wave: Tensor
    mel: np.ndarray
    difference: np.ndarray | None
    is_cut: bool


@dataclass(frozen=True)
class ClipSet:
    """An utterance with the clip of each system that has one, and with why the others have none.

    `top` is the loudest decibel of all clips: pictures of one utterance share their scale.
    """

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
        if entry is None or entry.wav is None:
            lacking = "this system does not have the utterance"
            missing[system] = lacking if entry is None else entry.missing or "no audio file"
            continue
        try:
            waves[system] = read(entry.wav)
        except UserError:
            missing[system] = "the audio file cannot be read"
    # Pictures are of what is heard, so both are cut alike.
    limit = MAX_CLIP_SECONDS * WAVE_RATE
    mels = {system: log_mel(wave[:limit]) for system, wave in waves.items()}
    reference = REFERENCE if REFERENCE in systems else systems[0]
    clips = {}
    for system, wave in waves.items():
        is_compared = system != reference and reference in mels
        change = mel_difference(mels[system], mels[reference]) if is_compared else None
        clips[system] = SystemClip(wave[:limit], mels[system], change, len(wave) > limit)
    return ClipSet(utterance, clips, missing, max((float(mel.max()) for mel in mels.values()), default=0.0))
