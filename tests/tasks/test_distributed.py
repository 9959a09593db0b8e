"""Processes and accumulated batches give the gradients of the joined batch, though their tokens differ in number."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
import torch.distributed
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from metis_lightning.models.masking import Masking, PromptRule
from metis_lightning.tasks.conditioned import TseModule
from metis_lightning.tasks.pretrain import PretrainModule
from metis_lightning.tasks.semantic_to_acoustic import SemanticToAcousticModule
from one_batch import OPTIMIZER, SCHEDULE, OneBatch, four_rows, rows, trainer
from tiny import STAGE1, stage2_config


class Rows(lightning.LightningDataModule):
    """Four rows in equal batches, the same number for each process."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.batches = batches

    def train_dataloader(self) -> DataLoader:
        alone = not torch.distributed.is_initialized()
        rank, processes = (0, 1) if alone else (torch.distributed.get_rank(), torch.distributed.get_world_size())
        size = 4 // (self.batches * processes)
        starts = range(rank * size * self.batches, (rank + 1) * size * self.batches, size)
        return DataLoader([rows(four_rows(), slice(start, start + size)) for start in starts], batch_size=None)


class Gradients(Callback):
    """Writes the gradients of the first update."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: object) -> None:
        if trainer.is_global_zero:
            torch.save({n: p.grad.clone() for n, p in pl_module.named_parameters() if p.grad is not None}, self.path)


def fixed_masking(
    frames: Tensor, length: int, rule: PromptRule, generator: torch.Generator | None, prompts: Tensor
) -> Masking:
    """Masks that follow from each row alone."""
    position = torch.arange(length)
    prompt = position < prompts[:, None]
    mask = (position % 3 == 0) & ~prompt & (position < frames[:, None])
    return Masking(t=frames / 100, mask=mask, prompt=prompt)


def gradients(bundle: Path, folder: Path, processes: int, batches: int, accumulated: int) -> dict[str, Tensor]:
    """The gradients of the first update, of `batches` batches on each process."""
    torch.manual_seed(0)
    module = TseModule(
        str(bundle),
        lora_rank=2,
        lora_dropout=0.0,
        gate_init=0.5,
        optimizer=partial(torch.optim.SGD, lr=0.1),
        lr_scheduler=SCHEDULE,
    )
    path = folder / f"{processes}-{batches}.pt"
    trainer(
        folder,
        1,
        devices=processes,
        strategy="auto" if processes == 1 else "ddp_fork",
        accumulate_grad_batches=accumulated,
        use_distributed_sampler=False,
        callbacks=[Gradients(path)],
        limit_train_batches=None,
        limit_val_batches=0,
    ).fit(module, datamodule=Rows(batches))
    found = torch.load(path, weights_only=True)
    assert found.keys() == module.checkpoint_keys()
    return found


@pytest.fixture
def joined(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    monkeypatch.setattr("metis_lightning.tasks.finetune.draw_masking", fixed_masking)
    return gradients(tiny_bundle, tmp_path, processes=1, batches=1, accumulated=1)


@pytest.mark.parametrize(
    ("processes", "batches", "accumulated"),
    [(2, 1, 1), (1, 4, 4), (2, 2, 2), (1, 2, 8)],
    ids=["two processes", "four batches", "both", "the last update of an epoch"],
)
def test_an_update_has_the_gradients_of_the_joined_batch(
    processes: int, batches: int, accumulated: int, joined: dict[str, Tensor], tiny_bundle: Path, tmp_path: Path
) -> None:
    parted = gradients(tiny_bundle, tmp_path, processes, batches, accumulated)
    for name, value in joined.items():
        torch.testing.assert_close(parted[name], value, rtol=0, atol=1e-5)
    assert max(float(value.abs().max()) for value in joined.values()) > 1e-2


def test_two_processes_train_stage_2_though_each_draws_a_layer_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = SemanticToAcousticModule(
        "s2a_full", stage2_config(3, 1), str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE
    )
    heads = [head.weight.detach().clone() for head in module.model.to_logits]
    trainer(tmp_path, 6, devices=2, strategy="ddp_fork", use_distributed_sampler=False).fit(
        module, datamodule=OneBatch()
    )
    moved = [not torch.equal(head.weight, old) for head, old in zip(module.model.to_logits, heads, strict=True)]
    assert moved == [False, True, True]


class Counts(Callback):
    """Writes what each process has counted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.save(pl_module.unigram.counts - 1, self.folder / f"counts{trainer.global_rank}.pt")


def test_each_process_keeps_the_counts_of_its_own_batches(tiny_bundle: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = PretrainModule(STAGE1, str(tiny_bundle), optimizer=OPTIMIZER, lr_scheduler=SCHEDULE)
    run = trainer(tmp_path, 2, devices=2, strategy="ddp_fork", use_distributed_sampler=False, limit_val_batches=0)
    run.callbacks.append(Counts(tmp_path))
    run.fit(module, datamodule=Rows(2))
    for rank in range(2):
        batch = rows(four_rows(), slice(2 * rank, 2 * rank + 2))
        tokens, frames = module.tokenizer.ssl_tokens(batch.wave, batch.lengths)
        heard = torch.cat([row[: int(count)] for row, count in zip(tokens, frames, strict=True)])
        counted = torch.load(tmp_path / f"counts{rank}.pt", weights_only=True)
        assert torch.equal(counted, torch.bincount(heard, minlength=STAGE1.codebook_size))
