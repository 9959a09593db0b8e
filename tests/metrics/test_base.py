"""What every torchmetrics class promises: failures are counted, states add up over ranks, and copies work."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from metis_lightning.metrics.dnsmos import Dnsmos, DnsmosMetric, DnsmosScores
from metis_lightning.metrics.pesq import PesqMetric
from metis_lightning.metrics.si_sdr import SiSdrMetric
from metis_lightning.metrics.sim import SimMetric
from metis_lightning.metrics.stoi import StoiMetric
from metis_lightning.metrics.wer import WerMetric

Batch = dict[str, Any]
MAKERS: list[Callable[[], Metric]] = [
    lambda: DnsmosMetric(16_000),
    lambda: PesqMetric(16_000),
    lambda: StoiMetric(16_000),
    lambda: SiSdrMetric(16_000),
    lambda: SimMetric(16_000),
    lambda: WerMetric(),
]
IDS = ["dnsmos", "pesq", "stoi", "si_sdr", "sim", "wer"]


@pytest.fixture(scope="module")
def batch(clean: np.ndarray, noisy: np.ndarray) -> Batch:
    """Three utterances, of which the second has no value (not finite, or no reference text)."""
    reference = torch.from_numpy(clean)
    prediction = torch.stack([torch.from_numpy(noisy), reference * torch.nan, torch.from_numpy(noisy).roll(1)])
    return {
        "prediction": prediction,
        "reference": reference.expand(3, -1),
        "lengths": torch.tensor([len(clean), len(clean), len(clean) - 4000]),
        "hypotheses": ["a b", "c", "a d e"],
        "references": ["a b", "", "a b c"],
    }


def arguments(metric: Metric, batch: Batch, rows: slice) -> Batch:
    """Keep what this metric's update takes, and some rows of it."""
    names = {"hypotheses", "references"} if isinstance(metric, WerMetric) else {"prediction", "lengths"}
    if not isinstance(metric, WerMetric | DnsmosMetric):
        names |= {"reference"}
    return {name: batch[name][rows] for name in names}


def updated(make: Callable[[], Metric], batch: Batch, *parts: slice) -> Metric:
    metric = make()
    for part in parts:
        metric.update(**arguments(metric, batch, part))
    return metric


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        torch.testing.assert_close(value, second[name], rtol=1e-12, atol=1e-12, check_dtype=False)


@pytest.fixture(autouse=True)
def quick_dnsmos(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the slow networks: here only the sums matter."""
    monkeypatch.setattr(Dnsmos, "__call__", lambda _, wave: DnsmosScores(*np.quantile(wave, (0.6, 0.7, 0.8, 0.9))))


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_two_ranks_give_what_one_gives(make: Callable[[], Metric], batch: Batch) -> None:
    whole = updated(make, batch, slice(0, 3))
    first, second = updated(make, batch, slice(0, 1)), updated(make, batch, slice(1, 3))
    merged = first.clone()
    merged.merge_state(second)
    assert_equal(merged.compute(), whole.compute())

    # As under DDP: what is gathered of each state is a list with one entry a rank.
    names = iter(first._reductions)
    first.dist_sync_fn = lambda state, group: [state, getattr(second, next(names))]
    first.distributed_available_fn = lambda: True
    first.sync_on_compute = first._to_sync = True
    assert_equal(first.compute(), whole.compute())


@pytest.mark.parametrize("make", MAKERS, ids=IDS)
def test_failures_are_counted_and_never_averaged(make: Callable[[], Metric], batch: Batch) -> None:
    scores = updated(make, batch, slice(1, 2)).compute()
    (failed,) = [name for name in scores if name.endswith("_failed")]
    assert int(scores.pop(failed)) == 1
    assert all(torch.isnan(value) for value in scores.values())


def test_collection_copies_and_names(batch: Batch) -> None:
    metrics: list[Metric] = [StoiMetric(16_000), SiSdrMetric(16_000), DnsmosMetric(16_000)]
    copied = MetricCollection(metrics[:2]).clone(prefix="test/")
    copied.update(prediction=batch["prediction"], reference=batch["reference"])
    assert {"test/STOI", "test/SI_SDR"} <= set(copied.compute())
    assert isinstance(metrics[2].clone(), DnsmosMetric)
