"""The length of the gradient, before clipping."""

from __future__ import annotations

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class GradientNorm(Callback):
    """Logs `train/grad_norm`, the Euclidean norm over all gradients of an update before they are clipped.

    A second optimizer's, such as that of discriminators, is `train/grad_norm_1`.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure and log."""
        values = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        index = trainer.optimizers.index(optimizer)
        pl_module.log(f"train/grad_norm{f'_{index}' if index else ''}", torch.nn.utils.get_total_norm(values))
