"""A moving average of the trainable weights in the checkpoint; Lightning's own would copy the frozen ones, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from metis_lightning.errors import UserError
from metis_lightning.state_dicts import difference
from metis_lightning.weights.checkpoint import read_checkpoint


class EMA(Callback):
    """Averages the trainable weights, θ' ← d·θ' + (1 - d)·θ after each update with d = min(decay, (1 + n)/(10 + n)).

    `state_dict` of the checkpoint stays the raw weights; the average is under `ema`. The weights come back in
    `on_validation_end`: a callback that wants the average there must stand before this one.

    Args:
        decay: d, once n, the number of updates, is large.
        validate_with: which weights validation uses; export and inference take the same unless told otherwise.
    """

    def __init__(self, decay: float = 0.999, validate_with: Literal["ema", "raw"] = "ema") -> None:
        if not 0 <= decay < 1:
            raise UserError(f"EMA: decay {decay} must lie in [0, 1)")
        if validate_with not in ("ema", "raw"):
            raise UserError(f"EMA: validate_with {validate_with!r}: choose 'ema' or 'raw'")
        self.decay, self.validate_with = decay, validate_with
        self._average, self._raw = dict[str, Tensor](), dict[str, Tensor]()
        self._updates = self._step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the average at the weights, unless a checkpoint brought one."""
        average = self._average
        self._average = {k: _shared_like(average.get(k, v), v).clone() for k, v in _trained(pl_module).items()}
        self._step = trainer.global_step

    @torch.no_grad()
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: object) -> None:
        """Move the average, if the weights were updated."""
        # Within a gathered update nothing was moved yet.
        if trainer.global_step == self._step:
            return
        # A fixed decay would hold on to the first weights for long.
        decay = min(self.decay, (1 + self._updates) / (10 + self._updates))
        for name, value in _trained(pl_module).items():
            self._average[name].lerp_(value, 1 - decay)
        self._step, self._updates = trainer.global_step, self._updates + 1

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in the weights' place."""
        # Lightning hands a checkpoint to callbacks in `fit` only.
        if self.validate_with == "ema" and trainer.state.fn != TrainerFn.FITTING and trainer.ckpt_path is not None:
            checkpoint = read_checkpoint(Path(trainer.ckpt_path))
            if not checkpoint.get("ema"):
                raise UserError(f"checkpoint {trainer.ckpt_path}: it holds no EMA weights; set validate_with: raw")
            self.on_load_checkpoint(trainer, pl_module, checkpoint)
        if self.validate_with == "ema" and self._average:
            self._raw = {name: value.clone() for name, value in _trained(pl_module).items()}
            for name, value in self._average.items():
                pl_module.get_parameter(name).data.copy_(value)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the weights back."""
        for name, value in self._raw.items():
            pl_module.get_parameter(name).data.copy_(value)
        self._raw = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the weights back, before anything saves them."""
        self.on_validation_end(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Add the average, and which weights validation uses."""
        # A copy: on the device the average moves on while a file is written.
        if self._average:
            average = {
                name: value.full_tensor() if isinstance(value, DTensor) else value.clone()
                for name, value in self._average.items()
            }
            checkpoint["ema"] = {"weights": average, "updates": self._updates, "validate_with": self.validate_with}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with a checkpoint's average if it has one; a `UserError` if that is of other weights than these."""
        if ema := checkpoint.get("ema"):
            if text := difference(_trained(pl_module), ema["weights"]):
                raise UserError(f"the checkpoint's EMA weights do not fit: {text}")
            self._average, self._updates = dict(ema["weights"]), ema["updates"]


def _shared_like(value: Tensor, weight: Tensor) -> Tensor:
    """Return a value where a weight is, and shared by processes as it is."""
    if not isinstance(weight, DTensor) or isinstance(value, DTensor):
        return value.to(weight.device)
    # Each process has the whole of a checkpoint's values.
    return distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements, src_data_rank=None)


def _trained(module: LightningModule) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in module.named_parameters() if value.requires_grad}
