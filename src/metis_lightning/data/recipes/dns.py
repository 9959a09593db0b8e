"""Noisy-clean training pairs by the rules of the DNS Challenge's synthesizer, made on the fly.

From its published configuration (github.com/microsoft/DNS-Challenge, branch interspeech2020; Reddy et al., 2005.13981).
Everything happens at 16 kHz. Shape letters: S samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path

import numpy as np
from torch import Generator

from metis_lightning.data.manifest.corpus import SpeechCorpus, read_listed
from metis_lightning.data.media.audio import resample
from metis_lightning.data.recipes.recipe import Recipe, SpeechItem, draw_coin, draw_int
from metis_lightning.data.recipes.se import RecordingFolder
from metis_lightning.errors import UserError
from metis_lightning.types import WAVE_RATE, Applied

# Clips, or recordings in a row, that are refused before the corpus is held to be at fault.
_TRIES = 50
_EPS = float(np.finfo(float).eps)
# Level in dBFS that speech and noise are brought to before they are mixed, and at which activity is judged.
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
            rir_root: folder with room responses, or None for no rooms; of several microphones the first is taken.
            rules: of the synthesis.
            rir_chance: how often there is a room; the challenge leaves it to the user's lists.
            dry_target: the target is the direct path alone, so that the model removes reverberation as Metis does. The
                challenge's own target keeps it.
        """
        self.noises, self.rules = RecordingFolder(Path(noise_root)), rules
        self.rooms = None if rir_root is None else RecordingFolder(Path(rir_root))
        self.rir_chance, self.dry_target = rir_chance, dry_target

    def __call__(self, corpus: SpeechCorpus, index: int, generator: Generator) -> SpeechItem:
        """Return the clean clip as `wave`, the noisy one as `source`."""
        rate, samples = self.rules.sample_rate, round(self.rules.seconds * self.rules.sample_rate)
        for _ in range(_TRIES):
            # The utterance itself, and any others after it, each drawn when it is its turn.
            indices = chain([index], (draw_int(len(corpus), generator) for _ in count()))
            utterances = (corpus.utterances[chosen] for chosen in indices)
            speech = (read_listed(utterance.path, utterance, rate).numpy() for utterance in utterances)
            clean = build_clip(speech, samples, self.rules, generator)
            if active_share(clean, rate) > self.rules.min_activity:
                break
        else:
            raise UserError(
                f"utterance {corpus.utterances[index].id!r}: {_TRIES} clips that start with it are active for less "
                f"than {self.rules.min_activity:.0%}; leave silent files out or lower rules.min_activity"
            )
        noises = (self.noises.draw(generator, sample_rate=rate)[0].numpy() for _ in count())
        noise = build_clip(noises, samples, self.rules, generator)
        reverberant, target, room = clean, clean, dict[str, str]()
        if self.rooms is not None and draw_coin(self.rir_chance, generator):
            response = self.rooms.draw(generator, sample_rate=rate)[0].numpy()
            from scipy.signal import fftconvolve

            reverberant = fftconvolve(clean, response)[: len(clean)]
            target = direct_path(clean, response) if self.dry_target else reverberant
            room = {"room": "recorded"}
        ranges = (self.rules.snr_range, self.rules.level_range)
        snr_db, level_db = (low + draw_int(high - low, generator) for low, high in ranges)
        noisy, scale = mix_levels(reverberant, noise, snr_db, level_db, self.rules.clip)
        wave, source = (resample(clip.astype(np.float32), rate, WAVE_RATE) for clip in (target * scale, noisy))
        applied: Applied = {"snr_db": float(snr_db), "level_db": float(level_db), **room}
        # Several utterances follow one another: no one text is said.
        return SpeechItem.of(corpus.utterances[index], wave, text="", source=source, prompt_length=0, applied=applied)

    def recordings(self) -> Sequence[RecordingFolder]:
        """Return the folders of noises and rooms."""
        if self.rooms is None or not self.rir_chance:
            return [self.noises]
        return [self.noises, self.rooms]

    def seconds(self, corpus: SpeechCorpus, index: int, generator: Generator | None = None) -> float:
        """Return the length of every clip."""
        return self.rules.seconds


def build_clip(recordings: Iterator[np.ndarray], samples: int, rules: DnsRules, generator: Generator) -> np.ndarray:
    """Return `samples` samples of endless recordings (S,) one after the other, with silence between them.

    One longer than what is missing is cropped at a random place; clipped ones are passed over. A UserError if 50
    recordings were clipped.
    """
    clip, filled, refused = np.zeros(samples), 0, 0
    while filled < samples:
        recording = next(recordings)
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

    Returns the noisy clip (S,) and the factor of the clean one in it; a UserError if either is silent.
    """
    if not clean.any() or not noise.any():
        raise UserError("silent speech or noise has no signal-to-noise ratio; leave silent files out")
    clean_gain = _level_gain(clean, _NORMAL_DB)
    noisy = clean * clean_gain + noise * _level_gain(noise, _NORMAL_DB - snr_db)
    # The level is that of the sum, short of clipping, and the clean clip follows it.
    scale = _level_gain(noisy, level_db)
    peak = float(np.abs(noisy).max()) * scale
    scale *= clip / peak if peak > clip else 1.0
    return noisy * scale, clean_gain * scale


def active_share(wave: np.ndarray, sample_rate: int) -> float:
    """Return the share of 50 ms windows of a wave (S,), at -25 dBFS, whose smoothed energy passes 0.13.

    It goes through a logistic function, and rises into the average fast (0.8) and falls slowly (0.05).
    """
    window = round(0.05 * sample_rate)
    scaled = wave * _level_gain(wave, _NORMAL_DB)
    padded = np.pad(scaled, (0, -len(scaled) % window)).reshape(-1, window)
    energy_db = 20 * np.log10(np.square(padded).sum(axis=1) + _EPS)
    now = 1 / (1 + np.exp(1 - 0.2 * energy_db))
    # The window before, not its average, is what each window is smoothed with.
    before = np.pad(now, (1, 0))[: len(now)]
    weight = np.where(now > before, 0.8, 0.05)
    return float((now * weight + before * (1 - weight) > 0.13).mean())


def direct_path(clean: np.ndarray, response: np.ndarray) -> np.ndarray:
    """Return a wave (S,) with the delay and the gain of a room response's largest sample, its direct path."""
    delay = int(np.abs(response).argmax())
    delayed = np.concatenate([np.zeros(delay), clean])[: len(clean)]
    return delayed * response[delay]


def _level_gain(wave: np.ndarray, level_db: float) -> float:
    """Return the factor that brings a wave (S,) to an RMS level in dBFS."""
    rms = float(np.sqrt(np.square(wave.astype(np.float64)).mean()))
    wanted = 10 ** (level_db / 20)
    return wanted / (rms + _EPS)
