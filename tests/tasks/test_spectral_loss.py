"""Distances of known pairs, the map from latents to mel frames, and gains from data."""

from __future__ import annotations

import math

import pytest
import torch

from metis_lightning.tasks.acoustic_codec import AcousticCodecModule
from metis_lightning.tasks.codec_losses import SpectralDistances, loudness
from one_batch import speech_batch
from tiny import ACOUSTIC


def noise(seed: int) -> torch.Tensor:
    return torch.randn(2, 9_600, generator=torch.Generator().manual_seed(seed))


def test_distances_of_a_gain_are_its_logarithm_and_its_loudness() -> None:
    distances = SpectralDistances()
    target = noise(0)
    halved = distances(0.5 * target, target)
    assert float(halved["mel"]) == pytest.approx(math.log(2), rel=1e-4)
    mean = torch.stack([loudness(mel(target)).mean() for mel in distances.mels]).mean()
    assert float(halved["loudness"]) == pytest.approx(float((1 - 0.5**0.3) * mean), rel=1e-3)
    assert all(float(value) == 0 for value in distances(target, target).values())


def test_loudness_weighs_peaks_and_the_logarithm_does_not() -> None:
    distances = SpectralDistances()
    quiet, loud = 1e-2 * noise(0), noise(1)
    both = torch.cat([quiet, loud], dim=-1)
    wrong_quiet = distances(torch.cat([0.5 * quiet, loud], dim=-1), both)
    wrong_loud = distances(torch.cat([quiet, 0.5 * loud], dim=-1), both)
    assert float(wrong_loud["mel"]) == pytest.approx(float(wrong_quiet["mel"]), rel=0.15)
    assert wrong_loud["loudness"] > 4 * wrong_quiet["loudness"]


def test_humming_between_harmonics_is_seen_by_single_bins_alone() -> None:
    distances = SpectralDistances()
    target = noise(0)
    seconds = torch.arange(target.shape[-1]) / 24_000
    # Half of the noise's power goes into lines at multiples of 50 Hz, where a mel band is wider than that.
    lines = torch.stack([torch.sin(2 * math.pi * f * seconds + f) for f in range(6000, 12_000, 50)]).sum(dim=0)
    high = torch.arange(target.shape[-1] // 2 + 1) > target.shape[-1] // 4

    def with_high_half(wave: torch.Tensor) -> torch.Tensor:
        low = torch.fft.irfft(torch.fft.rfft(target).masked_fill(high, 0))
        return low + torch.fft.irfft(torch.fft.rfft(wave).masked_fill(~high, 0))

    humming = distances(with_high_half(lines * target.std() / lines.std() / 2**0.5), target)
    hissing = distances(with_high_half(noise(1)), target)
    assert humming["linear"] > hissing["linear"] + 0.1
    assert hissing["mel"] < 0.1 * hissing["linear"]


def test_the_linear_term_is_in_a_codecs_loss_by_its_weight_and_left_out_without_one() -> None:
    batch = speech_batch()

    def losses(weight: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return dict(AcousticCodecModule(ACOUSTIC, linear_weight=weight).eval().losses(batch))

    plain, weighted = losses(0.0), losses(3.0)
    assert "linear" not in plain and float(weighted["linear"].detach()) > 0.1
    expected = plain["loss"] + 3.0 * weighted["linear"]
    torch.testing.assert_close(weighted["loss"], expected)
