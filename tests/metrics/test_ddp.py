"""Metrics in two real processes: what each sees is different, what they compute together is what one would."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torchmetrics import Metric

from metis_lightning.metrics.pesq import PesqMetric
from metis_lightning.metrics.si_sdr import SiSdrMetric
from metis_lightning.metrics.sim import SimMetric
from metis_lightning.metrics.speed import SpeedMetric
from metis_lightning.metrics.stoi import StoiMetric
from metis_lightning.metrics.wer import CerMetric, WerMetric

Scores = dict[str, float]
TEXTS = [
    ("the cat sat", "the hat sat"),
    ("yes", ""),
    ("a b c d", "a b c d"),
    ("...", "x"),
    ("red fox", "red fox runs"),
]


def waves_of(clean: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Five pairs, one of which is silent."""
    reference = torch.from_numpy(clean[:32_000]).expand(5, -1).clone()
    noise = torch.randn(5, 32_000, generator=torch.Generator().manual_seed(0))
    prediction = reference + noise * torch.tensor([0.001, 0.003, 0.01, 0.03, 0.0])[:, None]
    prediction[4] = 0.0
    return prediction, reference


def score(prediction: torch.Tensor, reference: torch.Tensor, parts: list[list[int]]) -> Scores:
    """Update every metric with the rows of each part in turn, and compute."""
    pairs: list[Metric] = [
        PesqMetric(16_000), PesqMetric(16_000, "nb"), StoiMetric(16_000), StoiMetric(16_000, extended=True),
        SiSdrMetric(16_000), SimMetric(16_000),
    ]  # fmt: skip
    text, speed = [WerMetric(), CerMetric()], SpeedMetric()
    for rows in parts:
        for metric in pairs:
            metric.update(prediction=prediction[rows], reference=reference[rows])
        for metric in text:
            metric.update(references=[TEXTS[row][0] for row in rows], hypotheses=[TEXTS[row][1] for row in rows])
        for row in rows:
            speed.update(computed=1.0 + row, spoken=2.0, num_steps=10 + row)
    computed = [metric.compute() for metric in (*pairs, *text, speed)]
    return {name: float(value) for scores in computed for name, value in scores.items()}


def in_process(rank: int, folder: str, clean: np.ndarray) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    # Unequal shares: an epoch of five utterances on two processes.
    rows = [[[0], [3, 4]], [[1, 2]]][rank]
    torch.save(score(*waves_of(clean), rows), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def alone(clean: np.ndarray) -> Scores:
    return score(*waves_of(clean), [[0, 1, 2, 3, 4]])


def test_two_processes_compute_what_one_does(alone: Scores, clean: np.ndarray, tmp_path: Path) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    mp.start_processes(in_process, args=(str(tmp_path), clean), nprocs=2, start_method="fork")
    for rank in (0, 1):
        assert torch.load(tmp_path / f"{rank}.pt") == pytest.approx(alone, rel=1e-12, nan_ok=True)


def test_batches_do_not_matter(alone: Scores, clean: np.ndarray) -> None:
    assert score(*waves_of(clean), [[2], [4, 0], [3, 1]]) == pytest.approx(alone, rel=1e-12)


def test_numbers_are_those_of_the_rows(alone: Scores) -> None:
    assert alone["WER"] == pytest.approx((1 + 1 + 0 + 1) / (3 + 1 + 4 + 2))
    assert alone["WER_failed"] == alone["CER_failed"] == alone["PESQ_failed"] == alone["STOI_failed"] == 1
    assert alone["RTF"] == pytest.approx((1 + 2 + 3 + 4 + 5) / 10)
    assert alone["STEPS"] == 12
