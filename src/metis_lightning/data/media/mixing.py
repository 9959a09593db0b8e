"""Mixtures of two waveforms at a stated level difference; pure functions on (S,) float tensors."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from metis_lightning.types import Trial

# A mixture's largest sample, just below what a 16-bit file can hold.
PEAK = 0.99
# Root mean square under which a wave is silent: far below one step of a 24-bit file.
SILENT_RMS = 1e-8


@dataclass(frozen=True)
class VoiceMix:
    """Two voices and their exact sum, all (S,), and the gain that lowered all three lest it clip; else 1."""

    mixture: Tensor
    target: Tensor
    interferer: Tensor
    gain: float


def rms(wave: Tensor) -> float:
    """Return the root of the mean square of a wave (S,); under `SILENT_RMS` no other can be scaled by it."""
    return float(wave.double().square().mean().sqrt())


def fit_length(wave: Tensor, samples: int) -> Tensor:
    """Repeat or cut a (S,) wave at its end so that it has `samples` samples.

    >>> import torch
    >>> fit_length(torch.tensor([1, 2]), 5).tolist()
    [1, 2, 1, 2, 1]
    """
    return wave.repeat(-(-samples // wave.numel()))[:samples]


def mix_at_snr(target: Tensor, interferer: Tensor, snr_db: float) -> VoiceMix:
    """Add an interferer, repeated or cut to its length, to a target (S,) at a ratio of their powers over it in dB.

    The target keeps its level, but if `add_voices` lowers all. A ValueError if either is silent.
    """
    interferer = fit_length(interferer, target.numel())
    levels = rms(target), rms(interferer)
    if min(levels) < SILENT_RMS:
        raise ValueError("a silent target or interferer has no signal-to-noise ratio")
    return add_voices(target, interferer * (levels[0] / levels[1] * 10 ** (-snr_db / 20)))


def add_voices(target: Tensor, interferer: Tensor) -> VoiceMix:
    """Add two voices (S,) as loud as they are, all lowered by one gain only if the sum would pass 0.99."""
    gain = peak_gain(target + interferer)
    target, interferer = target * gain, interferer * gain
    return VoiceMix(target + interferer, target, interferer, gain)


def mix_trial(trial: Trial, target: Tensor, interferer: Tensor) -> VoiceMix:
    """Mix a trial's voices: at its SNR, or as loud as they are if it has none; the interferer fits the target (S,)."""
    if trial.snr_db is None:
        return add_voices(target, fit_length(interferer, target.numel()))
    return mix_at_snr(target, interferer, trial.snr_db)


def peak_gain(*waves: Tensor) -> float:
    """Return the factor, at most 1, that brings the largest sample of all waves to 0.99 or below."""
    peak = max(float(wave.abs().max()) for wave in waves)
    return PEAK / peak if peak > PEAK else 1.0
