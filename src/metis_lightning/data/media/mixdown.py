"""Mixes LibriMix from LibriSpeech and WHAM! files, as its published metadata fixes it.

Each source times its gain, resampled by `scipy.signal.resample_poly` from 16 kHz, cut to the shortest ("min") or padded
to the longest ("max"), noise included, and added up (Cosentino et al., 2005.11262; github.com/JorisCos/LibriMix).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from metis_lightning.data.media.audio import decode
from metis_lightning.data.media.storage import location_stamp, read_bytes
from metis_lightning.errors import UserError
from metis_lightning.types import AudioSource

# Sample rate in Hz of LibriSpeech and of the WHAM! noises that LibriMix takes.
LIBRIMIX_RATE = 16_000
MODES = ("min", "max")
# Half a second of a Hann window, by which LibriMix joins the repetitions of a noise.
_FADE = LIBRIMIX_RATE // 2 + 1


class MixPart(NamedTuple):
    """A file, local or a URL, and its gain as a factor."""

    path: str
    gain: float


@dataclass(frozen=True)
class Mixdown(AudioSource):
    """The sum of some of a mixture's parts, made when it is read; a ValueError if it cannot be made.

    parts: so many `voices`, in the order of the metadata, and maybe a noise after them.
    sample_rate: of the result, in Hz; its mode is "min" or "max".
    take: which parts are summed, counted from 0: (0,) is the first source, (0, 1) the clean mixture of two.
    """

    parts: tuple[MixPart, ...]
    voices: int
    sample_rate: int
    mode: str
    take: tuple[int, ...]

    def __post_init__(self) -> None:
        if (
            self.mode not in MODES
            or not 0 < self.sample_rate <= LIBRIMIX_RATE
            or not all(math.isfinite(part.gain) for part in self.parts)
            or len(self.take) > len(self.parts)
            or not all(0 <= number < len(self.parts) for number in self.take)
        ):
            raise ValueError(str(vars(self)))

    def frames(self) -> tuple[np.ndarray, int]:
        """Return (S, 1) float32 and the sample rate; a UserError if a file cannot be read or is not at 16 kHz."""
        waves = _scaled_waves(self.parts, self.voices, self.sample_rate, self.mode)
        taken = np.stack([waves[number] for number in self.take], axis=1)
        return taken.sum(axis=1, keepdims=True, dtype=np.float32), self.sample_rate

    def stamp(self) -> str:
        """Return the stamps of the parts' files, and the rule by which they are mixed."""
        return self._described(location_stamp)

    def digest(self) -> str:
        """Return the SHA-256 of the parts' bytes and of the rule by which they are mixed."""
        return hashlib.sha256(self._described(_bytes_digest).encode()).hexdigest()

    def _described(self, name: Callable[[str], str]) -> str:
        parts = "|".join(f"{name(part.path)}*{part.gain!r}" for part in self.parts)
        return f"{parts}|{self.sample_rate}|{self.mode}|{self.take}"

    def __str__(self) -> str:
        return "+".join(self.parts[number].path for number in self.take)


# A mixture and its sources are read one after the other.
@lru_cache(maxsize=4)
def _scaled_waves(parts: tuple[MixPart, ...], voices: int, sample_rate: int, mode: str) -> tuple[np.ndarray, ...]:
    """Return the parts (S,) of a mixture as they are added."""
    waves = []
    for path, _ in parts:
        frames, rate = decode(read_bytes(path), path)
        if rate != LIBRIMIX_RATE:
            raise UserError(f"{path}: at {rate} Hz; LibriMix is made of files at {LIBRIMIX_RATE} Hz")
        waves.append(frames[:, 0])
    longest = max(map(len, waves[:voices]))
    waves[voices:] = [lengthen(noise[:longest], longest) for noise in waves[voices:]]
    scaled = [wave * np.float32(part.gain) for wave, part in zip(waves, parts, strict=True)]
    if sample_rate != LIBRIMIX_RATE:
        from scipy.signal import resample_poly

        scaled = [resample_poly(wave, sample_rate, LIBRIMIX_RATE) for wave in scaled]
    return tuple(fit(scaled, mode))


def fit(waves: Sequence[np.ndarray], mode: str) -> list[np.ndarray]:
    """Cut waves (S,) to the shortest ("min"), or pad them with zeros to the longest ("max").

    >>> [wave.tolist() for wave in fit([np.ones(2), np.ones(1)], "max")]
    [[1.0, 1.0], [1.0, 0.0]]
    """
    if mode == "min":
        return [wave[: min(map(len, waves))] for wave in waves]
    longest = max(map(len, waves))
    return [np.pad(wave, (0, longest - len(wave))) for wave in waves]


def lengthen(noise: np.ndarray, samples: int) -> np.ndarray:
    """Repeat a noise (S,), of at least half a second, until it has `samples`, each time faded into itself."""
    if len(noise) >= samples:
        return noise[:samples]
    if len(noise) <= _FADE:
        seconds = len(noise) / LIBRIMIX_RATE
        raise UserError(f"a noise of {seconds:.2f} s is too short to be repeated: at least 0.5 s are needed")
    rise = (0.5 - 0.5 * np.cos(np.pi * np.arange(_FADE) / (_FADE - 1))).astype(noise.dtype)
    longer = noise
    while len(longer) < samples:
        seam = longer[-_FADE:] * rise[::-1] + noise[:_FADE] * rise
        longer = np.concatenate([longer[:-_FADE], seam, noise[_FADE:]])
    return longer[:samples]


# The voices of a mixture, its sources and their enrollments are made of the same few files.
@lru_cache(maxsize=16)
def _bytes_digest(path: str) -> str:
    return hashlib.sha256(read_bytes(path)).hexdigest()
