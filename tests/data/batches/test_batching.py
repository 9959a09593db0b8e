import warnings

import numpy as np
import pytest
import torch

from metis_lightning.data.batches.sampler import SecondsBatchSampler, collate, fill_batches
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.recipe import PlainRecipe, SpeechItem
from metis_lightning.errors import UserError


def lengths(count=101):
    return [1.0 + 5 * float(x) for x in torch.rand(count, generator=torch.Generator().manual_seed(0))]


def on_rank(monkeypatch, rank, world_size):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: world_size)


def indices(batches):
    return sorted(index for batch in batches for _, index in batch)


def test_collate_pads_with_zeros():
    items = [SpeechItem(str(n), "s", "t", torch.ones(n), torch.full((n,), 2.0), 480) for n in (3, 5)]
    batch = collate(items)
    assert batch.wave.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
    assert batch.source.tolist() == [[2, 2, 2, 0, 0], [2, 2, 2, 2, 2]]
    assert batch.lengths.tolist() == [3, 5]
    assert batch.prompt_lengths.tolist() == [480, 480]
    assert (batch.ids, batch.speakers, batch.texts) == (("3", "5"), ("s", "s"), ("t", "t"))
    assert (batch.lengths.dtype, batch.prompt_lengths.dtype) == (torch.int64, torch.int64)


def test_collate_without_source_and_with_mixed_items():
    plain = SpeechItem("a", "s", "t", torch.ones(3))
    assert collate([plain]).source is None
    assert collate([plain]).prompt_lengths is None
    assert collate([plain]).has_source is None
    mixed = collate([plain, SpeechItem("b", "s", "t", torch.ones(2), torch.full((2,), 2.0), 1)])
    assert mixed.source.tolist() == [[0, 0, 0], [2, 2, 0]]
    assert mixed.has_source.tolist() == [False, True]
    assert mixed.prompt_lengths.tolist() == [-1, 1]
    with pytest.raises(ValueError, match="shape of its wave"):
        collate([SpeechItem("b", "s", "t", torch.ones(3), torch.ones(4))])


def test_collate_pads_features_and_keeps_scripts():
    items = [
        SpeechItem(str(n), "s", "t", torch.ones(n), language="en", script="hi", features=torch.ones(n, 2))
        for n in (1, 2)
    ]
    batch = collate(items)
    assert (batch.scripts, batch.languages) == (("hi", "hi"), ("en", "en"))
    assert batch.features.tolist() == [[[1, 1], [0, 0]], [[1, 1], [1, 1]]]
    assert batch.feature_lengths.tolist() == [1, 2]
    assert batch.to("cpu").features.shape == (2, 2, 2)
    with pytest.raises(ValueError, match="1 of 2 items of a batch have features"):
        collate([items[0], SpeechItem("b", "s", "t", torch.ones(3))])


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_item_once_within_the_seconds(shuffle):
    sampler = SecondsBatchSampler(lengths(), 20.0, shuffle, seed=1)
    batches = list(sampler)
    assert indices(batches) == list(range(101))
    assert max(len(batch) * max(lengths()[i] for _, i in batch) for batch in batches) <= 20.0
    assert len(batches) == len(sampler)
    padding = sum(len(b) * max(lengths()[i] for _, i in b) for b in batches) / sum(lengths())
    assert padding < 1.2


def test_fixed_lengths_fill_batches_evenly():
    assert sorted(map(len, SecondsBatchSampler([0.3] * 100, 3.0, True))) == [10] * 10
    assert sorted(map(len, SecondsBatchSampler([0.3] * 99, 3.0, True))) == [9] + [10] * 9


def test_an_item_longer_than_the_batch_is_alone():
    assert list(SecondsBatchSampler([5.0, 50.0, 5.0], 10.0, shuffle=False)) == [[(0, 0), (0, 2)], [(0, 1)]]


def test_epochs_differ_and_repeat():
    sampler = SecondsBatchSampler(lengths(), 20.0, True, seed=1)
    first = list(sampler)
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for batch in second for epoch, _ in batch} == {1}
    assert [[i for _, i in b] for b in first] != [[i for _, i in b] for b in second]
    assert len(first) == len(second)
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(SecondsBatchSampler(lengths(), 20.0, True, seed=2)) != first


def test_without_shuffle_all_epochs_are_the_first():
    sampler = SecondsBatchSampler(lengths(), 20.0, shuffle=False)
    first = list(sampler)
    sampler.set_epoch(3)
    assert list(sampler) == first


@pytest.mark.parametrize("world_size", [2, 3, 8])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_seconds", [1.0, 20.0])
def test_ranks_share_all_items_equally(monkeypatch, world_size, shuffle, batch_seconds):
    sampler = SecondsBatchSampler(lengths(), batch_seconds, shuffle, seed=1)
    shares = []
    for rank in range(world_size):
        on_rank(monkeypatch, rank, world_size)
        shares.append(list(sampler))
        assert len(shares[-1]) == len(sampler)
    assert len({len(share) for share in shares}) == 1
    assert indices(batch for share in shares for batch in share) == list(range(101))
    assert all(batch for share in shares for batch in share)


def test_impossible_requests_are_the_users_mistake(monkeypatch):
    with pytest.raises(UserError, match="no utterances"):
        SecondsBatchSampler([], 10.0, True)
    on_rank(monkeypatch, 0, 4)
    with pytest.raises(UserError, match="3 utterances cannot be shared by 4 processes"):
        list(SecondsBatchSampler([1.0] * 3, 10.0, True))


def test_a_fingerprint_is_of_all_that_batches_follow_from_but_the_processes(monkeypatch):
    def fingerprint(lengths=(1.0, 2.0, 3.0), seconds=6.0, seed=0):
        return SecondsBatchSampler(lengths, seconds, shuffle=True, seed=seed).fingerprint()

    same = fingerprint()
    assert fingerprint() == same
    others = {fingerprint((1.0, 2.0, 3.5)), fingerprint(seconds=7.0), fingerprint(seed=1)}
    assert len(others) == 3
    assert same not in others
    on_rank(monkeypatch, 0, 2)
    assert fingerprint() == same


@pytest.mark.parametrize(("plan", "warned"), [(None, False), ("", False), ("another", True)])
def test_resuming_in_other_batches_is_said(plan, warned):
    module = StarterDataModule(recipe=PlainRecipe(), max_seconds=1.9, batch_seconds=8.0)
    module.train_dataloader()
    own = module.state_dict()["plan"]
    place = {"epoch": 1, "batches": 2} | ({} if plan is None else {"plan": plan or own})
    module.load_state_dict(place)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loader = module.train_dataloader()
    assert any("within an epoch of other batches" in str(w.message) for w in caught) == warned
    assert next(iter(loader.batch_sampler))[0][0] == 1


def test_a_resumed_epoch_goes_on_after_the_batches_that_were_done() -> None:
    lengths = [1.0 + i / 10 for i in range(30)]
    whole, resumed = (SecondsBatchSampler(lengths, 6.0, shuffle=True, seed=3) for _ in range(2))
    whole.set_epoch(2)
    resumed.resume(2, ((1, 4),))
    assert list(resumed) == list(whole)[4:]
    assert len(resumed) == len(whole)
    for sampler in (whole, resumed):
        sampler.set_epoch(3)
    assert list(resumed) == list(whole)


def test_batches_of_sorted_lengths_stay_within_their_seconds_and_are_full() -> None:
    seconds = sorted(np.random.default_rng(0).uniform(1, 9, 50).tolist())
    batches = list(fill_batches(seconds, 20.0))
    assert [number for batch in batches for number in batch] == list(range(50))
    padded = [max(seconds[number] for number in batch) * len(batch) for batch in batches]
    assert max(padded) <= 20 and np.mean(padded) > 12
    assert list(fill_batches([1.0, 30.0], 20.0)) == [[0], [1]]
