"""Guards of the gradients: their length is logged, and a run stops at the first loss or gradient that is not finite."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from metis_lightning.callbacks.checkpoints import on_all_processes, run_checkpoints, shown
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path

REPORT = "non_finite.json"
_NEVER = torch.iinfo(torch.int64).max
_MOST_IDS = 8


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the Euclidean norm over all gradients of an optimizer's parameters."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


class GradientNorm(Callback):
    """Logs `train/grad_norm`, the gradients' norm before clipping; a second optimizer's is `train/grad_norm_1`."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure and log."""
        index = trainer.optimizers.index(optimizer)
        pl_module.log(f"train/grad_norm{f'_{index}' if index else ''}", gradient_norm(optimizer))


class FiniteGuard(Callback):
    """Notes on the device the first update whose loss or gradient is not finite, and reads that now and then.

    Reading waits for the device: it is done every `log_every_n_steps` updates, before every save or validation, and at
    the end, by all processes at once, which stop together. The gradients of a scaled loss (16-mixed) are the scaler's.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing was wrong yet."""
        self._first_loss = torch.tensor(_NEVER, device=pl_module.device)
        self._first_gradient = self._first_loss.clone()
        self._ids: dict[int, list[str]] = {}
        self._update = trainer.global_step + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note which items the update sees."""
        self._update = trainer.global_step + 1
        self._ids.setdefault(self._update, []).extend(getattr(batch, "ids", None) or [f"batch {batch_idx}"])

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradients as they are before clipping."""
        if getattr(trainer.precision_plugin, "scaler", None) is None:
            self._note(self._first_gradient, gradient_norm(optimizer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object) -> None:
        """Look at the loss."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._note(self._first_loss, loss.detach())
        interval = getattr(trainer, "log_every_n_steps", 0)
        if interval and trainer.global_step % interval == 0:
            self.check(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read before a validation within training."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.check(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read before a save."""
        self.check(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read at the end."""
        self.check(trainer)

    def check(self, trainer: Trainer) -> None:
        """Stop the run if an update was not finite; a `UserError` names its items, of which a report is written."""
        if not hasattr(self, "_ids"):
            return
        own_loss, own_gradient = torch.stack([self._first_loss, self._first_gradient]).tolist()
        first = min(own_loss, own_gradient)
        if trainer.world_size > 1:
            # Not the strategy's reduction, which waits for all processes at a barrier first.
            smallest = torch.tensor(first, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(smallest, torch.distributed.ReduceOp.MIN)
            first = int(smallest)
        if first == _NEVER:
            # Items of updates that were fine need not be remembered.
            self._ids = {self._update: self._ids.get(self._update, [])}
            return
        # Each process's part in the update: the ids of its items, and whether its own loss was finite.
        own = {"process": trainer.global_rank, "loss_is_finite": own_loss != first, "ids": self._ids.get(first, [])}
        batches: list[Any] = [own]
        if trainer.world_size > 1:
            batches = [None] * trainer.world_size
            torch.distributed.all_gather_object(batches, own)
        # Those whose loss was not finite; all if it was the gradient alone.
        batches = [batch for batch in batches if not batch["loss_is_finite"]] or batches
        homes = (callback.home(trainer) for callback in run_checkpoints(trainer))
        path = next(homes, Path(trainer.log_dir or trainer.default_root_dir)) / REPORT

        def write_report() -> None:
            with atomic_path(path) as temporary:
                temporary.write_text(json.dumps({"step": first, "batches": batches}, indent=1), encoding="utf-8")

        on_all_processes(trainer, write_report)
        raise UserError(_message(trainer, first, batches, path))

    def _note(self, first: Tensor, value: Tensor) -> None:
        # Set once, and without waiting for either tensor.
        here = torch.where(value.isfinite().all(), _NEVER, self._update).to(first.device)
        torch.minimum(first, here, out=first)


def _message(trainer: Trainer, step: int, batches: Sequence[dict[str, Any]], report: Path) -> str:
    what = "gradient" if all(batch["loss_is_finite"] for batch in batches) else "loss"
    ids = [name for batch in batches for name in batch["ids"]]
    some = ", ".join(ids[:_MOST_IDS]) + (f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else "")
    saved = [Path(getattr(callback, "last_model_path", "")) for callback in trainer.checkpoint_callbacks]
    before = next((f"{shown(path)} is from before" for path in saved if path.is_file()), "nothing was saved before")
    return (
        f"the {what} of step {step} is not finite, so the run stopped; its batch: {some} (all in {shown(report)}); "
        f"{before}: lower the learning rate, or look at these items"
    )
