"""LibriMix on disk and made when read: the same samples, checked sums, enrollments, and every fault."""

import json

import numpy as np
import pytest
import soundfile
import torch

from fake_corpora import LENGTHS, MIXTURES, encoded, librimix, librimix_storage, put, voice
from metis_lightning.data.corpora.librimix import LibriMixScan, OnTheFlyMixtureScan
from metis_lightning.data.corpora.librimix_tests import LibriMixTests
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.manifest.scan import Fault
from metis_lightning.data.manifest.test_sets import draw_enrollments, parse_source, read_enrollments
from metis_lightning.data.media.audio import read_audio
from metis_lightning.data.recipes.recipe import derived_generator
from metis_lightning.data.recipes.tse import PairedRecipe
from metis_lightning.errors import UserError

IDS = ["_".join(pair) for pair in MIXTURES]


@pytest.fixture
def storage(tmp_path):
    return librimix_storage(tmp_path / "storage")


def prepared(scan, out):
    build_manifest(scan, BuildOptions(out))
    return read_manifest(out, scan.root)


def made_scan(storage, mix="mix_clean", rate=16_000, mode="min"):
    return OnTheFlyMixtureScan(
        mix=mix,
        librispeech=storage / "LibriSpeech",
        root=str(storage),
        metadata=(storage / "libri2mix_test-clean.csv",),
        sample_rate=rate,
        mode=mode,
    )


@pytest.mark.parametrize("mix", ["mix_clean", "mix_both", "mix_single"])
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("rate", [8000, 16_000])
def test_a_made_mixture_is_the_file_that_the_rules_make(storage, tmp_path, mix, mode, rate):
    root = librimix(storage, rate, mode)
    disk = prepared(LibriMixScan(mix=mix, librispeech=storage / "LibriSpeech", root=str(root)), tmp_path / "d.jsonl")
    made = prepared(made_scan(storage, mix, rate, mode), tmp_path / "m.jsonl")
    assert [u.id for u in disk] == [u.id for u in made]
    assert len(disk) == (4 if mix == "mix_single" else 8)
    for on_disk, on_the_fly in zip(disk, made, strict=True):
        for name in ("path", "mixture"):
            file, wave = soundfile.read(getattr(on_disk, name))[0], getattr(on_the_fly, name).frames()[0][:, 0]
            assert file.shape == wave.shape
            assert np.abs(file - wave).max() < 1e-4
        assert np.abs(wave).max() > 0.05
        assert (on_disk.seconds, on_disk.text, on_disk.speaker) == (
            on_the_fly.seconds,
            on_the_fly.text,
            on_the_fly.speaker,
        )


def test_sources_are_utterances_with_speaker_and_text(storage, tmp_path):
    root = librimix(storage, 16_000, "min")
    listed = prepared(LibriMixScan(librispeech=storage / "LibriSpeech", root=str(root)), tmp_path / "d.jsonl")
    assert [u.id for u in listed] == [f"{mixture}_s{n}" for mixture in IDS for n in (1, 2)]
    second = listed[1]
    assert (second.speaker, second.text, second.split) == ("22", "WORDS OF 22-2-0000", "test")
    assert second.seconds == pytest.approx(min(LENGTHS["11-1-0000"], LENGTHS["22-2-0000"]))


def test_a_mixture_is_not_needed_noise_for_clean_speech(storage, tmp_path):
    for noise in (storage / "wham_noise/tt").iterdir():
        noise.unlink()
    assert len(prepared(made_scan(storage), tmp_path / "m.jsonl")) == 8
    with pytest.raises(UserError, match="4 unreadable mixture"):
        prepared(made_scan(storage, "mix_both"), tmp_path / "n.jsonl")


def faults_of(root, tmp_path, mix="mix_clean"):
    out = tmp_path / "f.jsonl"
    with pytest.raises(UserError, match="max-faults"):
        build_manifest(LibriMixScan(mix=mix, root=str(root)), BuildOptions(out))
    build_manifest(LibriMixScan(mix=mix, root=str(root)), BuildOptions(out, max_faults=0.5))
    assert len(read_manifest(out, str(root))) == 6
    return [json.loads(line) for line in out.with_suffix(".faults.jsonl").read_text().splitlines()]


def test_a_wrong_source_is_found(storage, tmp_path):
    """A source of another mixture, and one that is a little too loud."""
    root = librimix(storage, 16_000, "min")
    path = root / "test/s2" / f"{IDS[2]}.wav"
    right = soundfile.read(path)[0]
    for wrong in (voice(len(right) / 16_000, 77), right * 1.01):
        put(path, encoded(wrong, 16_000))
        (fault,) = faults_of(root, tmp_path)
        assert fault["kind"] == "mixture is not the sum of its sources"
        assert fault["where"].endswith(IDS[2])
    # Repaired, it is scanned again.
    put(path, encoded(right, 16_000))
    assert build_manifest(LibriMixScan(root=str(root)), BuildOptions(tmp_path / "f.jsonl")).utterances == 8


def test_noise_counts_in_the_sum(storage, tmp_path):
    root = librimix(storage, 16_000, "min")
    path = root / "test/noise" / f"{IDS[0]}.wav"
    put(path, encoded(0.3 * voice(soundfile.info(path).duration, 88), 16_000))
    (fault,) = faults_of(root, tmp_path, "mix_both")
    assert fault["kind"] == "mixture is not the sum of its sources"


def test_odd_files_are_listed(storage, tmp_path):
    root = librimix(storage, 16_000, "min")
    path = root / "test/s1" / f"{IDS[1]}.wav"
    data, wave = path.read_bytes(), soundfile.read(path)[0]
    planted = {
        "missing file": None,
        "0 bytes": b"",
        "truncated audio": data[:-100],
        "wrong sample rate": encoded(wave, 8000),
        "wrong length": encoded(wave[:-1], 16_000),
        "NaN or infinite samples": encoded(wave * float("nan"), 16_000, subtype="FLOAT"),
    }
    for kind, content in planted.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)
        (fault,) = faults_of(root, tmp_path)
        assert fault["kind"] == kind


def test_wrong_tables_are_refused(storage, tmp_path):
    root = librimix(storage, 16_000, "min")
    table = root / "metadata/mixture_test_mix_clean.csv"
    text = table.read_text()
    table.write_text(text[:-60])
    with pytest.raises(UserError, match=r"\.csv:5: expected 5 fields"):
        LibriMixScan(root=str(root)).shards()
    table.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="not a list of LibriMix's mixtures"):
        LibriMixScan(root=str(root)).shards()
    with pytest.raises(UserError, match="nothing to prepare"):
        build_manifest(LibriMixScan(root=str(tmp_path)), BuildOptions(tmp_path / "m.jsonl"))
    escaping = text.replace(f"test/s1/{IDS[0]}", f"x/../s1/{IDS[0]}")
    table.write_text(escaping)
    scan = LibriMixScan(root=str(root))
    found = [one for shard in scan.shards() for one in scan.scan(shard)]
    (fault,) = [one for one in found if isinstance(one, Fault)]
    assert "without '..'" in fault.detail
    assert len(found) == 1 + 2 * 3


def test_enrollments_are_drawn_once_and_written(storage, tmp_path):
    librimix(storage, 16_000, "min")
    root = storage / "Libri2Mix/wav16k/min"
    manifest = tmp_path / "m.jsonl"
    listed = prepared(LibriMixScan(librispeech=storage / "LibriSpeech", root=str(root)), manifest)
    tests = LibriMixTests(root, manifest)
    written = tmp_path / "m.map_mixture2enrollment"
    lines = [line.split() for line in written.read_text().splitlines()]
    assert len(lines) == 8
    for mixture, utterance, place in lines:
        folder, other = place.split("/")
        enrolled = other.split("_")[int(folder[1:]) - 1]
        assert utterance in mixture.split("_")
        assert enrolled.split("-")[0] == utterance.split("-")[0]
        assert enrolled != utterance
    drawn = draw_enrollments([parse_source(u.id) for u in reversed(listed)])
    assert drawn == read_enrollments(written)
    assert tests.test_sets == ("librimix-test",)
    trials = tests.load_trials("librimix-test")
    assert [t.id for t in trials] == [u.id for u in listed]
    item = tests.load_item(trials[0])
    # The first source is longer than the second, so that in mode "min" it does not say all of its text.
    assert (item.text, item.speaker, item.language) == (None, "11", "en")
    assert tests.load_item(trials[1]).text == "WORDS OF 22-2-0000"
    assert [u.is_whole for u in listed[:4]] == [False, True, False, True]
    assert float((item.mixture - item.target - item.interferer).abs().max()) < 3e-4
    enrolled = drawn[parse_source(trials[0].id)]
    file = read_audio(root / f"test/s{enrolled.number}/{enrolled.mixture}.wav", 24_000)
    assert float((item.enrollment - file).abs().max()) < 1e-4


def test_a_given_enrollment_list_is_followed(storage, tmp_path):
    manifest = tmp_path / "m.jsonl"
    prepared(made_scan(storage), manifest)
    given = put(tmp_path / "map", f"{IDS[0]} 11-1-0000 s2/{IDS[1]}\n")
    with pytest.raises(UserError, match="no enrollment in .* for 7 targets"):
        LibriMixTests(storage, manifest, given)
    lines = [
        f"{e.mixture} {e.utterance} s1/{IDS[0]}" for e in map(parse_source, (f"{m}_s{n}" for m in IDS for n in (1, 2)))
    ]
    put(given, "\n".join(lines))
    tests = LibriMixTests(storage, manifest, given)
    assert {t.enrollment for t in tests.load_trials("librimix-test")} == {f"{IDS[0]}_s1"}
    for wrong in (f"{IDS[0]} 11-1-0000", f"{IDS[0]} 99-1-0000 s2/{IDS[1]}", f"{IDS[0]} 11-1-0000 x/{IDS[1]}"):
        with pytest.raises(UserError, match="map:1: expected"):
            read_enrollments(put(given, wrong))


def test_mixtures_train_extraction(storage, tmp_path):
    corpus = SpeechCorpus(prepared(made_scan(storage), tmp_path / "m.jsonl"))
    item = PairedRecipe(max_prompt_seconds=0.4)(corpus, 0, derived_generator(1))
    cut = item.prompt_length
    assert 0 < cut <= 9600
    assert item.wave.shape == item.source.shape
    assert torch.equal(item.wave[:cut], item.source[:cut])
    gain = item.applied["gain"]
    assert torch.allclose(item.wave[cut:], corpus.wave(0) * gain)
    assert torch.allclose(item.source[cut:], corpus.mixture(0) * gain)
    assert PairedRecipe(prompts=False)(corpus, 0, derived_generator(1)).prompt_length == 0


def test_three_voices(storage, tmp_path):
    """Libri3Mix: each source's interferer is the sum of the two others, on disk and made."""
    names, gains = ("11-1-0000", "22-2-0000", "33-3-0001"), (0.5, 0.7, 0.6)
    mixture = "_".join(names)
    paths = [f"test-clean/{'/'.join(name.split('-')[:2])}/{name}.flac" for name in names]
    fields = [value for path, gain in zip(paths, gains, strict=True) for value in (path, repr(gain))]
    header = "mixture_ID," + ",".join(f"source_{n}_path,source_{n}_gain" for n in (1, 2, 3)) + ",noise_path,noise_gain"
    table = put(tmp_path / "libri3mix_test-clean.csv", f"{header}\n{mixture},{','.join(fields)},tt/long.wav,0.3\n")

    waves = [soundfile.read(storage / "LibriSpeech" / p)[0] * g for p, g in zip(paths, gains, strict=True)]
    waves = [wave[: min(map(len, waves))] for wave in waves]
    root, folders = tmp_path / "Libri3Mix/wav16k/min", ("mix_clean", "s1", "s2", "s3")
    for folder, wave in zip(folders, (sum(waves), *waves), strict=True):
        put(root / "test" / folder / f"{mixture}.wav", encoded(wave, 16_000))
    columns = "mixture_ID,mixture_path,source_1_path,source_2_path,source_3_path,length"
    there = ",".join(f"/elsewhere/min/test/{folder}/{mixture}.wav" for folder in folders)
    put(root / "metadata/mixture_test_mix_clean.csv", f"{columns}\n{mixture},{there},{len(waves[0])}\n")

    made = OnTheFlyMixtureScan(root=str(storage), metadata=(table,))
    for scan in (LibriMixScan(root=str(root)), made):
        manifest = tmp_path / f"{type(scan).__name__}.jsonl"
        listed = prepared(scan, manifest)
        assert [(u.id, u.speaker) for u in listed] == [(f"{mixture}_s{n}", name[:2]) for n, name in enumerate(names, 1)]
        corpus = SpeechCorpus(listed)
        for number, wave in enumerate(waves):
            expected = read_audio(root / f"test/s{number + 1}/{mixture}.wav", 24_000)
            assert float((corpus.wave(number) - expected).abs().max()) < 2e-4
            assert corpus.mixture(number).numel() == corpus.wave(number).numel() == round(len(wave) * 1.5)
        enrollments = [f"{mixture} {name} s{n}/{mixture}" for n, name in enumerate(names, 1)]
        tests = LibriMixTests(scan.root, manifest, put(tmp_path / "map3", "\n".join(enrollments)))
        item = tests.load_item(tests.load_trials("librimix-test")[1])
        assert float((item.mixture - item.target - item.interferer).abs().max()) < 5e-4
        assert float((item.interferer - corpus.wave(0) - corpus.wave(2)).abs().max()) < 1e-4
