from collections import Counter
from dataclasses import replace

import pytest

from metis_lightning.data.corpora.starter_tests import STARTER_ROOT
from metis_lightning.data.manifest.records import read_manifest, read_trials
from metis_lightning.data.manifest.test_sets import write_trials
from metis_lightning.data.recipes.prompts import same_words
from starter_trials import SNRS_DB, TrialPlan, make_starter_trials, make_trials, read_speaker_sex

TRIALS = STARTER_ROOT / "tse_trials.jsonl"


@pytest.fixture(scope="module")
def utterances():
    return {u.id: u for u in read_manifest(STARTER_ROOT / "starter.jsonl")}


def of_set(test_set):
    return [trial for trial in read_trials(TRIALS) if trial.test_set == test_set]


def test_the_committed_list_is_what_the_rule_makes(tmp_path):
    write_trials(tmp_path / "t.jsonl", make_starter_trials())
    assert (tmp_path / "t.jsonl").read_bytes() == TRIALS.read_bytes()


def test_every_trial_keeps_the_rules(utterances):
    for trial in read_trials(TRIALS):
        target, interferer, enrollment = (utterances[i] for i in (trial.target, trial.interferer, trial.enrollment))
        assert {target.split, interferer.split, enrollment.split} == {trial.test_set}
        assert enrollment.speaker == target.speaker != interferer.speaker
        assert enrollment.id != target.id
        assert enrollment.seconds >= 2.5
        assert not same_words(target.text, interferer.text)
        assert not same_words(target.text, enrollment.text)


@pytest.mark.parametrize("test_set", ["test-human", "test-unseen"])
def test_sets_are_balanced(test_set, utterances):
    trials = of_set(test_set)
    assert Counter(t.snr_db for t in trials) == dict.fromkeys(SNRS_DB, 12)
    first = trials[:6]
    speakers = {utterances[t.target].speaker for t in trials}
    assert {utterances[t.target].speaker for t in first} == speakers
    assert {t.snr_db for t in first} == set(SNRS_DB)
    for speaker in speakers:
        assert {t.snr_db for t in trials if utterances[t.target].speaker == speaker} == set(SNRS_DB)


def test_human_targets_are_mostly_english(utterances):
    languages = Counter(utterances[t.target].language for t in of_set("test-human"))
    assert languages == {"en": 37, "fr": 8, "it": 8, "ru": 7}


def test_unseen_set_is_balanced_by_speaker_sex_and_snr(utterances):
    sex = read_speaker_sex(STARTER_ROOT / "starter.jsonl")
    trials = of_set("test-unseen")
    assert len({t.target for t in trials}) == 60
    cells = Counter(
        (
            utterances[t.target].speaker,
            sex[utterances[t.target].speaker] == sex[utterances[t.interferer].speaker],
            t.snr_db,
        )
        for t in trials
    )
    assert set(cells.values()) == {1}
    assert len(cells) == 60


def test_unseen_speakers_are_in_no_training_line(utterances):
    unseen = {utterances[t.target].speaker for t in of_set("test-unseen")}
    assert unseen.isdisjoint(u.speaker for u in utterances.values() if u.split in ("train", "dev"))


def test_impossible_plans_are_refused(utterances):
    alone = [u for u in utterances.values() if u.speaker == "june"]
    with pytest.raises(ValueError, match="no other speaker than 'june'"):
        make_trials(alone, {"june": "f"}, TrialPlan("test-human", ("june",), 1))
    same = [replace(alone[0], id=f"{name}_0", speaker=name, text="Hello.") for name in ("ann", "bea")]
    with pytest.raises(ValueError, match="'bea' says nothing but the words of 'ann_0'"):
        make_trials(same, {"ann": "f", "bea": "f"}, TrialPlan("test-human", ("ann",), 1))
    with pytest.raises(ValueError, match="no utterance in split 'test-human' of speakers"):
        make_trials(alone, {"june": "f"}, TrialPlan("test-human", ("zoe",), 1))
