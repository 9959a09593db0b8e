"""The length of the gradient, before clipping."""

from __future__ import annotations

import torch
from lightning import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class GradientNorm(Callback):
    """Logs `train/grad_norm`, the Euclidean norm over all gradients of an update before they are clipped."""

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Measure and log."""
        values = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        pl_module.log("train/grad_norm", torch.nn.utils.get_total_norm(values))
