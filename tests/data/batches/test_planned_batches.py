"""Batches are planned by what items will hold, in every epoch, and padding is that of the batches made."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch

from metis_lightning.data.batches.module import SpeechDataModule
from metis_lightning.data.batches.sampler import SecondsBatchSampler, padding_without_buckets
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.manifest.corpus import SpeechCorpus
from metis_lightning.data.recipes.recipe import (
    OmniRecipe,
    PlainRecipe,
    Recipe,
    TtsRecipe,
    WeightedRecipe,
    item_generator,
    planned_lengths,
)
from metis_lightning.data.recipes.se import Corruptions, SeRecipe
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.data.recipes.vc import VcRecipe, WorldConverter
from metis_lightning.types import WAVE_RATE

QUIET = Corruptions(room_chance=0, noise_chance=0, band_chance=0)


def tse() -> Recipe:
    return TseRecipe(enrollment="utterance")


def omni() -> Recipe:
    # Without voice conversion, which takes its time: its prompts are those of extraction.
    return OmniRecipe(
        [WeightedRecipe(TtsRecipe(), 0.5), WeightedRecipe(tse(), 0.3), WeightedRecipe(SeRecipe(QUIET), 0.2)]
    )


@pytest.fixture(autouse=True)
def silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves of the right length whose audio is not read, which takes its time."""

    def silent(self: SpeechCorpus, index: int) -> torch.Tensor:
        return torch.zeros(round(self.seconds(index) * WAVE_RATE), dtype=torch.int16)

    monkeypatch.setattr(SpeechCorpus, "samples", silent)


def module(recipe: Recipe, **options: object) -> SpeechDataModule:
    return StarterDataModule(recipe=recipe, batch_seconds=60, **options)


@pytest.mark.parametrize("make", [tse, omni])
def test_the_padding_that_is_told_is_that_of_the_batches(make: object, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        data = module(make())
        loader = data.train_dataloader()
    heard, padded, longest = 0, 0, 0
    for batch in loader:
        heard, padded = heard + int(batch.lengths.sum()), padded + batch.wave.numel()
        longest = max(longest, batch.wave.numel())
    made = 1 - heard / padded
    sampler = loader.batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    assert sampler.padding() == pytest.approx(made, abs=0.003)
    assert made < 0.07
    assert longest / WAVE_RATE < 60 * 1.01
    # What counts is in them, not only little padding: 30 s of Omni's 60 once were.
    assert heard / len(sampler) / WAVE_RATE > 44
    assert sampler.mean_seconds() == pytest.approx(heard / len(sampler) / WAVE_RATE, rel=0.005)


@pytest.mark.parametrize("count", range(5, 40))
@pytest.mark.parametrize("seconds", [0.1, 0.7, 1.1])
def test_equal_lengths_have_no_padding_and_never_a_negative_one(count: int, seconds: float) -> None:
    lengths, batch_seconds = np.full(count, seconds), 3.1 * seconds
    sampler = SecondsBatchSampler(lengths, batch_seconds, shuffle=True)
    assert f"{sampler.padding():.1%}" == f"{padding_without_buckets(lengths, batch_seconds):.1%}" == "0.0%"


@pytest.mark.parametrize(
    "recipe",
    [
        tse(),
        omni(),
        TseRecipe(),
        VcRecipe(enrollment="utterance", max_prompt_seconds=1.0),
        PlainRecipe(max_seconds=2.0),
        PlainRecipe(crop_seconds=0.6),
        SeRecipe(QUIET),
        OmniRecipe([WeightedRecipe(PlainRecipe(), 1.0), WeightedRecipe(PlainRecipe(max_seconds=1.5), 1.0)]),
    ],
)
def test_an_item_lasts_what_was_planned(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorldConverter, "convert", lambda self, wave, reference, generator: (wave, {}))
    corpus = module(PlainRecipe()).corpora()["train"]
    for epoch in (0, 3):
        planned = planned_lengths(recipe, corpus, seed=5)
        lengths = planned(epoch) if callable(planned) else planned
        for index in range(0, len(corpus), 61):
            item = recipe(corpus, index, item_generator(5, epoch, corpus, index))
            assert item.wave.numel() / WAVE_RATE == pytest.approx(lengths[index], abs=0.03)


def test_only_lengths_that_are_drawn_are_planned_anew() -> None:
    corpus = module(PlainRecipe()).corpora()["train"]
    alike = OmniRecipe([WeightedRecipe(TtsRecipe(), 0.5), WeightedRecipe(TseRecipe(), 0.5)])
    assert not callable(planned_lengths(alike, corpus, 0))
    assert callable(planned_lengths(omni(), corpus, 0))


def drawn(epoch: int, count: int = 400) -> np.ndarray:
    """Lengths of which a part is drawn in each epoch; in epoch 9 far more than in any other."""
    generator = torch.Generator().manual_seed(epoch)
    extra = 4.0 * torch.rand(count, generator=generator) * (2 if epoch == 9 else 1)
    return (1.0 + 5 * torch.rand(count, generator=torch.Generator().manual_seed(99)) + extra).double().numpy()


@pytest.mark.parametrize("world_size", [1, 3])
def test_every_epoch_has_as_many_batches_each_item_once_and_within_the_seconds(
    world_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: world_size > 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)
    sampler = SecondsBatchSampler(drawn, 60.0, shuffle=True, seed=1)
    for epoch in range(12):
        sampler.set_epoch(epoch)
        shares = []
        for rank in range(world_size):
            monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            shares.append([[index for _, index in batch] for batch in sampler])
        assert {len(share) for share in shares} == {len(sampler)}
        assert sorted(i for share in shares for batch in share for i in batch) == list(range(400))
        lengths = drawn(epoch)
        longest = max(len(batch) * lengths[batch].max() for share in shares for batch in share)
        assert longest <= 60 if epoch != 9 else longest < 60 * 1.6
    sampler.resume(7, ((world_size, 5),))
    resumed = list(sampler)
    whole = SecondsBatchSampler(drawn, 60.0, shuffle=True, seed=1)
    whole.set_epoch(7)
    assert resumed == list(whole)[5:]


def test_what_max_seconds_leaves_out_is_said_with_its_hours(caplog: pytest.LogCaptureFixture) -> None:
    everything = module(PlainRecipe(), max_seconds=60.0).corpora()["train"]
    seconds = everything.utterances.seconds
    with caplog.at_level(logging.INFO):
        kept = module(PlainRecipe(), max_seconds=4.0).corpora()["train"]
    (line,) = [message for message in caplog.messages if message.startswith("train")]
    long = seconds > 4.0
    assert len(kept) == int((~long).sum())
    assert f"train: {long.sum():,} of {len(seconds):,} utterances" in line
    assert f"{seconds[long].sum() / 3600:.3g} of {seconds.sum() / 3600:.3g} hours" in line
    assert "longer than data.max_seconds, 4 s" in line
    caplog.clear()
    assert isinstance(module(PlainRecipe(), max_seconds=60.0).corpora()["train"], SpeechCorpus)
    assert not [message for message in caplog.messages if "left" in message]
