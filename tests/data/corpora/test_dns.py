"""The DNS Challenge 2020: test sets, lists, and pairs made by its rules."""

from itertools import count, repeat

import numpy as np
import pytest
import torch

from fake_corpora import dns, encoded, put, voice
from metis_lightning.data.corpora.dns import DnsScan, DnsTests
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.recipes.dns import (
    DnsRecipe,
    DnsRules,
    active_share,
    build_clip,
    direct_path,
    mix_levels,
)
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.errors import UserError


@pytest.fixture
def root(tmp_path):
    return dns(tmp_path / "DNS-Challenge")


@pytest.mark.parametrize("below", ["", "datasets"])
def test_the_test_sets_are_paired_by_file_id(root, below):
    tests = DnsTests(root / below)
    sets = {name: [t.id for t in tests.load_trials(name)] for name in tests.test_sets}
    assert list(sets) == [
        *("no_reverb", "with_reverb", "real_recordings"),
        *("blind_noreverb", "blind_reverb", "blind_realrec"),
    ]
    assert sets["no_reverb"] == [f"no_reverb_fileid_{n}" for n in (0, 7, 300)]
    assert sets["real_recordings"][1] == "real_recordings_ms_realrec_headset_a-b"
    assert sets["blind_reverb"] == ["blind_reverb_fileid_2"]
    item = tests.load_item(tests.load_trials("with_reverb")[1])
    folder = root / "datasets/test_set/synthetic/with_reverb"
    assert torch.equal(item.target, read_audio(folder / "clean/clean_fileid_7.wav", 24_000))
    assert torch.equal(item.mixture, read_audio(next(folder.glob("noisy/*fileid_7.wav")), 24_000))
    assert (item.text, item.enrollment) == (None, None)
    real = tests.load_item(tests.load_trials("real_recordings")[0])
    assert real.target is None
    with pytest.raises(UserError, match="'real_recordings' has no target"):
        real.signal("target")


def test_a_missing_half_stops_the_test(root):
    clean = root / "datasets/test_set/synthetic/no_reverb/clean"
    (clean / "clean_fileid_7.wav").rename(clean / "clean_fileid_8.wav")
    with pytest.raises(UserError, match="2 faults, such as .*fileid_7.wav: noisy without clean"):
        DnsTests(root)
    with pytest.raises(UserError, match="no test item"):
        DnsTests(root / "datasets/noise")
    with pytest.raises(UserError, match="no such folder"):
        DnsTests(root / "none")


def test_speech_and_pairs_are_listed(root, tmp_path):
    summary = build_manifest(DnsScan(str(root / "datasets")), BuildOptions(tmp_path / "m.jsonl"))
    listed = read_manifest(tmp_path / "m.jsonl", str(root / "datasets"))
    assert dict(summary.splits) == {"train": 4, "test": 6}
    speech = [u for u in listed if u.split == "train"]
    assert {u.speaker for u in speech} == {"reader_06700", "reader_06701"}
    assert all(u.mixture is None for u in speech)
    pairs = [u for u in listed if u.split == "test"]
    assert all(u.mixture.stem.rpartition("_")[2] == u.path.stem.rpartition("_")[2] for u in pairs)


def test_faults_of_pairs_are_listed(root, tmp_path):
    folder = root / "datasets/test_set/synthetic/no_reverb"
    put(folder / "clean/clean_fileid_0.wav", encoded(voice(0.4, 1), 16_000))
    put(folder / "clean/clean_fileid_9.wav", encoded(voice(0.4, 1), 16_000))
    put(folder / "clean/nothing.wav", encoded(voice(0.4, 1), 16_000))
    put(folder / "noisy/other_fileid_7.wav", encoded(voice(0.5, 1), 16_000))
    with pytest.raises(UserError, match="max-faults"):
        build_manifest(DnsScan(str(root)), BuildOptions(tmp_path / "m.jsonl"))
    summary = build_manifest(DnsScan(str(root)), BuildOptions(tmp_path / "m.jsonl", max_faults=0.5))
    assert dict(summary.faults) == {"pair differs": 1, "missing pair": 1, "no file id": 1, "file id occurs twice": 1}


# --- synthesis ------------------------------------------------------------------------------------------------------


def rms(wave):
    return float(np.sqrt(np.mean(np.square(wave))))


def test_snr_and_level_are_those_asked_for():
    clean, noise = voice(2.0, 1), voice(2.0, 2, level=0.4)
    noisy, scale = mix_levels(clean, noise, snr_db=7, level_db=-30)
    assert 20 * np.log10(rms(noisy)) == pytest.approx(-30, abs=1e-6)
    added = noisy - clean * scale
    assert 20 * np.log10(rms(clean * scale) / rms(added)) == pytest.approx(7, abs=1e-6)
    # Parallel to the noise, so nothing else was added.
    assert abs(np.corrcoef(added, noise)[0, 1]) == pytest.approx(1, abs=1e-9)
    spike = np.zeros(1000)
    spike[0] = 1
    assert np.abs(mix_levels(spike, noise[:1000], 20, -15)[0]).max() == pytest.approx(0.99)
    with pytest.raises(UserError, match="silent"):
        mix_levels(clean, 0 * noise, 0, -25)


def test_clips_are_filled_with_silence_between():
    rules = DnsRules(silence=0.01, sample_rate=1000)
    clip = build_clip((np.full(30, 0.1 + 0.1 * n) for n in count()), 100, rules, derived_generator(0))
    assert clip.shape == (100,)
    expected = np.concatenate([np.full(30, 0.1), np.zeros(10), np.full(30, 0.2), np.zeros(10), np.full(20, 0.3)])
    assert np.allclose(clip, expected)
    # What is clipped is passed over.
    clip = build_clip((np.full(30, 1.0 if n == 0 else 0.2) for n in count()), 30, rules, derived_generator(0))
    assert np.allclose(clip, 0.2)
    with pytest.raises(UserError, match="50 recordings in a row are clipped"):
        build_clip(repeat(np.ones(30)), 30, rules, derived_generator(0))


def reference_activity(wave, rate):
    """The published detector, window by window."""
    wave = wave * 10 ** (-25 / 20) / rms(wave)
    active, last, windows = 0, 0.0, range(0, len(wave), int(rate * 0.05))
    for start in windows:
        energy = np.sum(wave[start : start + int(rate * 0.05)] ** 2)
        probability = 1 / (1 + np.exp(1 - 0.2 * 20 * np.log10(energy + np.finfo(float).eps)))
        weight = 0.8 if probability > last else 0.05
        active += probability * weight + last * (1 - weight) > 0.13
        last = probability
    return active / len(windows)


def test_activity_is_the_published_detectors():
    speech = voice(2.0, 1)
    speech[8000:24_000] *= 1e-4
    for wave in (speech, voice(1.03, 2), np.concatenate([voice(0.3, 3), np.zeros(16_000)])):
        assert active_share(wave, 16_000) == pytest.approx(reference_activity(wave, 16_000))
    assert 0 < active_share(speech, 16_000) < 1


def test_the_direct_path_keeps_delay_and_gain():
    response = np.array([0.0, 0.1, -0.8, 0.3])
    assert np.allclose(direct_path(np.array([1.0, 2.0, 3.0, 4.0]), response), [0, 0, -0.8, -1.6])


@pytest.fixture
def corpus(root, tmp_path):
    build_manifest(DnsScan(str(root / "datasets")), BuildOptions(tmp_path / "m.jsonl"))
    listed = read_manifest(tmp_path / "m.jsonl", str(root / "datasets"))
    return SpeechCorpus(u for u in listed if u.split == "train")


def test_pairs_are_made_by_the_rules(root, corpus, tmp_path):
    response = np.zeros(400)
    response[[20, 300]] = 0.9, 0.4
    put(tmp_path / "rir/room.wav", encoded(response, 16_000))
    rules = DnsRules(seconds=1.5, snr_range=(5, 6))
    recipe = DnsRecipe(root / "datasets/noise", tmp_path / "rir", rules, rir_chance=1.0, dry_target=False)
    item = recipe(corpus, 0, derived_generator(3))
    assert item.wave.shape == item.source.shape == (36_000,)
    assert item.prompt_length == 0
    assert item.applied["snr_db"] == 5
    assert -35 <= item.applied["level_db"] < -15
    assert recipe.seconds(corpus, 0) == 1.5
    snr_db = 20 * np.log10(rms(item.wave.numpy()) / rms((item.source - item.wave).numpy()))
    assert snr_db == pytest.approx(5, abs=0.2)
    again = recipe(corpus, 0, derived_generator(3))
    assert torch.equal(item.source, again.source)
    dry = DnsRecipe(root / "datasets/noise", tmp_path / "rir", rules, rir_chance=1.0)(corpus, 0, derived_generator(3))
    assert torch.equal(dry.source, item.source)
    assert rms(dry.wave.numpy()) < rms(item.wave.numpy())


def test_speech_that_is_never_active_is_refused(root, corpus):
    with pytest.raises(UserError, match="active for less than 100%"):
        DnsRecipe(root / "datasets/noise", rules=DnsRules(seconds=0.5, min_activity=1.0))(
            corpus, 0, derived_generator(0)
        )
    with pytest.raises(ValueError, match="snr_range"):
        DnsRules(snr_range=(5, 5))
