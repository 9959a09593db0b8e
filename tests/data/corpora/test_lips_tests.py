"""Test clips of lip to speech: who is the prompt, and what a system is given."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av")

from fake_corpora import encoded, put
from fake_faces import RATE, clip, lrs3, speech
from metis_lightning.data.corpora.lips_tests import LipTests
from metis_lightning.data.corpora.lrs import lrs3_scan
from metis_lightning.data.manifest.build import BuildOptions, build_manifest
from metis_lightning.data.media.audio import read_audio
from metis_lightning.errors import UserError

CLIPS = ("test_UmvOgW6iV2s_00001", "test_UmvOgW6iV2s_00003", "test_alone_000001_00001")


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """LRS3 with a manifest, features of its three test clips, and Seed-TTS's prompts."""
    root = lrs3(tmp_path / "c")
    clip(root / "test/alone_000001/00001.mp4", 1.0, 9)
    put(root / "test/alone_000001/00001.txt", "Text:  ALONE\n")
    build_manifest(lrs3_scan(str(root)), BuildOptions(tmp_path / "lrs3.jsonl"))
    (tmp_path / "lips").mkdir()
    for number, (name, frames) in enumerate(zip(CLIPS, (40, 45, 25), strict=True)):
        np.save(tmp_path / f"lips/{name}.npy", np.full((frames, 768), float(number), dtype=np.float32))
    for number in range(6):
        path = tmp_path / f"seedtts/en/prompt-wavs/common_voice_en_{number}.wav"
        put(path, encoded(speech(1.0, 20 + number), RATE))
    return tmp_path


def test_prompts_come_from_seed_tts_by_the_seed(prepared: Path) -> None:
    def prompts(seed: int) -> dict[str, str]:
        tests = LipTests(prepared / "c", prepared / "lrs3.jsonl", prepared / "lips", prepared / "seedtts/en", seed=seed)
        assert tests.test_sets == ("lrs3-test",)
        return {trial.target: trial.enrollment for trial in tests.load_trials("lrs3-test")}

    first = prompts(0)
    assert set(first) == set(CLIPS)
    assert set(first.values()) <= {f"common_voice_en_{n}" for n in range(6)}
    assert prompts(0) == first
    assert any(prompts(seed) != first for seed in (1, 2))


def test_an_item_has_lips_prompt_and_words(prepared: Path) -> None:
    tests = LipTests(prepared / "c", prepared / "lrs3.jsonl", prepared / "lips", prepared / "seedtts/en")
    trial = next(t for t in tests.load_trials("lrs3-test") if t.target == CLIPS[1])
    item = tests.load_item(trial)
    assert (item.text, item.speaker, item.mixture) == ("ONE MORE", "UmvOgW6iV2s", None)
    assert torch.equal(item.features, torch.ones(45, 768))
    prompt = prepared / f"seedtts/en/prompt-wavs/{trial.enrollment}.wav"
    assert torch.equal(item.enrollment, read_audio(prompt, 24_000))
    assert item.target.numel() == pytest.approx(1.8 * 24_000, abs=2400)


def test_without_seed_tts_a_speaker_prompts_himself_with_another_clip(prepared: Path) -> None:
    tests = LipTests(prepared / "c", prepared / "lrs3.jsonl", prepared / "lips")
    trials = tests.load_trials("lrs3-test")
    assert {trial.target: trial.enrollment for trial in trials} == {CLIPS[0]: CLIPS[1], CLIPS[1]: CLIPS[0]}
    items = {trial.target: tests.load_item(trial) for trial in trials}
    assert torch.equal(items[CLIPS[0]].enrollment, items[CLIPS[1]].target)
    with pytest.raises(UserError, match="no test item found"):
        LipTests(prepared / "c", prepared / "lrs3.jsonl", prepared / "lips", shortest_prompt=9.0)


def test_what_is_missing_is_said_at_once(prepared: Path) -> None:
    (prepared / f"lips/{CLIPS[0]}.npy").unlink()
    with pytest.raises(UserError, match="lip features: 1 of 3 files are missing"):
        LipTests(prepared / "c", prepared / "lrs3.jsonl", prepared / "lips")
    with pytest.raises(UserError, match="no wav or flac file; give seedtts_testset/en"):
        LipTests(prepared / "c", prepared / "lrs3.jsonl", prompts=prepared / "lips")
