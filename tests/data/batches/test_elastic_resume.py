"""An epoch that some processes began is ended by another number of them: each utterance is heard once, and no more."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest
import torch

from metis_lightning.data.batches.resume import DataPosition
from metis_lightning.data.batches.sampler import ItemKey, SecondsBatchSampler, Shares
from metis_lightning.errors import UserError

ITEMS = 301


def drawn(epoch: int) -> np.ndarray:
    """Lengths of which a part is drawn in each epoch, as of mixtures and their prompts."""
    lasting = 1.0 + 5 * torch.rand(ITEMS, generator=torch.Generator().manual_seed(99))
    return (lasting + 4 * torch.rand(ITEMS, generator=torch.Generator().manual_seed(epoch))).double().numpy()


class Processes:
    """A number of processes that each have a sampler, without a process group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int, lengths: object = drawn) -> None:
        self.monkeypatch, self.count = monkeypatch, count
        self.sampler = SecondsBatchSampler(lengths, 40.0, shuffle=True, seed=1)

    def batches(self, epoch: int, heard: Shares) -> list[list[list[ItemKey]]]:
        """What each process is given of an epoch of which something was heard."""
        self.monkeypatch.setattr(torch.distributed, "is_initialized", lambda: self.count > 1)
        self.monkeypatch.setattr(torch.distributed, "get_world_size", lambda: self.count)
        shares = []
        for rank in range(self.count):
            self.monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
            self.sampler.resume(epoch, heard)
            shares.append(list(self.sampler))
            assert self.sampler.place() + len(shares[-1]) == len(self.sampler)
        assert len({len(share) for share in shares}) == 1
        return shares


def hear(shares: list[list[list[ItemKey]]], batches: int | None = None) -> Counter[ItemKey]:
    return Counter(key for share in shares for batch in share[:batches] for key in batch)


@pytest.mark.parametrize("chain", [(2, 3, 1), (1, 4, 2, 8), (3, 3, 2), (8, 1, 8)], ids=str)
@pytest.mark.parametrize("lengths", [drawn, drawn(0)], ids=["drawn lengths", "fixed lengths"])
def test_every_utterance_is_heard_once_by_whatever_processes(
    chain: tuple[int, ...], lengths: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(str(chain))
    for epoch in range(4):
        heard, shares = Counter[ItemKey](), ()
        for count in chain[:-1]:
            parts = Processes(monkeypatch, count, lengths).batches(epoch, shares)
            batches = draw.randint(1, max(1, len(parts[0]) // 2))
            heard += hear(parts, batches)
            shares = (*shares, (count, batches))
        last = Processes(monkeypatch, chain[-1], lengths)
        heard += hear(last.batches(epoch, shares))
        assert heard == Counter((epoch, index) for index in range(ITEMS))
        # The next epoch is planned as if nothing had happened.
        last.sampler.set_epoch(epoch + 1)
        fresh = Processes(monkeypatch, chain[-1], lengths)
        assert list(last.sampler) == fresh.batches(epoch + 1, ())[-1]


def test_the_rest_of_an_epoch_keeps_to_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = drawn(2)
    for share in Processes(monkeypatch, 3).batches(2, ((2, 4),)):
        assert max(len(batch) * max(lengths[index] for _, index in batch) for batch in share) <= 40.0


def test_the_same_processes_go_on_in_the_same_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Processes(monkeypatch, 2)
    whole = pair.batches(1, ())
    assert pair.batches(1, ((2, 3), (2, 2))) == [share[5:] for share in whole]


def test_too_few_for_all_are_left_out_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = Processes(monkeypatch, 1, np.full(40, 20.0)).batches(0, ())
    assert len(shares[0]) == 20
    with pytest.warns(UserWarning, match="2 utterances left of an epoch are too few for 4 processes"):
        rest = Processes(monkeypatch, 4, np.full(40, 20.0)).batches(0, ((1, 19),))
    assert rest == [[]] * 4


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"epoch": 1},
        {"epoch": -1, "shares": []},
        {"epoch": 0, "shares": [[0, 3]]},
        {"epoch": 0, "shares": [3]},
    ],
)
def test_a_state_that_is_no_place_is_refused(state: object) -> None:
    with pytest.raises(UserError, match="is not the place in training"):
        DataPosition.from_state(state, "Corpus")


def test_a_state_is_read_as_it_was_written() -> None:
    position = DataPosition(3, ((2, 5), (3, 1)), "plan")
    assert DataPosition.from_state(position.state(), "Corpus") == position
    assert DataPosition.from_state({"epoch": 3, "batches": 5, "plan": "plan"}, "Corpus").shares == ((1, 5),)
    assert DataPosition.from_state({"epoch": 3, "batches": 0}, "Corpus").shares == ()
