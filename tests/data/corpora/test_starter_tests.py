"""The starter corpus's test sets for SE, VC, TTS and L2S: the same items every time, with what their task needs."""

from __future__ import annotations

import pytest
import torch

from metis_lightning.data.corpora.starter_tests import (
    StarterL2sTests,
    StarterSeTests,
    StarterTests,
    StarterTtsTests,
    StarterVcTests,
)
from metis_lightning.data.media.mixing import SILENT_RMS, rms

READERS = (StarterSeTests, StarterVcTests, StarterTtsTests, StarterL2sTests)


@pytest.fixture(scope="module")
def readers() -> dict[str, StarterTtsTests]:
    return {kind.task: kind() for kind in READERS}


def test_every_trial_for_extraction_has_one_of_each_other_task(readers: dict[str, StarterTtsTests]) -> None:
    extraction = StarterTests()
    for task, reader in readers.items():
        assert reader.test_sets == tuple(f"{name}-{task}" for name in ("test-human", "test-unseen"))
        for name in ("test-human", "test-unseen"):
            trials, originals = reader.load_trials(f"{name}-{task}"), extraction.load_trials(name)
            assert [trial.target for trial in trials] == [original.target for original in originals]
            assert [trial.id for trial in trials] == [f"{name}-{task}_{number:03d}" for number in range(60)]
            assert {trial.task for trial in trials} == {task}


def test_noisy_speech_is_the_same_every_time_and_never_clean(readers: dict[str, StarterTtsTests]) -> None:
    reader = readers["se"]
    again = StarterSeTests()
    for trial in reader.load_trials("test-unseen-se")[:4]:
        item = reader.load_item(trial)
        assert torch.equal(item.mixture, again.load_item(trial).mixture)
        assert item.mixture.shape == item.target.shape
        assert rms(item.mixture - item.target) >= SILENT_RMS
        assert float(item.mixture.abs().max()) <= 0.9901
        assert item.enrollment is None


def test_a_voice_is_converted_to_another_that_says_other_words(readers: dict[str, StarterTtsTests]) -> None:
    reader = readers["vc"]
    extraction = StarterTests()
    utterances = {utterance.id: utterance for utterance in extraction.corpus.utterances}
    for test_set in reader.test_sets:
        for trial in reader.load_trials(test_set):
            source, prompt = utterances[trial.target], utterances[trial.enrollment]
            assert source.speaker != prompt.speaker
            assert source.text != prompt.text
            assert source.split == prompt.split
    item = reader.load_item(reader.load_trials("test-unseen-vc")[0])
    assert (item.speaker, item.target) == ("bf-emma", None)
    assert item.text.startswith("Our youngest niece")


def test_a_text_and_lips_belong_to_the_target(readers: dict[str, StarterTtsTests]) -> None:
    spoken = readers["tts"].load_item(readers["tts"].load_trials("test-unseen-tts")[0])
    seen = readers["l2s"].load_item(readers["l2s"].load_trials("test-unseen-l2s")[0])
    assert spoken.mixture is None
    assert spoken.text != spoken.prompt_text != ""
    assert torch.equal(spoken.enrollment, seen.enrollment)
    assert torch.equal(spoken.target, seen.target)
    assert seen.features.shape == (len(seen.target) // 960, 768)
