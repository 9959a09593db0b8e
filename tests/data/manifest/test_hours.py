from pathlib import Path

import pytest

from metis_lightning.data.corpora.starter import STARTER_ROOT, StarterDataModule
from metis_lightning.data.manifest.selection import within_hours
from metis_lightning.data.manifest.table import UtteranceTable
from metis_lightning.data.recipes.recipe import PlainRecipe
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def ids(utterances):
    return [utterance.id for utterance in utterances]


def trained_on(**options):
    data = StarterDataModule(PlainRecipe(), **options)
    return list(data.train_dataloader().dataset.corpus.utterances)


def minutes(utterances):
    return sum(utterance.seconds for utterance in utterances) / 60


def utterance(number):
    return Utterance(f"u{number}", Path("a.wav"), f"s{number // 10}", "", "en", 36.0, 24_000, "train")


EVERYONE = [utterance(number) for number in range(200)]
"""20 speakers, each with 10 utterances of a hundredth of an hour."""


def within(hours, listed=EVERYONE):
    return list(within_hours(UtteranceTable.of(listed), hours))


@pytest.mark.parametrize("hours", [0.001, 0.01, 0.2, 0.555, 1.99, 2.0, 5.0])
def test_the_cap_takes_as_much_as_fits_in_whole_speakers_save_one(hours):
    chosen = within(hours)
    assert len(chosen) == min(200, int(hours / 0.01 + 1e-6))
    counts = [sum(u.speaker == f"s{s}" for u in chosen) for s in range(20)]
    assert sum(0 < count < 10 for count in counts) <= 1
    assert ids(chosen) == [i for i in ids(EVERYONE) if i in set(ids(chosen))]


def test_fewer_hours_are_among_more_whatever_the_order():
    chosen = [set(ids(within(hours))) for hours in (0.05, 0.1, 0.5)]
    assert [len(each) for each in chosen] == [5, 10, 50]
    assert chosen[0] < chosen[1] < chosen[2]
    assert set(ids(within(0.1, EVERYONE[::-1]))) == chosen[1]
    # As good as at random: not the first.
    assert within(0.5) != EVERYONE[:50]
    # The same on every machine and in every version: a run that is gone on with keeps its data.
    assert chosen[0] == {"u11", "u12", "u14", "u16", "u19"}


def test_training_is_capped_and_validation_is_not():
    whole, half = trained_on(), trained_on(hours=0.5)
    assert minutes(whole) == pytest.approx(85.8, abs=0.1)
    assert 29.7 < minutes(half) <= 30
    assert set(half) < set(whole)
    assert trained_on(hours=1000) == whole
    assert len(StarterDataModule(PlainRecipe(), hours=0.01).val_dataloader().dataset) == 127


def test_hours_are_of_what_can_be_heard_before_speeds():
    short = trained_on(hours=0.1, max_seconds=3.0)
    assert 5.9 < minutes(short) <= 6
    assert max(utterance.seconds for utterance in short) <= 3
    fast = trained_on(hours=0.1, max_seconds=3.0, speeds=(1.0, 1.1))
    assert ids(fast) == [*ids(short), *(f"sp1.1-{i}" for i in ids(short))]


def test_a_cap_that_takes_nothing_is_a_mistake():
    with pytest.raises(UserError, match="must be positive, got 0"):
        trained_on(hours=0, root=STARTER_ROOT)
    with pytest.raises(UserError, match="no utterances"):
        trained_on(hours=1e-5)
