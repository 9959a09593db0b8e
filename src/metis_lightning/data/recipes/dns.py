"""Noisy-clean training pairs by the rules of the DNS Challenge's synthesizer, made on the fly.

From its published configuration (github.com/microsoft/DNS-Challenge, branch interspeech2020; Reddy et al., 2005.13981).
Everything happens at 16 kHz; draws come from the item's generator instead of a global one. Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.signal import fftconvolve, lfilter
from torch import Tensor

from metis_lightning.data.manifest.corpus import SpeechCorpus, read_listed
from metis_lightning.data.media.audio import read_audio, resample
from metis_lightning.data.recipes.noises import Recordings
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem, draw_coin, draw_int
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE

_TRIES = 50
_EPS = float(np.finfo(float).eps)
_NORMAL_DB = -25.0


@dataclass(frozen=True)
class DnsRules:
    """The synthesizer's settings; the defaults are those of 2020.

    seconds: of a clip, filled with recordings and `silence` seconds between them; a longer recording is cropped.
    snr_range: dB, a whole number from the first to below the second. Later editions: (-5, 20).
    level_range: RMS of the noisy clip in dBFS, drawn likewise.
    min_activity: least share of the clean clip that must be active.
    clip: recordings above this are passed over, and noisy clips above it are lowered.
    sample_rate: in Hz.
    """

    seconds: float = 30.0
    silence: float = 0.2
    snr_range: tuple[int, int] = (0, 40)
    level_range: tuple[int, int] = (-35, -15)
    min_activity: float = 0.6
    clip: float = 0.99
    sample_rate: int = 16_000

    def __post_init__(self) -> None:
        for name, (low, high) in {"snr_range": self.snr_range, "level_range": self.level_range}.items():
            if low >= high:
                raise ValueError(f"{name}: {low} must be less than {high}")


class DnsRecipe(Recipe):
    """Pairs for speech enhancement: an utterance and others after it, in noise and, at times, in a room."""

    def __init__(
        self,
        noise_root: Path,
        rir_root: Path | None = None,
        rules: DnsRules = DnsRules(),  # noqa: B008  frozen
        rir_chance: float = 0.5,
        dry_target: bool = True,
    ) -> None:
        """Name the folders.

        Args:
            noise_root: folder with wav or flac files of noise, at any depth.
            rir_root: folder with room responses, or None for no rooms; of several microphones the first is heard.
            rules: of the synthesis.
            rir_chance: how often there is a room; the challenge leaves it to the user's lists.
            dry_target: the target is the direct path alone, so that the model removes reverberation as Metis does. The
                challenge's own target keeps it.
        """
        self.noises, self.rules = Recordings(noise_root), rules
        self.rooms = None if rir_root is None else Recordings(rir_root)
        self.rir_chance, self.dry_target = rir_chance, dry_target

    def __call__(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> SpeechItem:
        """Return the clean clip as `wave`, the noisy one as `source`."""
        clean = self._clean(corpus, index, generator)
        noise = build_clip(lambda _: self._recording(self.noises, generator), len(clean), self.rules, generator)
        heard, target, room = self._room(clean, generator)
        snr_db, level_db = (low + draw_int(high - low, generator) for low, high in self._ranges())
        noisy, scale = mix_levels(heard, noise, snr_db, level_db, self.rules.clip)
        utterance = corpus.utterances[index]
        return SpeechItem(
            id=utterance.id,
            speaker=utterance.speaker,
            text="",
            wave=self._to_wave(target * scale),
            source=self._to_wave(noisy),
            prompt_length=0,
            applied={"snr_db": float(snr_db), "level_db": float(level_db), **room},
        )

    def recordings(self) -> Sequence[Recordings]:
        """Return the folders of noises and rooms."""
        return [self.noises] if self.rooms is None or not self.rir_chance else [self.noises, self.rooms]

    def seconds(self, corpus: SpeechCorpus, index: int) -> float:
        """Return the length of every clip."""
        return self.rules.seconds

    def _ranges(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.rules.snr_range, self.rules.level_range

    def _clean(self, corpus: SpeechCorpus, index: int, generator: torch.Generator) -> np.ndarray:
        """Return a clip that starts with utterance `index` and is active enough."""

        def speech(number: int) -> np.ndarray:
            chosen = index if number == 0 else draw_int(len(corpus), generator)
            utterance = corpus.utterances[chosen]
            return read_listed(utterance.path, utterance, self.rules.sample_rate).numpy()

        samples = round(self.rules.seconds * self.rules.sample_rate)
        for _ in range(_TRIES):
            clip = build_clip(speech, samples, self.rules, generator)
            if active_share(clip, self.rules.sample_rate) > self.rules.min_activity:
                return clip
        raise UserError(
            f"utterance {corpus.utterances[index].id!r}: {_TRIES} clips that start with it are active for less than "
            f"{self.rules.min_activity:.0%}; leave silent files out or lower rules.min_activity"
        )

    def _recording(self, recordings: Recordings, generator: torch.Generator) -> np.ndarray:
        path = recordings.paths[draw_int(len(recordings.paths), generator)]
        return read_audio(path, self.rules.sample_rate, channel=0).numpy()

    def _room(
        self, clean: np.ndarray, generator: torch.Generator
    ) -> tuple[np.ndarray, np.ndarray, dict[str, float | str]]:
        """Return the clip as heard in a room, or as it is; the target; and whether there is a room."""
        if self.rooms is None or not draw_coin(self.rir_chance, generator):
            return clean, clean, {}
        response = self._recording(self.rooms, generator)
        heard = fftconvolve(clean, response)[: len(clean)]
        return heard, direct_path(clean, response) if self.dry_target else heard, {"room": "recorded"}

    def _to_wave(self, clip: np.ndarray) -> Tensor:
        return resample(clip.astype(np.float32), self.rules.sample_rate, WAVE_RATE)


def build_clip(
    draw: Callable[[int], np.ndarray], samples: int, rules: DnsRules, generator: torch.Generator
) -> np.ndarray:
    """Return `samples` samples of recordings one after the other, with silence between them.

    A recording longer than what is missing is cropped at a random place; clipped ones are passed over.

    Args:
        draw: the recording (S,) of a given attempt, from 0.
        samples: of the clip.
        rules: of the synthesis.
        generator: of the crops.

    Raises:
        UserError: if 50 recordings were clipped.
    """
    clip, filled, refused, attempt = np.zeros(samples), 0, 0, 0
    while filled < samples:
        recording, attempt = draw(attempt), attempt + 1
        if (spare := len(recording) - (samples - filled)) > 0:
            start = draw_int(spare, generator)
            recording = recording[start : start + samples - filled]
        if np.abs(recording).max() > rules.clip:
            refused += 1
            if refused == _TRIES:
                raise UserError(f"{_TRIES} recordings in a row are clipped (above {rules.clip}); check the folders")
            continue
        clip[filled : filled + len(recording)] = recording
        filled += len(recording) + round(rules.silence * rules.sample_rate)
    return clip


def mix_levels(
    clean: np.ndarray, noise: np.ndarray, snr_db: float, level_db: float, clip: float = 0.99
) -> tuple[np.ndarray, float]:
    """Add noise to clean speech (S,) at an SNR, the sum at an RMS level in dBFS unless it would clip.

    Returns:
        The noisy clip (S,), and the factor that the clean clip has in it.

    Raises:
        UserError: if either is silent.
    """
    if not clean.any() or not noise.any():
        raise UserError("silent speech or noise has no signal-to-noise ratio; leave silent files out")
    clean_gain = 10 ** (_NORMAL_DB / 20) / (_rms(clean) + _EPS)
    noise_gain = 10 ** ((_NORMAL_DB - snr_db) / 20) / (_rms(noise) + _EPS)
    noisy = clean * clean_gain + noise * noise_gain
    scale = 10 ** (level_db / 20) / (_rms(noisy) + _EPS)
    peak = float(np.abs(noisy).max()) * scale
    scale *= clip / peak if peak > clip else 1.0
    return noisy * scale, clean_gain * scale


def active_share(wave: np.ndarray, sample_rate: int) -> float:
    """Return the share of 50 ms windows of a wave (S,), at -25 dBFS, whose smoothed energy passes 0.13.

    The energy of a window goes through a logistic function; it rises into the average fast (0.8) and falls slowly
    (0.05).
    """
    window = round(0.05 * sample_rate)
    scaled = wave * (10 ** (_NORMAL_DB / 20) / (_rms(wave) + _EPS))
    padded = np.pad(scaled, (0, -len(scaled) % window)).reshape(-1, window)
    energy_db = 20 * np.log10(np.square(padded).sum(axis=1) + _EPS)
    now = 1 / (1 + np.exp(1 - 0.2 * energy_db))
    # The window before, not its average, is what each window is smoothed with.
    before = lfilter([0.0, 1.0], [1.0], now)
    weight = np.where(now > before, 0.8, 0.05)
    return float((now * weight + before * (1 - weight) > 0.13).mean())


def direct_path(clean: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return a wave (S,) with the delay and the gain of a room response's largest sample, its direct path."""
    delay = int(np.abs(response).argmax())
    return np.concatenate([np.zeros(delay), clean])[: len(clean)] * response[delay]


def _rms(wave: np.ndarray) -> float:
    return float(np.sqrt(np.square(wave.astype(np.float64)).mean()))
