"""Guards of the gradients: their length is logged, and updates whose loss or gradient is not finite are skipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from metis_lightning.callbacks.checkpoints import on_all_processes, run_checkpoints, shown
from metis_lightning.errors import UserError
from metis_lightning.files import atomic_path

REPORT = "non_finite.jsonl"
_MOST_IDS = 8


def gradient_norm(optimizer: Optimizer) -> Tensor:
    """Return the Euclidean norm over all gradients of an optimizer's parameters, over all shards of them."""
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


class GradientNorm(Callback):
    """Logs `train/grad_norm`, the gradients' norm before clipping; a second optimizer's is `train/grad_norm_1`."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure and log."""
        index = trainer.optimizers.index(optimizer)
        pl_module.log(f"train/grad_norm{f'_{index}' if index else ''}", gradient_norm(optimizer))


class FiniteGuard(Callback):
    """Skips each update whose loss or gradient is not finite, and ends the run after `most` of them in a row.

    A fused optimizer skips on the device; for another one the host looks at each gradient, which waits for a GPU. Which
    updates were skipped is read every `log_every_n_steps`, before every save or validation, and at the end: by all
    processes at once, which so stop together. Gradients of a scaled loss (16-mixed) are the scaler's, which skips, too.
    """

    def __init__(self, most: int = 10) -> None:
        if most < 1:
            raise UserError(f"FiniteGuard: most {most} must be at least 1")
        self.most, self.skipped, self._in_a_row = most, 0, 0
        # Of updates that were not looked at yet: whether the loss was bad here, or the gradient, and the items.
        self._is_bad, self._ids = dict[int, Tensor](), dict[int, list[str]]()
        self._update = 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """Note which items the update sees."""
        self._update = trainer.global_step + 1
        self._ids.setdefault(self._update, []).extend(getattr(batch, "ids", None) or [f"batch {batch_idx}"])
        self._is_bad.setdefault(self._update, torch.zeros(2, dtype=torch.bool, device=pl_module.device))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Let a loss that is not finite have no finite gradient, so that no process makes an update of it."""
        if getattr(trainer.precision_plugin, "scaler", None) is None and loss.requires_grad:
            loss.register_hook(lambda gradient: torch.where(loss.detach().isfinite(), gradient, torch.nan))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradients as they are before clipping, and leave none where one is not finite."""
        if getattr(trainer.precision_plugin, "scaler", None) is not None:
            return
        is_bad = ~gradient_norm(optimizer).isfinite()
        self._is_bad[self._update][1] |= is_bad
        # Asked of the groups: those of a checkpoint say how the step is done, whatever the optimizer was made with.
        if all(group.get("fused") for group in optimizer.param_groups):
            # As a scaler of gradients tells it.
            vars(optimizer)["found_inf"] = is_bad.float()
        elif is_bad:
            for parameter in (p for group in optimizer.param_groups for p in group["params"]):
                parameter.grad = None

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: object, *_: object) -> None:
        """Look at the loss."""
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._is_bad[self._update][0] |= ~loss.detach().isfinite().all()
        interval = getattr(trainer, "log_every_n_steps", 0)
        if interval and trainer.global_step % interval == 0:
            self.check(trainer)
            if self.skipped:
                pl_module.log("train/skipped_updates", float(self.skipped))

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
        """Report the updates that were skipped; a `UserError` if there were too many in a row."""
        done = [update for update in self._is_bad if update <= trainer.global_step]
        if not done:
            return
        own = torch.stack([self._is_bad.pop(update) for update in done]).cpu()
        skipped = own.any(dim=1).int().to(trainer.strategy.root_device)
        if trainer.world_size > 1:
            # Not the strategy's reduction, which waits for all processes at a barrier first.
            torch.distributed.all_reduce(skipped, torch.distributed.ReduceOp.MAX)
        found, longest = dict[int, list[Any]](), 0
        for update, is_skipped, (bad_loss, _) in zip(done, skipped.tolist(), own.tolist(), strict=True):
            ids = self._ids.pop(update)
            self.skipped, self._in_a_row = self.skipped + is_skipped, (self._in_a_row + 1) * is_skipped
            longest = max(longest, self._in_a_row)
            if is_skipped and self._in_a_row <= self.most:
                # Each process's part in the update: the ids of its items, and whether its own loss was finite.
                found[update] = [{"process": trainer.global_rank, "loss_is_finite": not bad_loss, "ids": ids}]
        if not found:
            return
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(parts, found)
            found = {update: [part[update][0] for part in parts] for update in found}
        # Those whose loss was not finite; all if it was the gradient alone.
        found = {update: [b for b in every if not b["loss_is_finite"]] or every for update, every in found.items()}
        homes = (callback.home(trainer) for callback in run_checkpoints(trainer))
        path = next(homes, Path(trainer.log_dir or trainer.default_root_dir)) / REPORT
        on_all_processes(trainer, lambda: _append(path, found))
        if longest >= self.most:
            raise UserError(_stopped(trainer, longest, found, path))
        rank_zero_warn(f"{_described(found)}: skipped, {self.skipped} by now (all in {shown(path)})")


def _append(path: Path, found: Mapping[int, Sequence[Mapping[str, Any]]]) -> None:
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = [json.dumps({"step": step, "batches": batches}) + "\n" for step, batches in found.items()]
    with atomic_path(path) as temporary:
        temporary.write_text(before + "".join(lines), encoding="utf-8")


def _described(found: Mapping[int, Sequence[Mapping[str, Any]]]) -> str:
    batches = [batch for every in found.values() for batch in every]
    what = "gradient" if all(batch["loss_is_finite"] for batch in batches) else "loss"
    ids = [name for batch in batches for name in batch["ids"]]
    some = ", ".join(ids[:_MOST_IDS]) + (f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else "")
    first, last = min(found), max(found)
    steps = f"step {first}" if first == last else f"{len(found)} of the steps {first} to {last}"
    return f"the {what} of {steps} is not finite, of the items {some}"


def _stopped(trainer: Trainer, count: int, found: Mapping[int, Sequence[Mapping[str, Any]]], report: Path) -> str:
    saved = [Path(getattr(callback, "last_model_path", "")) for callback in trainer.checkpoint_callbacks]
    before = next((f"go on from {shown(path)}" for path in saved if path.is_file()), "nothing was saved before")
    return (
        f"the run stopped after {count} updates in a row that were skipped: {_described(found)} (all in "
        f"{shown(report)}); {before}: lower the learning rate, or look at these items"
    )
