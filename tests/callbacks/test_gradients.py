"""An update that is not finite is skipped and told, without waiting for the device at each step; many end a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel

from metis_lightning.callbacks.gradients import FiniteGuard
from metis_lightning.errors import UserError
from sections.host_waits import HostWaits


class Poisoned(BoringModel):
    """Its loss, or the gradient of it, is not finite in some steps; it notes its weights and their moments."""

    def __init__(self, steps: range, what: str, fused: bool = False) -> None:
        super().__init__()
        self.steps, self.what, self.fused = steps, what, fused
        self.states: list[list[torch.Tensor]] = []

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = self.layer(batch).square().sum()
        if self.global_step + 1 not in self.steps:
            return loss
        if self.what == "constant":
            return loss + float("inf")
        # The root's derivative is infinite at 0.
        return loss * float("nan") if self.what == "loss" else loss + (self.layer.weight * 0).sum().sqrt()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=self.fused)

    def on_train_batch_end(self, *_: object) -> None:
        slots = [value for state in self.optimizers().state.values() for value in state.values()]
        self.states.append([value.detach().clone() for value in (*self.parameters(), *slots)])


def fit(
    model: BoringModel, folder: Path, most: int = 1, more: Sequence[Callback] = (), **settings: object
) -> FiniteGuard:
    guard = FiniteGuard(most)
    settings = {"log_every_n_steps": 1} | settings
    Trainer(
        max_steps=20,
        accelerator="cpu",
        callbacks=[guard, *more],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        limit_val_batches=0,
        **settings,
    ).fit(model)
    return guard


@pytest.mark.parametrize("what", ["loss", "gradient", "constant"])
@pytest.mark.parametrize("fused", [False, True])
def test_a_skipped_update_changes_nothing_and_the_next_goes_on(what: str, fused: bool, tmp_path: Path) -> None:
    model = Poisoned(range(7, 9), what, fused)
    with pytest.warns(UserWarning, match="of step 7 is not finite, of the items batch 6: skipped, 1 by now"):
        guard = fit(model, tmp_path, most=3)
    assert guard.skipped == 2
    same = [all(map(torch.equal, *pair)) for pair in zip(model.states, model.states[1:], strict=False)]
    assert [step + 2 for step, is_same in enumerate(same) if is_same] == [7, 8]
    assert all(value.isfinite().all() for value in model.states[-1])
    lines = [json.loads(line) for line in (tmp_path / "non_finite.jsonl").read_text().splitlines()]
    assert [(line["step"], line["batches"][0]["ids"]) for line in lines] == [(7, ["batch 6"]), (8, ["batch 7"])]
    assert {batch["loss_is_finite"] for line in lines for batch in line["batches"]} == {what == "gradient"}


@pytest.mark.parametrize("was_fused", [True, False])
def test_a_run_goes_on_as_its_checkpoint_says_not_as_it_was_made(was_fused: bool, tmp_path: Path) -> None:
    """The groups of a checkpoint replace those of the optimizer, `fused` among them."""
    model = Poisoned(range(7, 9), "loss", fused=not was_fused)

    class Loading(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            made = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=was_fused)
            trainer.optimizers[0].load_state_dict(made.state_dict())

    assert fit(model, tmp_path, most=3, more=[Loading()]).skipped == 2
    assert all(value.isfinite().all() for value in model.states[-1])


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("interval", [1, 5, 1000])
def test_many_in_a_row_end_the_run_whenever_it_is_looked_at(what: str, interval: int, tmp_path: Path) -> None:
    expected = f"stopped after .* in a row .*: the {what} of .*(step 8|7 to 8) is not finite, .* batch 7 "
    with pytest.raises(UserError, match=expected):
        fit(Poisoned(range(7, 20), what), tmp_path, most=2, log_every_n_steps=interval)
    lines = (tmp_path / "non_finite.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [7, 8]


def test_those_that_are_not_in_a_row_do_not_end_it(tmp_path: Path) -> None:
    assert fit(Poisoned(range(2, 20, 2), "loss"), tmp_path, most=2).skipped == 9


def test_a_gathered_update_names_all_its_batches(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of step 3 is not finite, of the items batch 4, batch 5 "):
        fit(Poisoned(range(3, 4), "gradient"), tmp_path, accumulate_grad_batches=2)


def test_noting_does_not_wait_for_the_device() -> None:
    guard, trainer = FiniteGuard(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model = BoringModel()
    optimizer = torch.optim.AdamW(model.parameters(), 0.1, fused=True)
    trainer.log_every_n_steps = 0
    with HostWaits() as waits:
        guard.on_train_batch_start(trainer, model, None, 0)
        loss = model(torch.ones(1, 32)).sum()
        guard.on_before_backward(trainer, model, loss)
        loss.backward()
        guard.on_before_optimizer_step(trainer, model, optimizer)
        optimizer.step()
        guard.on_train_batch_end(trainer, model, {"loss": loss}, None, 0)
    assert not waits.counts
