from dataclasses import replace
from pathlib import Path

import pytest

from metis_lightning.data.hours import within_hours
from metis_lightning.data.recipe import PlainRecipe
from metis_lightning.data.starter import STARTER_ROOT, StarterDataModule
from metis_lightning.errors import UserError
from metis_lightning.types import Utterance


def ids(utterances):
    return [utterance.id for utterance in utterances]


def trained_on(**options):
    data = StarterDataModule(PlainRecipe(), **options)
    return data.train_dataloader().dataset.corpus.utterances


def minutes(utterances):
    return sum(utterance.seconds for utterance in utterances) / 60


@pytest.fixture
def listed():
    first = Utterance("", Path("a.wav"), "ada", "", "en", 36.0, 24_000, "train")
    return [replace(first, id=f"u{number}") for number in range(100)]


def test_the_cap_is_kept_and_the_order_is_the_manifests(listed):
    ten = within_hours(listed, 0.1)
    assert len(ten) == 10
    assert ids(ten) == [i for i in ids(listed) if i in set(ids(ten))]
    # As good as at random: not the first ten.
    assert ids(ten) != ids(listed)[:10]
    assert len(within_hours(listed, 0.1099)) == 10
    assert within_hours(listed, 1.0) == within_hours(listed, 50) == listed


def test_fewer_hours_are_among_more_whatever_the_order(listed):
    chosen = [set(ids(within_hours(listed, hours))) for hours in (0.05, 0.1, 0.5)]
    assert [len(each) for each in chosen] == [5, 10, 50]
    assert chosen[0] < chosen[1] < chosen[2]
    assert set(ids(within_hours(reversed(listed), 0.1))) == chosen[1]
    # The same on every machine and in every version: a run that is gone on with keeps its data.
    assert chosen[0] == {"u3", "u10", "u52", "u64", "u65"}


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
