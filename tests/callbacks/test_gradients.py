"""What is not finite stops a run, which does not wait for its device at each step to know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from metis_lightning.callbacks.gradients import FiniteGuard
from metis_lightning.errors import UserError
from sections.host_waits import HostWaits


class Poisoned(BoringModel):
    """Its loss or the gradient of it is not finite in one step."""

    def __init__(self, step: int, what: str) -> None:
        super().__init__()
        self.step, self.what = step, what

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().sum()
        if self.global_step + 1 != self.step:
            return loss
        # The root's derivative is infinite at 0.
        return loss * float("nan") if self.what == "loss" else loss + (self.layer.weight * 0).sum().sqrt()


def fit(model: BoringModel, folder: Path, **settings: object) -> None:
    Trainer(
        max_steps=20,
        accelerator="cpu",
        callbacks=[FiniteGuard()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        limit_val_batches=0,
        **settings,
    ).fit(model)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("interval", [1, 5, 1000])
def test_the_first_step_is_named_whenever_it_is_looked_at(what: str, interval: int, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^the {what} of step 7 is not finite, .*; its batch: batch 6 "):
        fit(Poisoned(7, what), tmp_path, log_every_n_steps=interval)


def test_a_gathered_update_names_all_its_batches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of step 3 is not finite, .*: batch 4, batch 5 "):
        fit(Poisoned(3, "gradient"), tmp_path, accumulate_grad_batches=2, log_every_n_steps=1)


def test_noting_does_not_wait_for_the_device() -> None:
    guard, trainer = FiniteGuard(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model = BoringModel()
    guard.on_train_start(trainer, model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    loss = model(torch.ones(1, 32)).sum()
    loss.backward()
    trainer.log_every_n_steps = 0
    with HostWaits() as waits:
        guard.on_train_batch_start(trainer, model, None, 0)
        guard.on_before_optimizer_step(trainer, model, optimizer)
        guard.on_train_batch_end(trainer, model, {"loss": loss}, None, 0)
    assert not waits.counts
