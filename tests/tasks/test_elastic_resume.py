"""A run that is killed goes on with other processes and workers, and hears each utterance of its epochs once.

Mixing is on: what is compared is the sound of every utterance and of its mixture.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import signal
from collections import Counter
from pathlib import Path

import lightning
import pytest
import torch
from lightning import Callback, LightningModule, Trainer

from metis_lightning.callbacks.checkpoints import RunCheckpoint
from metis_lightning.data.batches.sampler import SecondsBatchSampler
from metis_lightning.data.corpora.starter import StarterDataModule
from metis_lightning.data.recipes.tse import TseRecipe
from metis_lightning.types import SpeechBatch

EPOCHS = 2


def corpus(workers: int = 0) -> StarterDataModule:
    recipe = TseRecipe(enrollment="utterance", max_prompt_seconds=0.5)
    return StarterDataModule(recipe=recipe, batch_seconds=16.0, max_seconds=1.8, num_workers=workers)


class Scale(LightningModule):
    """One weight that learns how loud speech is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: SpeechBatch, batch_idx: int) -> torch.Tensor:
        return (batch.wave.abs().mean() - self.weight).square()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Heard(Callback):
    """Notes the utterances of every step that was done, and kills its process at the start of one."""

    def __init__(self, folder: Path, killed_at: int | None) -> None:
        self.folder, self.killed_at = folder, killed_at

    def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
        if trainer.global_step == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, out: object, batch: SpeechBatch, _: int
    ) -> None:
        with (self.folder / f"rank{trainer.global_rank}.txt").open("a") as file:
            for row, length in enumerate(batch.lengths.tolist()):
                sounds = (batch.wave[row, :length], batch.source[row, :length])
                digest = hashlib.sha256(b"".join(sound.numpy().tobytes() for sound in sounds)).hexdigest()
                file.write(f"{trainer.current_epoch} {batch.ids[row]} {digest}\n")


def fit(folder: Path, processes: int, workers: int, killed_at: int | None = None, resumed: Path | None = None) -> int:
    """Train for two epochs in a process of its own, or until it is killed; return its exit status."""
    folder.mkdir()
    process = multiprocessing.get_context("fork").Process(
        target=_fit, args=(folder, processes, workers, killed_at, resumed)
    )
    process.start()
    process.join()
    return int(process.exitcode or 0)


def _fit(folder: Path, processes: int, workers: int, killed_at: int | None, resumed: Path | None) -> None:
    lightning.Trainer(
        max_epochs=EPOCHS,
        limit_val_batches=0,
        accelerator="cpu",
        devices=processes,
        strategy="ddp_fork" if processes > 1 else "auto",
        use_distributed_sampler=False,
        callbacks=[Heard(folder, killed_at), RunCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    ).fit(Scale(), datamodule=corpus(workers), ckpt_path=resumed, weights_only=True)


def heard(*folders: Path) -> Counter[str]:
    return Counter(line for folder in folders for path in folder.glob("rank*.txt") for line in path.open())


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert fit(folder, 1, 0) == 0
    whole = heard(folder)
    assert set(whole.values()) == {1}
    return whole


def length(processes: int) -> int:
    """Batches of an epoch that each process has."""
    sampler = corpus().train_dataloader().batch_sampler
    assert isinstance(sampler, SecondsBatchSampler)
    return sampler._count(processes) // processes


@pytest.mark.parametrize("seed", range(2))
def test_other_processes_and_workers_hear_what_is_left(seed: int, undisturbed: Counter[str], tmp_path: Path) -> None:
    draw = random.Random(seed)
    first, second = draw.randint(1, length(2) - 1), draw.randint(1, 2)
    one, two, three = (tmp_path / name for name in "abc")
    assert fit(one, 2, 2, killed_at=first) != 0
    assert fit(two, 3, 0, killed_at=first + second, resumed=one / f"step={first}.ckpt") != 0
    assert fit(three, 1, 1, resumed=two / f"step={first + second}.ckpt") == 0
    assert heard(one, two, three) == undisturbed


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_an_epoch_that_others_ended_is_over(before: int, after: int, undisturbed: Counter[str], tmp_path: Path) -> None:
    whole = length(before)
    assert fit(tmp_path / "a", before, 0, killed_at=whole) != 0
    assert fit(tmp_path / "b", after, 0, resumed=tmp_path / "a" / f"step={whole}.ckpt") == 0
    assert heard(tmp_path / "a", tmp_path / "b") == undisturbed
