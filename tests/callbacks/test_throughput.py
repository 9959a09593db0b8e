"""Tokens a second, padding and waits are those of the batches, in the loggers and the progress bar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, IterableDataset

from metis_lightning.callbacks import throughput
from metis_lightning.callbacks.throughput import TrainingThroughput
from metis_lightning.models.flops import training_flops
from metis_lightning.models.stage1 import Stage1, Stage1Config
from metis_lightning.types import HOP, SpeechBatch
from sections.host_waits import HostWaits

FRAMES, STEP, WAIT = (20, 30), 0.02, 0.06
CONFIG = Stage1Config(16, 1, 2, 32)


class Slow(IterableDataset[SpeechBatch]):
    """Batches of 50 frames, and 10 of padding, that take their time."""

    def __iter__(self) -> Iterator[SpeechBatch]:
        samples = tuple(HOP * frames for frames in FRAMES)
        while True:
            time.sleep(WAIT)
            yield SpeechBatch(("a", "b"), ("", ""), ("", ""), torch.empty(2, 0), torch.tensor(samples), samples=samples)


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = Stage1(CONFIG)

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> torch.Tensor:
        time.sleep(STEP)
        return self.model.to_logit.weight.square().sum()

    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        time.sleep(1.0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Shown(Callback):
    """Notes what the progress bar has."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.names = set(trainer.progress_bar_metrics)


def test_what_is_logged_is_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "get_available_flops", lambda device, dtype: 1_000_000_000)
    shown, logger = Shown(), CSVLogger(tmp_path, name="", version="")
    Trainer(
        max_steps=6,
        accelerator="cpu",
        logger=logger,
        log_every_n_steps=3,
        val_check_interval=2,
        limit_val_batches=1,
        num_sanity_val_steps=0,
        callbacks=[TrainingThroughput(), shown],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    ).fit(Model(), DataLoader(Slow(), batch_size=None), DataLoader(Slow(), batch_size=None))
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    (first, second) = [{k: float(v) for k, v in row.items() if v} for row in rows if row["throughput/padding"]]
    for row in (first, second):
        assert row["throughput/padding"] == pytest.approx(1 / 6)
        # Validations are no part of it: with one of them it would be a tenth; sleeps may be longer than they are to be.
        assert 150 < row["throughput/tokens_per_second"] < 50 / (STEP + WAIT)
        assert 0.3 < row["throughput/data_wait"] < 0.9
        flops = training_flops(Stage1(CONFIG).diff_estimator, FRAMES, CONFIG.codebook_size)
        expected = row["throughput/tokens_per_second"] / 50 * flops / 1e9
        assert row["throughput/mfu"] == pytest.approx(expected, rel=1e-3)
        assert 0.05 < row["throughput/memory_gb"] < 20
    assert shown.names == {"throughput/tokens_per_second", "throughput/mfu"}


def test_counting_does_not_wait_for_the_device() -> None:
    monitor, trainer = TrainingThroughput(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model = Model()
    trainer.strategy._lightning_module, trainer.log_every_n_steps = model, 0
    monitor.setup(trainer, model, "fit")
    monitor.on_train_start(trainer, model)
    with HostWaits() as waits:
        monitor.on_train_batch_end(trainer, model, None, next(iter(Slow())))
    assert not waits.counts and monitor._frames == [list(FRAMES)]
