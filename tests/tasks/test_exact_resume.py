"""A run that is killed at some batch and resumed hears exactly what an uninterrupted run hears, sample by sample.

Mixing is on, so that the draws of every item are compared too; the resumed run has another number of workers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.types import SpeechBatch
from one_batch import SCHEDULE

STEPS, EPOCH = 10, 4


class Heard(Callback):
    """Notes every training batch of each process, and kills the process at the start of a step."""

    def __init__(self, folder: Path, killed_at: int | None) -> None:
        self.folder, self.killed_at = folder, killed_at

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: SpeechBatch, batch_idx: int
    ) -> None:
        if trainer.global_step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        sound = hashlib.sha256(batch.wave.numpy().tobytes() + batch.source.numpy().tobytes()).hexdigest()
        with (self.folder / f"rank{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{trainer.current_epoch} {batch_idx} {','.join(batch.ids)} {sound}\n")


@dataclass(frozen=True)
class Run:
    bundle: Path
    folder: Path
    processes: int
    workers: int
    killed_at: int | None = None
    resumed_from: Path | None = None

    def __call__(self) -> int:
        """Fit in a process of its own; return the exit status."""
        self.folder.mkdir(exist_ok=True)
        process = multiprocessing.get_context("fork").Process(target=self._fit)
        process.start()
        process.join()
        return int(process.exitcode or 0)

    def _fit(self) -> None:
        torch.manual_seed(0)
        optimizer = partial(torch.optim.AdamW, lr=1e-2)
        module = TseModule(str(self.bundle), lora_rank=2, optimizer=optimizer, lr_scheduler=SCHEDULE)
        recipe = TseRecipe(enrollment="utterance", max_prompt_seconds=0.5)
        data = StarterDataModule(recipe=recipe, batch_seconds=8.0, max_seconds=2.0, num_workers=self.workers)
        saved = ModelCheckpoint(self.folder, "{step}", save_top_k=-1, every_n_train_steps=1)
        lightning.Trainer(
            max_steps=STEPS,
            limit_train_batches=EPOCH,
            limit_val_batches=0,
            accelerator="cpu",
            devices=self.processes,
            strategy="ddp_fork" if self.processes > 1 else "auto",
            use_distributed_sampler=False,
            callbacks=[Heard(self.folder, self.killed_at), saved],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=self.folder,
        ).fit(module, datamodule=data, ckpt_path=self.resumed_from, weights_only=True)

    def heard(self) -> list[list[str]]:
        """What each process heard, line by line."""
        return [(self.folder / f"rank{rank}.txt").read_text().splitlines() for rank in range(self.processes)]

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.folder / f"step={STEPS}.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 process", "2 processes"])
def uninterrupted(request: pytest.FixtureRequest, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(tiny_bundle, tmp_path_factory.mktemp("whole"), request.param, workers=0)
    assert run() == 0
    return run


@pytest.mark.parametrize(("workers", "then"), [(0, 2), (2, 0)])
def test_a_killed_run_hears_what_an_uninterrupted_one_hears(
    uninterrupted: Run, workers: int, then: int, tmp_path: Path
) -> None:
    processes, bundle = uninterrupted.processes, uninterrupted.bundle
    step = random.Random(f"{processes} {workers}").randrange(1, STEPS)
    killed = Run(bundle, tmp_path / "killed", processes, workers, killed_at=step)
    assert killed() != 0
    assert not (killed.folder / f"step={STEPS}.ckpt").exists()
    resumed = Run(bundle, tmp_path / "resumed", processes, then, resumed_from=killed.folder / f"step={step}.ckpt")
    assert resumed() == 0

    whole = uninterrupted.heard()
    assert [lines[:step] for lines in whole] == killed.heard()
    assert [lines[step:] for lines in whole] == resumed.heard()
    assert all(len(set(lines)) == len(lines) == STEPS for lines in whole)
    expected, found = uninterrupted.weights(), resumed.weights()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_processes_share_what_is_heard(uninterrupted: Run) -> None:
    batches = [line.split()[2].split(",") for lines in uninterrupted.heard() for line in lines if line[0] == "0"]
    heard = [name for batch in batches for name in batch]
    assert len(set(heard)) == len(heard) > EPOCH
