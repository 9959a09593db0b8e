"""Means of metrics in two real processes: what each sees is different, what they compute together is what one would."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import Metric, MetricCollection

from metis_lightning.metrics.intrusive import (
    EstoiMetric,
    NarrowBandPesqMetric,
    PesqMetric,
    SiSdrMetric,
    StoiMetric,
    si_sdr,
)
from metis_lightning.metrics.mean import MeanOf
from metis_lightning.metrics.protocols import SuiteOptions
from metis_lightning.metrics.signal import ScoringItem
from metis_lightning.metrics.speakers.similarity import SimMetric
from metis_lightning.metrics.speed import SpeedMetric
from metis_lightning.task_table import Task

Scores = dict[str, float]


def items_of(clean: np.ndarray) -> list[ScoringItem]:
    """Five pairs of 24 kHz, one of which is silent."""
    reference, noise = clean[:32_000], np.random.default_rng(0).standard_normal((5, 32_000))
    outputs = [reference + level * noise[row] for row, level in enumerate((0.001, 0.003, 0.01, 0.03))]
    return [
        ScoringItem(
            str(row), wave, 24_000, reference=reference, prompt=reference, seconds=1.0 + row, num_steps=10 + row
        )
        for row, wave in enumerate([*outputs, np.zeros(32_000)])
    ]


def metrics() -> list[Metric]:
    options, task = SuiteOptions(speakers=("ge2e",)), Task("", similar_to=("prompt",))
    kinds = (PesqMetric, NarrowBandPesqMetric, StoiMetric, EstoiMetric, SiSdrMetric, SimMetric, SpeedMetric)
    return [MeanOf(kind(options, task)) for kind in kinds]


def score(items: list[ScoringItem], parts: list[list[int]]) -> Scores:
    """Update every metric with the rows of each part in turn, and compute."""
    means = metrics()
    for rows in parts:
        for mean in means:
            mean.update(*(items[row] for row in rows))
    return {name: float(value) for mean in means for name, value in mean.compute().items()}


def in_process(rank: int, folder: str, clean: np.ndarray) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    # Unequal shares: an epoch of five utterances on two processes.
    rows = [[[0], [3, 4]], [[1, 2]]][rank]
    torch.save(score(items_of(clean), rows), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone(clean: np.ndarray) -> Scores:
    return score(items_of(clean), [[0, 1, 2, 3, 4]])


def test_two_processes_compute_what_one_does(alone: Scores, clean: np.ndarray, tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.start_processes(in_process, args=(str(tmp_path), clean), nprocs=2, start_method="fork")
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_batches_do_not_matter(alone: Scores, clean: np.ndarray) -> None:
    assert score(items_of(clean), [[2], [4, 0], [3, 1]]) == pytest.approx(alone, rel=1e-12)


def test_numbers_are_means_of_those_that_have_one(alone: Scores, clean: np.ndarray) -> None:
    sound = items_of(clean)[:4]
    assert alone["SI_SDR"] == pytest.approx(np.mean([si_sdr(*item.pair()) for item in sound]), abs=1e-9)
    failed = {name: value for name, value in alone.items() if name.endswith("_failed")}
    assert failed == {
        **{f"{name}_failed": 1 for name in ("PESQ", "PESQ_NB", "STOI", "ESTOI", "SI_SDR", "SIM_ge2e")},
        **{"RTF_failed": 0, "STEPS_failed": 0},
    }
    assert alone["RTF"] == pytest.approx((1 + 2 + 3 + 4 + 5) / 5 / (32_000 / 24_000))
    assert alone["STEPS"] == 12


def test_nothing_to_average_is_no_number(clean: np.ndarray) -> None:
    mean = MeanOf(SiSdrMetric())
    mean.update(items_of(clean)[4])
    assert torch.isnan(mean.compute()["SI_SDR"])
    assert int(mean.compute()["SI_SDR_failed"]) == 1


def test_collections_copy_means_and_keep_models_out_of_checkpoints(clean: np.ndarray) -> None:
    named = {name: mean for mean in metrics() for name in mean.names[:1]}
    copies = MetricCollection(named).clone(prefix="val/")
    copies.update(items_of(clean)[0])
    assert {"val/STOI", "val/SI_SDR", "val/SIM_ge2e"} <= set(copies.compute())
    assert not list(copies.parameters())
    assert not copies.state_dict()
