import math
import sys

import numpy as np
import pytest
import scipy.linalg
import scipy.signal
import torch

from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.media.audio import write_wav
from metis_lightning.data.media.mixing import rms
from metis_lightning.data.recipes import vc
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.data.recipes.vc import (
    TimbreConverter,
    VcRecipe,
    VoiceChange,
    WorldConverter,
    change_voice,
    move_pitch,
    warp_envelope,
)
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance

RATE = 24_000
FORMANTS = (700.0, 1200.0, 2600.0)


def voice(seconds=1.6, pitch_hz=130.0):
    """Syllables of a vowel with pauses of unequal length: a pulse train through three resonators."""
    count = round(seconds * RATE)
    pulses = np.diff(np.floor(np.arange(count + 1) * pitch_hz / RATE))
    for formant in FORMANTS:
        radius = math.exp(-math.pi * 80 / RATE)
        poles = [1, -2 * radius * math.cos(2 * math.pi * formant / RATE), radius**2]
        pulses = scipy.signal.lfilter([1], poles, pulses)
    time = np.arange(count) / RATE
    spoken = sum(((time > start) & (time < stop)).astype(float) for start, stop in ((0.1, 0.5), (0.6, 0.9), (1.2, 1.5)))
    wave = pulses * np.convolve(spoken, np.hanning(480) / np.hanning(480).sum(), mode="same")
    return torch.from_numpy(0.3 * wave / np.abs(wave).max()).float()


def median_pitch(wave):
    """By autocorrelation of loud frames, 60 to 400 Hz: WORLD has no part in it."""
    frames = wave.double().unfold(0, 960, 240).numpy()
    power = (frames**2).mean(axis=1)
    spectra = np.fft.rfft(frames[power > 0.1 * power.max()] * np.hanning(960), 4096)
    correlation = np.fft.irfft(np.abs(spectra) ** 2)[:, RATE // 400 : RATE // 60]
    return float(np.median(RATE / (RATE // 400 + correlation.argmax(axis=1))))


def formants(wave):
    """The first two formants of the first syllable, by linear prediction at 8 kHz."""
    vowel = np.diff(scipy.signal.resample_poly(wave.double().numpy(), 1, 3)[2000:3200])
    vowel *= np.hamming(len(vowel))
    correlation = np.correlate(vowel, vowel, "full")[len(vowel) - 1 :][:11]
    roots = np.roots([1, *-scipy.linalg.solve_toeplitz(correlation[:-1], correlation[1:])])
    return sorted(np.angle(roots[(roots.imag > 0) & (np.abs(roots) > 0.9)]) * 8000 / (2 * math.pi))[:2]


def envelope(wave):
    return wave[: len(wave) // 240 * 240].reshape(-1, 240).square().mean(1).sqrt().numpy()


@pytest.mark.parametrize(("formant_ratio", "semitones"), [(1.2, 5.0), (1 / 1.2, -5.0)])
def test_pitch_and_formants_move_and_words_stay_in_time(formant_ratio, semitones):
    wave = voice()
    ratio = 2 ** (semitones / 12)
    changed = change_voice(wave, VoiceChange(formant_ratio, ratio))
    assert changed.shape == wave.shape
    assert rms(changed) == pytest.approx(rms(wave), rel=1e-4)
    assert median_pitch(changed) / median_pitch(wave) == pytest.approx(ratio, rel=0.03)
    for before, after in zip(formants(wave), formants(changed), strict=True):
        assert after / before == pytest.approx(formant_ratio, rel=0.08)
    first, second = envelope(wave), envelope(changed)
    correlations = [np.corrcoef(first[10:-10], np.roll(second, shift)[10:-10])[0, 1] for shift in range(-5, 6)]
    assert correlations[5] > 0.9
    assert abs(int(np.argmax(correlations)) - 5) <= 1


def test_an_unvoiced_wave_is_changed_too():
    wave = 0.1 * torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    changed = change_voice(wave, VoiceChange(1.2, 1.5))
    assert changed.shape == wave.shape
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, wave)


def test_no_change_is_nearly_the_same_wave():
    wave = voice()
    same = change_voice(wave, VoiceChange(1.0, 1.0))
    assert median_pitch(same) == pytest.approx(median_pitch(wave), rel=0.01)
    for before, after in zip(formants(wave), formants(same), strict=True):
        assert after == pytest.approx(before, rel=0.03)
    assert np.corrcoef(envelope(wave), envelope(same))[0, 1] > 0.9
    assert torch.equal(same, change_voice(wave, VoiceChange(1.0, 1.0)))


def test_a_tilt_is_a_tilt_of_the_spectrum():
    plain, tilted = (change_voice(voice(), VoiceChange(1.1, 1.1, tilt_db=slope)) for slope in (0.0, 2.0))
    power = [torch.fft.rfft(wave).abs().square() for wave in (plain, tilted)]
    # A seventh of an octave around 500 Hz and around 2 kHz, in bins of 0.625 Hz.
    bands = [[float(p[low : low + 100].sum()) for low in (750, 3000)] for p in power]
    gained = 10 * math.log10(bands[1][1] / bands[1][0] / (bands[0][1] / bands[0][0]))
    assert gained == pytest.approx(4.0, abs=0.3)


def test_the_range_of_the_pitch_is_about_its_median():
    track = np.array([0.0, 100.0, 200.0, 400.0])
    moved = move_pitch(track, VoiceChange(1.0, 1.5, pitch_range=2.0))
    np.testing.assert_allclose(moved, [0.0, 75.0, 300.0, 1200.0])
    np.testing.assert_array_equal(move_pitch(np.zeros(4), VoiceChange(1.0, 1.5)), np.zeros(4))


def test_an_envelope_is_warped_both_ways():
    bins = np.arange(513.0)
    peak = np.exp(-((bins - 200) ** 2) / 200)[None]
    for ratio in (0.8, 1.25):
        warped = warp_envelope(peak, ratio)
        assert abs(int(warped.argmax()) - 200 * ratio) <= 1
        # Also WORLD's own demand.
        assert warped.flags.c_contiguous
    np.testing.assert_allclose(warp_envelope(peak, 1.0), peak, rtol=1e-12)


@pytest.mark.parametrize("samples", [1, 10, 300])
def test_waves_that_are_silent_or_of_a_few_samples_come_back_as_long(samples):
    change = VoiceChange(1.2, 1.5, tilt_db=1.0)
    assert torch.equal(change_voice(torch.zeros(samples), change), torch.zeros(samples))
    blip = change_voice(torch.full((samples,), 0.1), change)
    assert blip.shape == (samples,)
    assert blip.isfinite().all()


def test_draws_stay_in_their_ranges_go_both_ways_and_are_recorded():
    converter, wave = WorldConverter(), voice(0.3)
    seen = [converter.convert(wave, None, derived_generator(seed))[1] for seed in range(30)]
    for applied in seen:
        assert set(applied) == {"converter", "formant_ratio", "pitch_ratio", "pitch_range", "tilt_db"}
        formant, pitch = applied["formant_ratio"], abs(12 * math.log2(applied["pitch_ratio"]))
        assert 1.08 <= max(formant, 1 / formant) <= 1.25
        assert 2 <= pitch <= 7
        assert (formant > 1) == (applied["pitch_ratio"] > 1)
    assert {applied["formant_ratio"] > 1 for applied in seen} == {True, False}
    assert -2 <= min(applied["tilt_db"] for applied in seen) < 0 < max(applied["tilt_db"] for applied in seen) <= 2


def test_the_generator_decides():
    first, again, other = (WorldConverter().convert(voice(0.3), None, derived_generator(s))[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """Two speakers, two utterances each."""
    root = tmp_path_factory.mktemp("voices")
    rows = []
    for speaker, pitch in (("ada", 200.0), ("bob", 110.0)):
        for number in range(2):
            name = f"{speaker}_{number}"
            write_wav(root / f"{name}.wav", voice(1.6, pitch + 10 * number), RATE)
            rows.append(Utterance(name, root / f"{name}.wav", speaker, f"words {name}", "en", 1.6, RATE, "train"))
    return SpeechCorpus(rows)


def test_the_target_is_the_recording_and_the_source_a_clean_prompt_and_another_voice(voices):
    item = VcRecipe()(voices, 0, derived_generator(0))
    start, gain = item.prompt_length, item.applied["gain"]
    assert start % 480 == 0
    assert 0.1 * 38_400 - 480 < start < 0.4 * 38_400
    assert torch.equal(item.wave, voices.wave(0) * gain)
    assert torch.equal(item.source[:start], item.wave[:start])
    expected = median_pitch(item.wave[start:]) * item.applied["pitch_ratio"]
    assert median_pitch(item.source[start:]) == pytest.approx(expected, rel=0.05)
    assert float(item.source.abs().max()) <= 0.9901


def test_the_papers_variant_converts_the_prompt_too(voices):
    item = VcRecipe(perturb_prompt=True)(voices, 0, derived_generator(0))
    assert not torch.equal(item.source[: item.prompt_length], item.wave[: item.prompt_length])
    assert item.source.shape == item.wave.shape


def test_an_utterance_as_prompt_is_put_before(voices):
    recipe = VcRecipe(enrollment="utterance", max_prompt_seconds=1.0)
    item = recipe(voices, 0, derived_generator(0))
    assert item.prompt_length == 24_000
    assert item.applied["enrollment"] == "ada_1"
    assert torch.equal(item.wave[24_000:], voices.wave(0) * item.applied["gain"])
    assert recipe.seconds(voices, 0) == pytest.approx(2.6)


class Reverse(TimbreConverter):
    """A stand-in for a model: needs a reference and records how long it is."""

    def convert(self, wave, reference, generator):
        return wave.flip(0), {"converter": "reverse", "samples": len(reference)}


class Shorten(TimbreConverter):
    needs_reference = False

    def convert(self, wave, reference, generator):
        return wave[1:], {}


def test_a_model_is_given_another_voice(voices):
    item = VcRecipe(Reverse())(voices, 0, derived_generator(0))
    assert item.applied["reference"] in ("bob_0", "bob_1")
    assert item.applied["samples"] == 38_400
    start = item.prompt_length
    assert torch.equal(item.source[start:], item.wave[start:].flip(0))


def test_a_converter_must_keep_the_length(voices):
    with pytest.raises(ValueError, match="Shorten made"):
        VcRecipe(Shorten())(voices, 0, derived_generator(0))


def test_without_the_package_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyworld", None)
    monkeypatch.setattr(vc, "import_world", vc.import_world.__wrapped__)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[vc\]'"):
        change_voice(voice(0.1), VoiceChange(1.1, 1.1))
