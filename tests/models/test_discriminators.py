"""Shapes on any length, sizes as published, and what a judgement does not depend on."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import ceil

import pytest
import torch

from metis_lightning.models.discriminators import (
    QUIETEST,
    DiscriminatorConfig,
    Discriminators,
    PeriodDiscriminator,
    SpectrumDiscriminator,
    band_borders,
)

SMALL = DiscriminatorConfig((2, 3), (4, 8, 8), (256, 128), (0.0, 0.25, 1.0), 4)


def noise(length: int, rows: int = 2) -> torch.Tensor:
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(length))


def small() -> Discriminators:
    torch.manual_seed(0)
    return Discriminators(SMALL)


@pytest.mark.parametrize("length", [7, 2400, 4801])
def test_every_place_of_a_wave_of_any_length_is_judged(length: int) -> None:
    judgements = small()(noise(length))
    for period, judged in zip(SMALL.periods, judgements, strict=False):
        rows = ceil(ceil(ceil(length / period) / 3) / 3)
        assert judged.logits.shape == (2, rows * period)
        assert [f.shape[1:] for f in judged.features][-1] == (8, rows, period)
        assert len(judged.features) == 3
    for window, judged in zip(SMALL.window_lengths, judgements[2:], strict=True):
        frames = length // (window // 4) + 1
        widths = [high - low for low, high in pairwise(band_borders(window, SMALL.band_edges))]
        assert sum(widths) == window // 2 + 1
        assert judged.logits.shape == (2, frames * sum(ceil(width / 8) for width in widths))
        assert judged.features[0].shape == (2, 4, frames, widths[0])
        assert len(judged.features) == 2 * 5


def test_default_sizes_are_those_of_dac() -> None:
    with torch.device("meta"):
        members = Discriminators().members
    sizes = [sum(p.numel() for p in member.parameters()) for member in members]
    assert sizes == [8_221_154] * 5 + [471_330] * 3


def test_a_row_is_judged_by_itself_whatever_its_level_and_offset() -> None:
    discriminators, wave = small(), noise(1500)
    for whole, one, shifted in zip(
        discriminators(wave), discriminators(wave[:1]), discriminators(0.1 * wave[:1] + 0.2), strict=True
    ):
        torch.testing.assert_close(whole.logits[:1], one.logits)
        torch.testing.assert_close(shifted.logits, one.logits, rtol=1e-4, atol=1e-5)


def test_silence_stays_quiet() -> None:
    quiet = 0.01 * QUIETEST * noise(1500) / noise(1500).abs().amax()
    for judged, silent in zip(small()(quiet), small()(torch.zeros(2, 1500)), strict=True):
        torch.testing.assert_close(judged.logits, silent.logits, rtol=0, atol=0.05)


def test_a_period_is_seen_by_its_own_discriminator() -> None:
    """Swapping the columns of the folded wave swaps the judged places and nothing else."""
    torch.manual_seed(0)
    folded = noise(300).unflatten(-1, (-1, 3))
    member = PeriodDiscriminator(3, (4, 8))
    straight = member(folded.flatten(1)).logits.unflatten(-1, (-1, 3))
    swapped = member(folded.roll(1, dims=-1).flatten(1)).logits.unflatten(-1, (-1, 3))
    torch.testing.assert_close(swapped, straight.roll(1, dims=-1))


def test_the_spectrum_holds_both_parts_of_the_fourier_transform() -> None:
    member = SpectrumDiscriminator(128, (0.0, 1.0), 4)
    wave = noise(640)
    planes = member.spectrum(wave)
    # Frame 4 is centred on sample 128: half a window to both sides.
    frame = torch.fft.rfft(wave[:, 64:192] * torch.hann_window(128))
    torch.testing.assert_close(planes[:, :, 4], torch.stack([frame.real, frame.imag], dim=1), rtol=1e-4, atol=1e-4)


def test_sizes_that_leave_nothing_to_judge_are_refused() -> None:
    with pytest.raises(ValueError, match="no discriminator"):
        DiscriminatorConfig(periods=(), window_lengths=())
    with pytest.raises(ValueError, match="empty band in a window of 16"):
        replace(SMALL, window_lengths=(16,), band_edges=(0.0, 0.05, 1.0))
