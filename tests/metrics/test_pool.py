"""Scoring in other processes: the same numbers, and errors that say whose they are."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from metis_lightning.errors import UserError
from metis_lightning.metrics.metric import MetricValue
from metis_lightning.metrics.pool import ScoringPool
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.suite import Suite

FAST = SuiteOptions(asr=(), speakers=(), task="se")


class Deadly:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[object, ...]:
        return (os._exit, (9,))


@pytest.fixture(scope="module")
def pool() -> Iterator[ScoringPool]:
    with ScoringPool(FAST, processes=2) as pool:
        yield pool


def test_numbers_are_those_of_a_suite_here(pool: ScoringPool, clean: np.ndarray, noisy: np.ndarray) -> None:
    items = [
        ScoringItem("a", torch.from_numpy(noisy), 16_000, reference=torch.from_numpy(clean)),
        ScoringItem("b", torch.zeros(16_000), 16_000, reference=torch.from_numpy(clean)),
        ScoringItem("c", torch.from_numpy(clean), 16_000),
    ]
    futures = [pool.submit(item) for item in items]
    suite = Suite(FAST)
    assert [future.result() for future in futures] == [suite.score(item) for item in items]
    assert pool.fingerprint() == suite.fingerprint()
    assert pool.columns == suite.columns


def test_a_process_that_dies_names_the_utterance_and_is_replaced(pool: ScoringPool, clean: np.ndarray) -> None:
    futures = [
        pool.submit(ScoringItem("fine-1", clean, 16_000)),
        pool.submit(ScoringItem("evil-7", clean, 16_000, text=Deadly())),  # type: ignore[arg-type]
        pool.submit(ScoringItem("fine-2", clean, 16_000)),
        pool.submit(ScoringItem("fine-3", clean, 16_000)),
    ]
    with pytest.raises(UserError, match="a scoring process died on the utterance evil-7"):
        futures[1].result()
    assert all(future.result()["DNSMOS_OVRL"].value for future in (futures[0], *futures[2:]))


def test_bugs_come_back_with_their_utterance(pool: ScoringPool) -> None:
    with pytest.raises(ValueError, match="one utterance") as caught:
        pool.submit(ScoringItem("item-7", np.zeros((1, 16_000)), 16_000)).result()
    assert "while scoring item-7" in caught.value.__notes__


def test_waiting_utterances_are_bounded(pool: ScoringPool, clean: np.ndarray) -> None:
    submitted: list[Future[dict[str, MetricValue]]] = []
    most = 0
    for number in range(12):
        submitted.append(pool.submit(ScoringItem(str(number), clean, 16_000)))
        most = max(most, sum(not future.done() for future in submitted))
    assert most <= 2 * 3
    assert all(future.result() for future in submitted)


def test_a_mistake_in_the_options_is_said_as_it_is() -> None:
    with ScoringPool(SuiteOptions(task="ttss"), processes=1) as pool, pytest.raises(UserError, match="unknown task"):
        pool.fingerprint()
    with pytest.raises(UserError, match="at least 1 process"):
        ScoringPool(FAST, processes=0)


def test_leaving_the_block_ends_the_processes(clean: np.ndarray) -> None:
    import multiprocessing

    with pytest.raises(KeyError), ScoringPool(FAST, processes=1) as pool:
        for number in range(3):
            pool.submit(ScoringItem(str(number), clean, 16_000))
        raise KeyError
    deadline = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
    # Those of the module's own pool may be there.
    assert len(multiprocessing.active_children()) <= 2
