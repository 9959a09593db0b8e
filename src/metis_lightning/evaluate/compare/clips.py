"""An utterance with the sound and the pictures of every system.

Shape letters: S samples, M mel bands, F frames.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from metis_lightning.errors import UserError
from metis_lightning.evaluate.html.spectrogram import difference, log_mel
from metis_lightning.evaluate.results.comparison import Entry, Utterance
from metis_lightning.types import WAVE_RATE

REFERENCE = "target"
"""The system whose spectrogram is subtracted, where it is among those compared; else it is the first."""

MAX_SECONDS = 30
"""What is longer is cut, so that one file cannot fill the page."""


@dataclass(frozen=True)
class Clip:
    """One system's speech: `wave` (S,) at 24 kHz, `mel` (M, F) in dB, `difference` (M, F') in dB from the reference."""

    wave: Tensor
    mel: np.ndarray
    difference: np.ndarray | None
    is_cut: bool


@dataclass(frozen=True)
class Heard:
    """An utterance with the clip of each system that has one, and with why the others have none.

    `top` is the loudest decibel of all clips: pictures of one utterance share their scale.
    """

    utterance: Utterance
    clips: Mapping[str, Clip]
    missing: Mapping[str, str]
    top: float


def hear(utterance: Utterance, systems: Sequence[str], read: Callable[[Path], Tensor]) -> Heard:
    """Read what every system made of an utterance; `read` returns the samples (S,) of a file at 24 kHz."""
    waves: dict[str, Tensor] = {}
    missing: dict[str, str] = {}
    for system in systems:
        found = _read(utterance.entries.get(system), read)
        if isinstance(found, str):
            missing[system] = found
        else:
            waves[system] = found
    limit = MAX_SECONDS * WAVE_RATE
    mels = {system: log_mel(wave[:limit]) for system, wave in waves.items()}
    reference = REFERENCE if REFERENCE in systems else systems[0]
    clips = {
        system: Clip(wave[:limit], mels[system], _from(mels, system, reference), len(wave) > limit)
        for system, wave in waves.items()
    }
    return Heard(utterance, clips, missing, max((float(mel.max()) for mel in mels.values()), default=0.0))


def _read(entry: Entry | None, read: Callable[[Path], Tensor]) -> Tensor | str:
    """Return the samples of an entry, or why there are none."""
    if entry is None:
        return "this system does not have the utterance"
    if entry.wav is None:
        return entry.missing or "no audio file"
    try:
        return read(entry.wav)
    except UserError:
        return "the audio file cannot be read"


def _from(mels: Mapping[str, np.ndarray], system: str, reference: str) -> np.ndarray | None:
    """Return a spectrogram minus the reference's; None for the reference itself, or without one to subtract."""
    if system == reference or reference not in mels:
        return None
    return difference(mels[system], mels[reference])
