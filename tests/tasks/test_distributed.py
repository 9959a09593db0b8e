"""Two processes compute the gradients of one process on the joined batch, though their tokens differ in number."""

from __future__ import annotations

from dataclasses import replace
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
from metis_lightning.tasks.tse import TseModule
from metis_lightning.types import SpeechBatch
from one_batch import SCHEDULE, speech_batch


def rows(batch: SpeechBatch, chosen: slice) -> SpeechBatch:
    """Some rows of a batch, padded as they were."""
    tensors = {name: value[chosen] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    texts = {name: getattr(batch, name)[chosen] for name in ("ids", "speakers", "texts")}
    return replace(batch, **tensors, **texts)


class Rows(lightning.LightningDataModule):
    """The whole batch for one process; a row each for two."""

    def train_dataloader(self) -> DataLoader:
        alone = not torch.distributed.is_initialized()
        rank = 0 if alone else torch.distributed.get_rank()
        return DataLoader([rows(speech_batch(), slice(None) if alone else slice(rank, rank + 1))], batch_size=None)


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


def test_two_processes_have_the_gradients_of_one(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metis_lightning.tasks.finetune.draw_masking", fixed_masking)
    for devices, strategy in ((2, "ddp_fork"), (1, "auto")):
        torch.manual_seed(0)
        module = TseModule(
            str(tiny_bundle),
            lora_rank=2,
            lora_dropout=0.0,
            gate_init=0.5,
            optimizer=partial(torch.optim.SGD, lr=0.1),
            lr_scheduler=SCHEDULE,
        )
        lightning.Trainer(
            max_steps=1,
            accelerator="cpu",
            devices=devices,
            strategy=strategy,
            use_distributed_sampler=False,
            callbacks=[Gradients(tmp_path / f"{devices}.pt")],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        ).fit(module, datamodule=Rows())
    two, one = (torch.load(tmp_path / f"{devices}.pt", weights_only=True) for devices in (2, 1))
    assert two.keys() == one.keys() == module.kept()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5)
    assert max(float(value.abs().max()) for value in one.values()) > 1e-2
