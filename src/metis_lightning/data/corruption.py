"""What a recording suffers: noise, a room, a narrow band, a tilted spectrum.

Pure functions of tensors on any device; those that draw take a generator, whose device is the result's.
Shape letters: S samples, R samples of a room response; `...` stands for any leading dimensions, also none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.functional import add_noise as scale_and_add
from torchaudio.functional import fftconvolve, resample

# Half-width in zero crossings of the resampling filter: the band ends within 3% of its edge.
_FILTER_WIDTH = 64
_ROLLOFF = 0.97

# Samples of silence after a wave before its spectrum is shaped: what a filter smears past an end must not come in at
# the other.
_GUARD = 4096


def add_noise(speech: Tensor, noise: Tensor, snr_db: float) -> Tensor:
    """Add noise (..., S) to speech (..., S) at a ratio of their powers, the level of the speech kept.

    Raises:
        ValueError: if either is silent in some row, so that no ratio exists.
    """
    for name, wave in (("speech", speech), ("noise", noise)):
        if not bool((wave != 0).any(dim=-1).all()):
            raise ValueError(f"silent {name} has no signal-to-noise ratio")
    return scale_and_add(speech, noise, speech.new_full(speech.shape[:-1], snr_db))


def convolve_room(speech: Tensor, response: Tensor) -> Tensor:
    """Return speech (..., S) as heard in a room of impulse response (R,), as long as before and in time with it.

    The response's largest sample counts as the direct path: it keeps the level, the sign and the place of the dry
    speech, so that a clean target stays aligned; echoes after the end are cut.

    >>> convolve_room(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, -2.0, 1.0])).round(decimals=4).tolist()
    [1.0, -0.5, 0.0]

    Raises:
        ValueError: if the response is silent.
    """
    direct = int(response.abs().argmax())
    if response[direct] == 0:
        raise ValueError("a silent room response")
    response = (response / response[direct]).to(speech).expand(*speech.shape[:-1], -1)
    return fftconvolve(speech, response)[..., direct : direct + speech.shape[-1]]


def band_limit(wave: Tensor, cutoff_hz: int, sample_rate: int) -> Tensor:
    """Remove what lies above a frequency from wave (..., S), in time with it, by a lower sample rate and back."""
    if 2 * cutoff_hz >= sample_rate:
        return wave
    narrow = resample(wave, sample_rate, 2 * cutoff_hz, _FILTER_WIDTH, _ROLLOFF)
    return resample(narrow, 2 * cutoff_hz, sample_rate, _FILTER_WIDTH, _ROLLOFF)[..., : wave.shape[-1]]


def tilt(wave: Tensor, slope_db: float, sample_rate: int) -> Tensor:
    """Change the spectral slope of wave (..., S) by dB an octave around 1 kHz, level below 50 Hz, without delay."""
    padded = wave.shape[-1] + _GUARD
    frequency = torch.fft.rfftfreq(padded, 1 / sample_rate, device=wave.device).clamp(min=50.0)
    gain = 10 ** (slope_db * (frequency / 1000.0).log2() / 20)
    return torch.fft.irfft(torch.fft.rfft(wave, n=padded) * gain, n=padded)[..., : wave.shape[-1]]


def coloured_noise(samples: int, slope_db: float, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Return Gaussian noise (S,) whose power falls or rises by dB an octave: 0 is white, -3 pink, -6 brown."""
    white = torch.randn(samples, generator=generator, device=generator.device)
    return tilt(white, slope_db, sample_rate)


def synthetic_room(rt60: float, direct_db: float, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Return a room response (R,): the direct path at its first sample, then noise that decays exponentially.

    Polack's model of late reverberation. The first echo comes 2.5 ms after the direct path.

    Args:
        rt60: seconds in which the reverberation falls by 60 dB, and length of the response.
        direct_db: energy of the direct path over that of all echoes, in dB; not so low that an echo is the largest.
        sample_rate: in Hz.
        generator: of the noise.
    """
    time = torch.arange(round(rt60 * sample_rate), device=generator.device) / sample_rate
    echoes = torch.randn(time.shape, generator=generator, device=generator.device) * 10 ** (-3 * time / rt60)
    echoes[time < 0.0025] = 0
    response = echoes * (10 ** (-direct_db / 10) / echoes.square().sum()).sqrt()
    response[0] = 1
    return response
