import math

import pytest
import soxr
import torch

from metis_lightning.data.media.corruption import (
    add_noise,
    band_limit,
    convolve_room,
    synthetic_room,
    tilt,
)
from metis_lightning.data.media.mixing import rms

RATE = 24_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def white(samples=RATE, seed=0):
    return torch.randn(samples, generator=generator(seed))


def power_between(wave, low_hz, high_hz):
    """Power of a wave in a band, in dB; a window keeps the ends from leaking."""
    spectrum = torch.fft.rfft(wave.double() * torch.hann_window(len(wave), dtype=torch.float64)).abs().square()
    frequency = torch.fft.rfftfreq(len(wave), 1 / RATE)
    inside = spectrum[(frequency >= low_hz) & (frequency < high_hz)]
    return 10 * math.log10(float(inside.mean()))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_has_the_asked_power_under_unchanged_speech(tone, snr_db):
    speech = tone(1.0, 220)
    added = add_noise(speech, white() * 7, snr_db) - speech
    assert 20 * math.log10(rms(speech) / rms(added)) == pytest.approx(snr_db, abs=1e-3)


def test_rows_of_a_batch_are_corrupted_as_alone(tone):
    speech, noise = torch.stack([tone(1.0, 220), tone(1.0, 330, 0.01)]), torch.stack([white(), white(seed=1)])
    room = synthetic_room(0.3, 0.0, RATE, generator())
    for corrupt in (
        lambda s, n: add_noise(s, n, 3.0),
        lambda s, n: convolve_room(s, room),
        lambda s, n: band_limit(s, 4000, RATE),
        lambda s, n: tilt(s, -3.0, RATE),
        lambda s, n: add_noise(s, n, torch.full(s.shape[:-1], 3.0)),
    ):
        both = corrupt(speech, noise)
        assert both.shape == speech.shape
        for row in range(2):
            torch.testing.assert_close(both[row], corrupt(speech[row], noise[row]), rtol=1e-4, atol=1e-5)


def test_each_row_has_its_own_snr(tone):
    speech, snrs_db = torch.stack([tone(1.0, 220), tone(1.0, 330)]), torch.tensor([-5.0, 15.0])
    added = add_noise(speech, torch.stack([white(), white(seed=1)]), snrs_db) - speech
    for row in range(2):
        snr_db = 20 * math.log10(rms(speech[row]) / rms(added[row]))
        assert snr_db == pytest.approx(float(snrs_db[row]), abs=1e-3)


def test_double_precision_stays_and_says_the_same(tone):
    speech, noise, room = tone(0.5, 220), white(RATE // 2), synthetic_room(0.3, 0.0, RATE, generator())
    for corrupt in (
        lambda s, n: add_noise(s, n, 3.0),
        lambda s, n: convolve_room(s, room),
        lambda s, n: band_limit(s, 4000, RATE),
        lambda s, n: tilt(s, -3.0, RATE),
    ):
        double = corrupt(speech.double(), noise.double())
        assert double.dtype == torch.float64
        torch.testing.assert_close(corrupt(speech, noise), double.float(), rtol=1e-4, atol=1e-5)


def test_waves_shorter_than_the_filters_keep_their_length():
    room = synthetic_room(0.3, 0.0, RATE, generator())
    for samples in (1, 7, 100):
        wave = white(samples)
        for corrupted in (convolve_room(wave, room), band_limit(wave, 2000, RATE), tilt(wave, 2.0, RATE)):
            assert corrupted.shape == wave.shape
            assert corrupted.isfinite().all()


def test_silence_has_no_snr():
    # The last noise is so weak that its power in float32 is zero.
    for pair in (
        (torch.zeros(9), torch.ones(9)),
        (torch.ones(9), torch.zeros(9)),
        (torch.ones(9), torch.ones(9) * 1e-30),
    ):
        with pytest.raises(ValueError, match="silent"):
            add_noise(*pair, 0.0)
    with pytest.raises(ValueError, match="silent room"):
        convolve_room(torch.ones(9), torch.zeros(9))


@pytest.mark.parametrize("delay", [0, 100, 700])
def test_reverberant_speech_is_in_time_with_the_dry(delay):
    """Whatever the delay, level and sign of the measured response."""
    room = torch.cat([torch.zeros(delay), -0.2 * synthetic_room(0.6, 0.0, RATE, generator(1))])
    dry = white()
    wet = convolve_room(dry, room)
    assert wet.shape == dry.shape
    correlation = torch.fft.irfft(torch.fft.rfft(wet, 2 * RATE) * torch.fft.rfft(dry, 2 * RATE).conj())
    assert int(correlation.argmax()) == 0
    assert float(correlation[0] / dry.square().sum()) == pytest.approx(1.0, abs=0.1)
    # As much energy in the echoes as in the direct path, less what falls behind the end.
    assert rms(wet - dry) / rms(dry) == pytest.approx(1.0, abs=0.15)


def test_silence_in_a_room_is_silence():
    room = synthetic_room(0.3, 0.0, RATE, generator())
    heard = convolve_room(torch.stack([torch.zeros(RATE), white()]), room)
    assert torch.equal(heard[0], torch.zeros(RATE))
    assert rms(heard[1]) > 1


@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_response_of_another_rate_keeps_the_level_too(tone, rate):
    """The direct path of a narrow-band measurement is no single sample, and a peak says little of its level."""
    measured = torch.zeros(rate // 10)
    measured[rate // 100] = 1.0
    room = torch.from_numpy(soxr.resample(measured.numpy(), rate, RATE))
    speech = tone(1.0, 220)
    torch.testing.assert_close(convolve_room(speech, room)[100:-100], speech[100:-100], rtol=0, atol=5e-3)


def test_a_room_of_one_sample_changes_nothing(tone):
    speech = tone(0.5, 220)
    torch.testing.assert_close(convolve_room(speech, torch.tensor([0.0, -3.0])), speech, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("rt60", "direct_db"), [(0.2, 12.0), (0.6, 3.0), (1.3, -3.0)])
def test_a_synthetic_room_decays_as_asked(rt60, direct_db):
    room = synthetic_room(rt60, direct_db, RATE, generator(2))
    assert room.abs().argmax() == 0
    echoes = room[1:].double().square()
    assert -10 * math.log10(float(echoes.sum())) == pytest.approx(direct_db, abs=1e-3)
    # Schroeder's integral: from -5 to -25 dB in a third of the decay time.
    decay = 10 * (echoes.flip(0).cumsum(0).flip(0) / echoes.sum()).log10()
    crossed = [int((decay < level).nonzero()[0]) / RATE for level in (-5.0, -25.0)]
    assert (crossed[1] - crossed[0]) * 3 == pytest.approx(rt60, rel=0.15)


@pytest.mark.parametrize("cutoff_hz", [2000, 4000, 8000])
def test_a_band_limit_removes_the_band_above_and_nothing_below(cutoff_hz):
    wave = white(2 * RATE)
    limited = band_limit(wave, cutoff_hz, RATE)
    assert limited.shape == wave.shape
    assert power_between(limited, cutoff_hz, 12_000) < power_between(wave, cutoff_hz, 12_000) - 40
    kept = (50, 0.9 * cutoff_hz)
    assert power_between(limited, *kept) == pytest.approx(power_between(wave, *kept), abs=0.1)
    # In time: what is below the edge is the same wave.
    low = [torch.fft.rfft(w)[100 : int(0.9 * cutoff_hz) * 2] for w in (wave, limited)]
    assert float((low[0] - low[1]).abs().square().sum() / low[0].abs().square().sum()) < 1e-3


def test_a_band_as_wide_as_the_wave_is_no_limit():
    assert torch.equal(band_limit(white(), 12_000, RATE), white())


@pytest.mark.parametrize("slope_db", [-6.0, 0.0, 3.0])
def test_tilted_white_noise_has_the_colour(slope_db):
    noise = tilt(white(4 * RATE), slope_db, RATE)
    octaves = [power_between(noise, low, low * 1.1) for low in (500, 4000)]
    assert (octaves[1] - octaves[0]) / 3 == pytest.approx(slope_db, abs=0.6)


def test_a_tilt_turns_around_one_kilohertz(tone):
    for frequency, expected in ((1000, 0.0), (4000, -6.0), (250, 6.0)):
        wave = tone(1.0, frequency)
        assert 20 * math.log10(rms(tilt(wave, -3.0, RATE)) / rms(wave)) == pytest.approx(expected, abs=0.1)
