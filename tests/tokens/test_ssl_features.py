"""Filter-bank features against Kaldi's own recipe in torchaudio, and their frame counts."""

from __future__ import annotations

import torch
from torchaudio.compliance.kaldi import fbank

from metis_lightning.tokens.ssl_features import FilterbankFeatures


def speech() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(48_000) / 16_000
    return 0.2 * torch.sin(2 * torch.pi * 150 * t) + 0.02 * torch.randn(48_000, generator=generator)


def test_frames_equal_kaldis() -> None:
    wave = speech()
    ours = FilterbankFeatures().unnormalised(wave[None])[0]
    theirs = fbank(wave[None] * 2**15, num_mel_bins=80, dither=0.0, window_type="povey", sample_frequency=16_000)
    theirs = theirs[: len(theirs) // 2 * 2].reshape(-1, 160)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3)


def test_frame_counts_match_the_frames_and_padding_changes_nothing() -> None:
    features = FilterbankFeatures()
    for samples in (399, 400, 719, 720, 16_000, 16_123):
        lengths = torch.tensor([samples])
        if samples >= 400:
            assert features(speech()[None, :samples], lengths)[0].shape[1] == int(features.num_frames(lengths))
        else:
            assert int(features.num_frames(lengths)) == 0
    alone, count = features(speech()[None, :20_000], torch.tensor([20_000]))
    padded = torch.nn.functional.pad(speech()[:20_000], (0, 5_000))[None]
    torch.testing.assert_close(features(padded, torch.tensor([20_000]))[0][:, : int(count)], alone)


def test_statistics_normalise() -> None:
    features = FilterbankFeatures()
    raw = features.unnormalised(speech()[None])
    features.mean.copy_(raw.mean(dim=(0, 1)))
    features.std.copy_(raw.std(dim=(0, 1)))
    normalised, _ = features(speech()[None], torch.tensor([48_000]))
    torch.testing.assert_close(normalised.mean(dim=(0, 1)), torch.zeros(160), rtol=0, atol=1e-4)
