import math
import sys

import numpy as np
import parselmouth
import pytest
import scipy.signal
import torch

from metis_lightning.data.audio import write_wav
from metis_lightning.data.corpus import SpeechCorpus
from metis_lightning.data.mixing import rms
from metis_lightning.data.recipe import derived_generator
from metis_lightning.data.timbre import PraatConverter, TimbreConverter, VoiceChange, change_voice
from metis_lightning.data.vc import VcRecipe
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
    frequency = parselmouth.Sound(wave.double().numpy(), RATE).to_pitch().selected_array["frequency"]
    return float(np.median(frequency[frequency > 0]))


def formants(wave):
    """The mean first two formants of the middle of the first syllable."""
    track = parselmouth.Sound(wave.double().numpy(), RATE).to_formant_burg(maximum_formant=5500)
    times = np.linspace(0.25, 0.4, 10)
    return [float(np.median([track.get_value_at_time(n, t) for t in times])) for n in (1, 2)]


def envelope(wave):
    return wave[: len(wave) // 240 * 240].reshape(-1, 240).square().mean(1).sqrt().numpy()


@pytest.mark.parametrize(("formant_ratio", "semitones"), [(1.2, 5.0), (1 / 1.2, -5.0)])
def test_pitch_and_formants_move_and_words_stay_in_time(formant_ratio, semitones):
    wave = voice()
    ratio = 2 ** (semitones / 12)
    changed = change_voice(wave, VoiceChange(formant_ratio, ratio), seed=0)
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
    changed = change_voice(wave, VoiceChange(1.2, 1.5), seed=0)
    assert changed.shape == wave.shape
    assert torch.isfinite(changed).all()
    assert not torch.equal(changed, wave)


def test_draws_stay_in_their_ranges_go_both_ways_and_are_recorded():
    converter, wave = PraatConverter(), voice(0.6)
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
    first, again, other = (PraatConverter().convert(voice(0.6), None, derived_generator(s))[0] for s in (0, 0, 1))
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
    monkeypatch.setitem(sys.modules, "parselmouth", None)
    with pytest.raises(UserError, match=r"pip install 'metis-lightning\[vc\]'"):
        change_voice(voice(0.6), VoiceChange(1.1, 1.1), seed=0)
