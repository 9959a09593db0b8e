import math

import pytest
import torch
import torchaudio

from metis_lightning.tokens.mel import PowerMel, hz_to_slaney_mel, slaney_filters, slaney_mel_to_hz


@pytest.mark.parametrize(("n_fft", "n_mels"), [(400, 40), (512, 80)])
def test_filters_equal_torchaudio_where_it_has_them(n_fft: int, n_mels: int) -> None:
    theirs = torchaudio.functional.melscale_fbanks(
        n_fft // 2 + 1, 0.0, 8000.0, n_mels, 16_000, norm="slaney", mel_scale="slaney"
    )
    torch.testing.assert_close(slaney_filters(16_000, n_fft, n_mels), theirs.T, atol=1e-6, rtol=1e-4)


def test_scale_round_trip() -> None:
    hertz = [0.0, 500.0, 1000.0, 6400.0]
    mels = torch.tensor([hz_to_slaney_mel(value) for value in hertz], dtype=torch.float64)
    assert mels.tolist() == pytest.approx([0.0, 7.5, 15.0, 42.0])
    assert slaney_mel_to_hz(mels).tolist() == pytest.approx(hertz)


def test_power_of_a_tone() -> None:
    # A Hann window of 400 sums to 200: a cosine of amplitude 1 on a bin has power 100 ** 2 there.
    wave = torch.cos(2 * math.pi * 1000.0 * torch.arange(16_000) / 16_000)
    mel = PowerMel(16_000, n_fft=400, hop_length=160, n_mels=40)
    frames = mel(wave)
    assert frames.shape == (101, 40)
    leak = 0.25  # of that power, in each of the two bins beside it
    expected = mel.filters[:, 25] * 1e4 + leak * 1e4 * (mel.filters[:, 24] + mel.filters[:, 26])
    torch.testing.assert_close(frames[50], expected, atol=1e-2, rtol=1e-3)


def test_odd_fft_size_has_the_frames_that_dnsmos_wants() -> None:
    assert PowerMel(16_000, n_fft=321, hop_length=160, n_mels=120)(torch.zeros(144_000)).shape == (900, 120)
