"""Readers of test sets: Seed-TTS-eval, VCTK, LibriSpeech, EmiliaMix."""

import json

import pytest
import torch

from fake_corpora import emilia_members, encoded, librispeech, put, tar_bytes, voice
from metis_lightning.data.corpora.emilia import EmiliaScan
from metis_lightning.data.corpora.emiliamix import EmiliaMixTests
from metis_lightning.data.corpora.librispeech import LibriSpeechScan, LibriSpeechTests
from metis_lightning.data.corpora.seedtts import SeedTtsTests
from metis_lightning.data.corpora.vctk import VctkScan, VctkTests
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.manifest.records import read_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError

# --- Seed-TTS-eval --------------------------------------------------------------------------------------------------


@pytest.fixture
def seedtts(tmp_path):
    root = tmp_path / "seedtts_testset"
    for number, name in enumerate(("en/prompt-wavs/p1", "zh/prompt-wavs/p2", "en/wavs/u1-1", "zh/wavs/u2-2")):
        put(root / f"{name}.wav", encoded(voice(0.5, number), 16_000))
    put(
        root / "en/meta.lst", "u1-1|We asked.|prompt-wavs/p1.wav|Get the fund.\nu1-3|We asked.|prompt-wavs/p1.wav|Go.\n"
    )
    put(root / "zh/meta.lst", "u2-2|你好|prompt-wavs/p2.wav|再见\n")
    put(root / "zh/hardcase.lst", "h1|你好|prompt-wavs/p2.wav|四十四石狮子\n")
    put(root / "en/non_para_reconstruct_meta.lst", "u1-1|We asked.|prompt-wavs/p1.wav|Get the fund.|wavs/u1-1.wav\n")
    put(root / "zh/non_para_reconstruct_meta.lst", "u2-2|你好|prompt-wavs/p2.wav|再见|wavs/u2-2.wav\n")
    return root


def test_seedtts_lists(seedtts):
    tests = SeedTtsTests(seedtts)
    assert tests.test_sets == ("seedtts-en", "seedtts-zh", "seedtts-hard", "seedtts-vc-en", "seedtts-vc-zh")
    first, second = (tests.load_item(trial) for trial in tests.load_trials("seedtts-en"))
    assert (first.id, first.text, first.prompt_text, first.language) == (
        *("seedtts-en_u1-1", "Get the fund.", "We asked.", "en"),
    )
    assert torch.equal(first.enrollment, read_audio(seedtts / "en/prompt-wavs/p1.wav", 24_000))
    assert torch.equal(first.target, read_audio(seedtts / "en/wavs/u1-1.wav", 24_000))
    assert (first.mixture, second.target) == (None, None)
    (hard,) = (tests.load_item(trial) for trial in tests.load_trials("seedtts-hard"))
    assert (hard.text, hard.language) == ("四十四石狮子", "zh")
    (converted,) = (tests.load_item(trial) for trial in tests.load_trials("seedtts-vc-zh"))
    assert torch.equal(converted.mixture, read_audio(seedtts / "zh/wavs/u2-2.wav", 24_000))
    assert torch.equal(converted.enrollment, read_audio(seedtts / "zh/prompt-wavs/p2.wav", 24_000))
    assert (converted.text, converted.target) == ("再见", None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("u1-1", "meta.lst:1: expected 2 to 5 fields"),
        ("u|a|b|c|d|e", "expected 2 to 5 fields"),
        ("u|a|../../secret.wav|b", "without '..'"),
        ("u|a|/etc/passwd|b", "without '..'"),
        ("../u|a|prompt-wavs/p1.wav|b", "may hold only"),
        ("u|a|prompt-wavs/p1.wav|b\nu|a|prompt-wavs/p1.wav|b", "occurs twice"),
        ("u|a|prompt-wavs/none.wav|b", "1 of 1 files are missing, first .*none.wav"),
    ],
)
def test_wrong_lines_are_named(seedtts, line, message):
    put(seedtts / "en/meta.lst", line)
    with pytest.raises(UserError, match=message):
        SeedTtsTests(seedtts)


def test_shorter_lines_and_other_bytes(seedtts):
    put(seedtts / "en/meta.lst", "a|Only text.\nb.wav|Text.|prompt-wavs/p1.wav\n")
    tests = SeedTtsTests(seedtts)
    first, second = (tests.load_item(trial) for trial in tests.load_trials("seedtts-en"))
    assert (first.text, first.enrollment, second.id, second.text) == ("Only text.", None, "seedtts-en_b", "Text.")
    put(seedtts / "en/meta.lst", b"a|\xff\n")
    with pytest.raises(UserError, match="not UTF-8"):
        SeedTtsTests(seedtts)
    with pytest.raises(UserError, match="no test item"):
        SeedTtsTests(seedtts / "none")


# --- VCTK -----------------------------------------------------------------------------------------------------------


def vctk(root, new=True):
    for speaker in ("p225", "p226", "p315"):
        for number in range(1, 4):
            name = f"{speaker}_{number:03d}"
            wave = voice(0.3, number, 48_000)
            place = f"wav48_silence_trimmed/{speaker}/{name}_mic1.flac" if new else f"wav48/{speaker}/{name}.wav"
            put(root / place, encoded(wave, 48_000, "FLAC" if new else "WAV"))
            if new:
                put(root / f"wav48_silence_trimmed/{speaker}/{name}_mic2.flac", encoded(wave, 48_000, "FLAC"))
            if speaker != "p315":
                put(root / f"txt/{speaker}/{name}.txt", f"Please call {name}.\n")
    return root


@pytest.mark.parametrize("new", [True, False])
def test_vctk(tmp_path, new):
    root = vctk(tmp_path / "VCTK", new)
    tests = VctkTests(root, count=6)
    trials = tests.load_trials("vctk")
    assert len({t.target for t in trials}) == 6
    assert all(t.target[:4] != t.enrollment[:4] and "p315" not in t.id for t in trials)
    assert [t.id for t in trials] == [t.id for t in VctkTests(root, count=6).load_trials("vctk")]
    assert trials[:2] == VctkTests(root, count=2).load_trials("vctk")
    assert [t.id for t in trials] != [t.id for t in VctkTests(root, count=6, seed=1).load_trials("vctk")]
    item = tests.load_item(trials[0])
    assert (item.text, item.speaker) == (f"Please call {trials[0].target}.", trials[0].enrollment[:4])
    assert (item.mixture.shape, item.target) == ((7200,), None)
    same = VctkTests(root, count=6, same_speaker=True).load_trials("vctk")
    assert all(t.target[:4] == t.enrollment[:4] and t.target != t.enrollment for t in same)
    with pytest.raises(UserError, match="6 recordings with texts, 200 are wanted"):
        VctkTests(root)
    summary = build_manifest(VctkScan(str(root)), BuildOptions(tmp_path / "m.jsonl"))
    assert (summary.utterances, summary.speakers) == (9, 3)
    assert dict(summary.sample_rates) == {"48000": 9}
    assert {u.text for u in read_manifest(tmp_path / "m.jsonl", str(root)) if u.speaker == "p315"} == {""}


def test_no_prompt_says_the_words_of_its_source(tmp_path):
    """Sentences 1 to 24 of VCTK are read by everyone."""
    root = vctk(tmp_path / "VCTK", True)
    for path in sorted(root.glob("txt/*/*.txt")):
        path.write_text(f"Sentence {path.stem[-3:]}.\n")
    trials = VctkTests(root, count=6).load_trials("vctk")
    assert all(t.target[-3:] != t.enrollment[-3:] for t in trials)


# --- LibriSpeech ----------------------------------------------------------------------------------------------------


def test_librispeech_is_listed_with_its_faults(tmp_path):
    root = librispeech(tmp_path / "LibriSpeech")
    scan = LibriSpeechScan(str(root), ("test-clean",))
    assert build_manifest(scan, BuildOptions(tmp_path / "m.jsonl")).utterances == 6
    first = read_manifest(tmp_path / "m.jsonl", str(root))[0]
    assert (first.id, first.speaker, first.text, first.split) == ("11-1-0000", "11", "WORDS OF 11-1-0000", "test")
    (root / "test-clean/11/1/11-1-0000.flac").unlink()
    path = root / "test-clean/22/2/22-2-0000.flac"
    path.write_bytes(path.read_bytes()[:-500])
    (root / "test-clean/33/3/33-3.trans.txt").write_text("33-3-0000 WORDS\n")
    summary = build_manifest(scan, BuildOptions(tmp_path / "m.jsonl", max_faults=0.9))
    assert summary.utterances == 3
    assert summary.faults["missing file"] == summary.faults["missing pair"] == 1
    assert summary.faults.total() == 3


def test_librispeech_tts(tmp_path):
    root = tmp_path / "LibriSpeech"
    for speaker in ("11", "22"):
        names = [f"{speaker}-1-{n:04d}" for n in range(4)]
        for seconds, name in zip((2.0, 3.5, 5.0, 12.0), names, strict=True):
            put(root / f"test-clean/{speaker}/1/{name}.flac", encoded(voice(seconds, 1), 16_000, "FLAC"))
        put(root / f"test-clean/{speaker}/1/{speaker}-1.trans.txt", "".join(f"{n} TEXT {n}\n" for n in names))
    tests = LibriSpeechTests(root, per_speaker=2)
    trials = tests.load_trials("librispeech-test-clean")
    assert {(t.target, t.enrollment) for t in trials} == {(f"{s}-1-0002", f"{s}-1-0001") for s in ("11", "22")}
    item = tests.load_item(trials[0])
    assert (item.text, item.prompt_text) == (f"TEXT {trials[0].target}", f"TEXT {trials[0].enrollment}")
    assert (item.target.shape, item.enrollment.shape, item.mixture) == ((120_000,), (84_000,), None)
    with pytest.raises(UserError, match="no test item"):
        LibriSpeechTests(root, "test-other")


# --- EmiliaMix ------------------------------------------------------------------------------------------------------


@pytest.fixture
def emilia(tmp_path):
    root = tmp_path / "Emilia"
    members = [m for s in range(5) for m in emilia_members(f"EN_B00000_S0000{s}", range(3 if s else 1), 3.2)]
    put(root / "EN/EN-B000000.tar", tar_bytes(members))
    build_manifest(EmiliaScan(str(root)), BuildOptions(root / "emilia.jsonl"))
    return root


def test_emiliamix_is_made_once_by_a_rule(emilia):
    tests = EmiliaMixTests(emilia, count=4)
    listed = emilia / "emiliamix-4-0.jsonl"
    content = listed.read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    speakers = {u.id: u.speaker for u in read_manifest(emilia / "emilia.jsonl")}
    assert len({speakers[row["target"]] for row in rows}) == 4
    for row in rows:
        assert speakers[row["target"]] == speakers[row["enrollment"]] != speakers[row["interferer"]]
        assert row["target"] != row["enrollment"]
        assert "snr_db" not in row
    item = tests.load_item(tests.load_trials("emiliamix")[0])
    assert torch.equal(item.mixture, item.target + item.interferer)
    assert item.target.shape == item.interferer.shape
    listed.unlink()
    EmiliaMixTests(emilia, count=4)
    assert listed.read_bytes() == content
    EmiliaMixTests(emilia, count=4, seed=1)
    assert (emilia / "emiliamix-4-1.jsonl").read_bytes() != content
    with pytest.raises(UserError, match="4 speakers have two utterances, 5 are wanted; .* or --data-options count=N"):
        EmiliaMixTests(emilia, count=5)
