"""FSDP2 on two processes trains as DDP does, and its checkpoints are those of any run."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader

from metis_lightning.callbacks.checkpoints import CheckpointFiles, RunCheckpoint
from metis_lightning.callbacks.ema import EMA
from metis_lightning.callbacks.gradients import FiniteGuard, GradientNorm
from metis_lightning.errors import UserError
from metis_lightning.pipeline import Metis
from metis_lightning.tasks.base import TrainableModule
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from metis_lightning.trainer.sharded import ShardedStrategy
from metis_lightning.types import SpeechBatch
from metis_lightning.weights.checkpoint import checkpoint_parts
from one_batch import SCHEDULE, four_rows, rows, speech_batch
from tiny import STAGE1, stage2_config

STEPS = 4
OPTIMIZER = partial(torch.optim.AdamW, lr=1e-2)


class Pairs(lightning.LightningDataModule):
    """Two rows for each process, in every step, from where a checkpoint was made."""

    def train_dataloader(self) -> DataLoader:
        rank = torch.distributed.get_rank()
        return DataLoader([rows(four_rows(), slice(2 * rank, 2 * rank + 2))] * 100, batch_size=None)


class Losses(Callback):
    """Notes loss and gradient norm of each step, and whether weights are shared out."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []
        self.sharded = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        values = trainer.callback_metrics
        self.found.append((float(values["train/loss"]), float(values["train/grad_norm"])))
        self.sharded = sum(isinstance(p, DTensor) for p in pl_module.parameters())


def tse(bundle: Path) -> TrainableModule:
    return TseModule(str(bundle), lora_rank=2, gate_init=0.5, optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)


class Poisoned(PretrainModule):
    """Its second step has a gradient that is not finite, on one process."""

    def losses(self, batch: SpeechBatch, generator: torch.Generator | None = None) -> dict[str, torch.Tensor]:
        bad = float("nan") if (self.global_step, self.global_rank) == (1, 1) else 1.0
        return {name: value * bad for name, value in super().losses(batch, generator).items()}


def poisoned(bundle: Path) -> TrainableModule:
    optimizer = partial(torch.optim.AdamW, lr=1e-2, fused=True)
    return Poisoned(STAGE1, str(bundle), optimizer=optimizer, lr_scheduler=SCHEDULE)


def pretraining(bundle: Path) -> TrainableModule:
    return PretrainModule(STAGE1, str(bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)


def stage2(bundle: Path) -> TrainableModule:
    return SemanticToAcousticModule("s2a_full", stage2_config(3, 1), str(bundle), optimizer=OPTIMIZER)


Make = Callable[[Path], TrainableModule]


def train(make: Make, bundle: Path, folder: Path, strategy: str, steps: int, last: Path | None = None) -> list[Any]:
    """Train on two processes, as torchrun would start them; return what each noted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    notes = context.SimpleQueue()
    started = [
        context.Process(target=_train, args=(make, bundle, folder, strategy, steps, last, rank, port, notes))
        for rank in range(2)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    return [value for _, value in sorted(notes.get() for _ in started)]


def _train(
    make: Make,
    bundle: Path,
    folder: Path,
    strategy: str,
    steps: int,
    last: Path | None,
    rank: int,
    port: int,
    notes: Any,
) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.manual_seed(0)
    noted = Losses()
    run = lightning.Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=2,
        strategy=ShardedStrategy() if strategy == "sharded" else "ddp",
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        log_every_n_steps=1,
        callbacks=[GradientNorm(), noted, FiniteGuard(), EMA(0.9), RunCheckpoint(folder, save_last=True)],
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    run.strategy.checkpoint_io = CheckpointFiles()
    try:
        run.fit(make(bundle), datamodule=Pairs(), ckpt_path=last, weights_only=True)
        notes.put((rank, (noted.found, noted.sharded)))
    except UserError as error:
        notes.put((rank, str(error)))


def numbers(path: Path) -> dict[str, torch.Tensor]:
    """Weights, their average and the optimizer's states of a checkpoint."""
    content = torch.load(path, weights_only=True)
    values = {**content["state_dict"], **{f"ema.{name}": value for name, value in content["ema"]["weights"].items()}}
    for number, slots in content["optimizer_states"][0]["state"].items():
        values |= {f"{number}.{name}": value for name, value in slots.items()}
    return values


@pytest.mark.parametrize("make", [tse, pretraining], ids=["LoRA", "pre-training"])
def test_losses_weights_and_states_are_those_of_ddp(make: Make, tiny_bundle: Path, tmp_path: Path) -> None:
    ddp, sharded = (train(make, tiny_bundle, tmp_path / name, name, STEPS) for name in ("ddp", "sharded"))
    for (expected, none), (found, count) in zip(ddp, sharded, strict=True):
        assert none == 0 and count > 10
        assert len(found) == STEPS
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=0, atol=1e-5)
    expected, found = (numbers(tmp_path / name / "last.ckpt") for name in ("ddp", "sharded"))
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-5, msg=name)


def test_a_fused_optimizer_skips_what_is_not_finite_on_all_processes(tiny_bundle: Path, tmp_path: Path) -> None:
    train(poisoned, tiny_bundle, tmp_path / "before", "sharded", 1)
    train(poisoned, tiny_bundle, tmp_path / "after", "sharded", 2)
    before, after = (numbers(tmp_path / name / "last.ckpt") for name in ("before", "after"))
    # How often each token was heard is counted before the loss.
    kept = [name for name in before if not name.startswith(("ema.", "unigram."))]
    assert len(kept) > 20
    assert not [name for name in kept if not torch.equal(before[name], after[name])]


def test_a_run_goes_on_from_either_to_the_same_end(tiny_bundle: Path, tmp_path: Path) -> None:
    whole = train(tse, tiny_bundle, tmp_path / "whole", "sharded", STEPS)
    train(tse, tiny_bundle, tmp_path / "half", "sharded", 2)
    rest = train(tse, tiny_bundle, tmp_path / "rest", "sharded", STEPS, tmp_path / "half/last.ckpt")
    assert [found for found, _ in rest] == [found[2:] for found, _ in whole]
    expected, found = numbers(tmp_path / "whole/last.ckpt"), numbers(tmp_path / "rest/last.ckpt")
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    other = train(tse, tiny_bundle, tmp_path / "other", "ddp", STEPS, tmp_path / "half/last.ckpt")
    for (found, _), (expected, _) in zip(other, whole, strict=True):
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected[2:]), rtol=0, atol=1e-5)
    # What it made is taken as any checkpoint is.
    path = tmp_path / "rest/last.ckpt"
    assert checkpoint_parts(path, "ema").keys() == {"tse"}
    metis = Metis.from_pretrained(str(path), base=str(tiny_bundle))
    batch = speech_batch()
    speech = metis.extract(batch.source[0], batch.wave[0, :12_000])
    assert speech.wave.isfinite().all() and speech.wave.abs().max() > 0


def test_what_cannot_be_sharded_says_so(tiny_bundle: Path, tmp_path: Path) -> None:
    found = train(stage2, tiny_bundle, tmp_path, "sharded", 1)
    assert set(found) == {"SemanticToAcousticModule trains under DDP only; give --trainer.strategy ddp"}
