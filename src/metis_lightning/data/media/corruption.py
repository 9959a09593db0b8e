"""Corrupts recordings: by noise, a room, a narrow band, a tilted spectrum.

Pure functions of tensors on any device; those that draw take a generator, whose device is the result's.
Shape letters: S samples, R samples of a room response; `...` stands for any leading dimensions, also none.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchaudio.functional import fftconvolve, resample

# Half-width in zero crossings of the resampling filter: the band ends within 3% of its edge.
_FILTER_WIDTH = 64
_ROLLOFF = 0.97
# Samples of silence after a wave before its spectrum is shaped: what is smeared past an end must not come in again.
_GUARD = 4096
# Samples on either side of a room response's largest, 2.5 ms at 24 kHz: more than a converted rate spreads one over.
_DIRECT = 60


def add_noise(speech: Tensor, noise: Tensor, snr_db: float | Tensor) -> Tensor:
    """Add noise (..., S) to speech (..., S) at a ratio in dB, one or (...), of their powers over all samples.

    The speech keeps its level. A ValueError if either is silent in some row.

    >>> add_noise(torch.tensor([0.5, -0.5]), torch.tensor([3.0, 3.0]), 0.0).tolist()
    [1.0, 0.0]
    """
    speech_power, noise_power = (wave.square().mean(dim=-1, keepdim=True) for wave in (speech, noise))
    for name, power in (("speech", speech_power), ("noise", noise_power)):
        if not bool((power > 0).all()):
            raise ValueError(f"silent {name} has no signal-to-noise ratio")
    ratio = 10 ** (torch.as_tensor(snr_db).to(speech)[..., None] / 10)
    return speech + noise * (speech_power / noise_power / ratio).sqrt()


def convolve_room(speech: Tensor, response: Tensor) -> Tensor:
    """Return speech (..., S) as heard in a room of impulse response (R,), as long as before and in time with it.

    The response's largest sample counts as the direct path: it has the sign and the place of the dry speech, so that a
    clean target stays aligned, and with what lies within 2.5 ms of it the level, whatever the band of the response.
    Echoes after the end are cut. A ValueError if the response is silent.

    >>> convolve_room(torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, -2.0])).round(decimals=4).abs().tolist()
    [3.0, 0.0, 0.0]
    """
    direct = int(response.abs().argmax())
    if response[direct] == 0:
        raise ValueError("a silent room response")
    response = (response / response[direct]).to(speech)
    first = max(0, direct - _DIRECT)
    # By what is near the direct path alone, and by all, each from the direct path on.
    near, wet = (
        fftconvolve(speech, part.expand(*speech.shape[:-1], -1))[..., delay : delay + speech.shape[-1]]
        for part, delay in ((response[first : direct + _DIRECT], direct - first), (response, direct))
    )
    dry_power, near_power = (wave.square().mean(dim=-1, keepdim=True) for wave in (speech, near))
    # A silent row stays silent.
    return wet * (dry_power / near_power.clamp(min=torch.finfo(speech.dtype).tiny)).sqrt()


def band_limit(wave: Tensor, cutoff_hz: int, sample_rate: int) -> Tensor:
    """Remove what lies above a frequency from wave (..., S), in time with it, by a lower sample rate and back."""
    if 2 * cutoff_hz >= sample_rate:
        return wave
    narrow = resample(wave, sample_rate, 2 * cutoff_hz, _FILTER_WIDTH, _ROLLOFF)
    return resample(narrow, 2 * cutoff_hz, sample_rate, _FILTER_WIDTH, _ROLLOFF)[..., : wave.shape[-1]]


def tilt(wave: Tensor, slope_db: float, sample_rate: int) -> Tensor:
    """Change the spectral slope of wave (..., S) by dB an octave around 1 kHz, level below 50 Hz, without delay.

    White noise becomes pink by -3, brown by -6.
    """
    padded = wave.shape[-1] + _GUARD
    frequency = torch.fft.rfftfreq(padded, 1 / sample_rate, device=wave.device).clamp(min=50.0)
    gain = 10 ** (slope_db * (frequency / 1000.0).log2() / 20)
    return torch.fft.irfft(torch.fft.rfft(wave, n=padded) * gain, n=padded)[..., : wave.shape[-1]]


def synthetic_room(rt60: float, direct_db: float, sample_rate: int, generator: torch.Generator) -> Tensor:
    """Return a room response (R,) by Polack's model: the direct path, 2.5 ms later noise that decays exponentially.

    `rt60` is in seconds, in which the reverberation falls by 60 dB, and the length of the response; more than 0.0025.
    `direct_db` is the energy of the direct path over that of all echoes; not so low that an echo is the largest.
    """
    time = torch.arange(round(rt60 * sample_rate), device=generator.device) / sample_rate
    echoes = torch.randn(time.shape, generator=generator, device=generator.device) * 10 ** (-3 * time / rt60)
    echoes[time < 0.0025] = 0
    response = echoes * (10 ** (-direct_db / 10) / echoes.square().sum()).sqrt()
    response[0] = 1
    return response
